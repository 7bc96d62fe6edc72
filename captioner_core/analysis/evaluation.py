"""Evaluates a model: captions a split of a dataset and scores the captions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from captioner_core.analysis.caption_metrics import (
    caption_features,
    caption_split,
    has_java,
    measure_reliability,
    record_evaluation,
    references_fingerprint,
    score,
)
from captioner_core.analysis.java_metrics import check_java
from captioner_core.captioning.generated_caption import FeatureCaptioner, GeneratedCaption
from captioner_core.captioning.saved_model import LoadedModel, load_model
from captioner_core.console.progress import advance, progress
from captioner_core.errors import CaptionerError
from captioner_core.features import load_backbone
from captioner_core.io import outputs, storage
from captioner_core.io.json_text import JsonObject
from captioner_core.models.registry import resolve_model
from captioner_core.options import PRETRAINED, EvaluateOptions
from captioner_core.training.dataset import check_same_images, read_captions_by_split

Figures = JsonObject
"""An evaluation as JSON states it; see ``_FIGURE_NAMES``."""
_FIGURE_NAMES = {
    "model_id",
    "dataset",
    "split",
    "images",
    "beam_width",
    "tokenizer",
    "references",
    "scores",
    "reliability",
}
_EVALUATIONS = "evaluations"


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Args:
      figures: What the JSON file states.
      hypotheses: The generated caption of each image.
      references: The human captions of each image.
      record_error: Why the figures could not be recorded in the model's folder, or None.
    """

    figures: Figures
    hypotheses: Mapping[str, str]
    references: Mapping[str, list[str]]
    record_error: CaptionerError | None


def evaluate(options: EvaluateOptions) -> list[Evaluation]:
    """Captions a split of each dataset, scores it, and records the figures in the model's folder.

    Returns:
      One evaluation for each dataset, in the order of the options.

    Raises:
      CaptionerError: A dataset has no such split, an image or a feature of it is missing, or
        the output file may not be written.
    """
    if options.output:
        _check_output(options, options.output)
    references = [_read_references(dataset, options.split) for dataset in options.dataset]
    features = options.features or (None,) * len(options.dataset)
    for dataset, uri in zip(options.dataset, features, strict=True):
        if uri is not None:
            check_same_images(dataset, uri)
    # A broken Java is reported before any work that it would waste.
    check_java()
    model_dir = resolve_model(options.model)
    model = load_model(model_dir)
    from captioner_core.captioning.generator import CaptionGenerator

    generator = CaptionGenerator(model, options.beam_width)
    evaluations = [
        _evaluate_dataset(options, model, generator, *of_dataset)
        for of_dataset in zip(options.dataset, features, references, strict=True)
    ]
    # Nothing is recorded unless every dataset could be evaluated.
    for number, evaluation in enumerate(evaluations):
        error = _record_in_model(model_dir, evaluation.figures)
        # By this entry a file is recognised when it is to be replaced later.
        figures = {**evaluation.figures, "software": outputs.PROGRAM}
        evaluations[number] = dataclasses.replace(evaluation, figures=figures, record_error=error)
    if options.output:
        _write(options.output, [evaluation.figures for evaluation in evaluations])
    return evaluations


def _read_references(dataset: str, split: str) -> dict[str, list[str]]:
    references = read_captions_by_split(dataset).get(split)
    if not references:
        raise CaptionerError(f"dataset {dataset!r} has no split {split!r}; choose another --split")
    return references


def _evaluate_dataset(
    options: EvaluateOptions,
    model: LoadedModel,
    generator: FeatureCaptioner,
    dataset: str,
    features: str | None,
    references: Mapping[str, list[str]],
) -> Evaluation:
    backbone = model.config.backbone
    captions = _caption_images(generator, backbone, dataset, features, list(references))
    hypotheses = {image_id: caption.text for image_id, caption in captions.items()}
    scores = score(hypotheses, references)
    tokenizer = "PTB" if has_java() else "captioner (no Java, so no METEOR either)"
    figures: Figures = {
        "model_id": model.model_id,
        "dataset": dataset,
        "split": options.split,
        "images": len(hypotheses),
        "beam_width": options.beam_width or model.config.beam_width,
        "tokenizer": tokenizer,
        "references": references_fingerprint(references, tokenizer, options.split),
        "scores": dict(scores.corpus),
        "intervals": {name: list(interval) for name, interval in scores.intervals.items()},
        "reliability": measure_reliability(captions, scores.cider),
    }
    return Evaluation(figures, hypotheses, references, record_error=None)


def _caption_images(
    generator: FeatureCaptioner,
    backbone: str,
    dataset: str,
    features: str | None,
    image_ids: list[str],
) -> dict[str, GeneratedCaption]:
    captioned: Iterator[tuple[str, GeneratedCaption]]
    if features is not None:
        captioned = caption_features(features, image_ids, backbone, generator)
    else:
        captioned = caption_split(dataset, image_ids, load_backbone("xception"), generator)
    captions = {}
    with progress("evaluate", len(image_ids)):
        for image_id, caption in captioned:
            captions[image_id] = caption
            advance(1)
    return captions


def _record_in_model(model_dir: str, figures: Figures) -> CaptionerError | None:
    """Records figures in a model's folder. Returns why it failed, or None.

    A folder that cannot be written to does not stop the evaluation. The model that comes with
    the package is never written to.
    """
    if model_dir == PRETRAINED:
        return None
    try:
        record_evaluation(model_dir, figures)
    except CaptionerError as error:
        return error
    return None


def _check_output(options: EvaluateOptions, output: str) -> None:
    """Refuses, before any work, an output file that may not be written.

    Raises:
      CaptionerError: The file is an input, exists and was not made by captioner, or cannot be
        written.
    """
    if storage.is_remote(output):
        if storage.exists(output) and not _is_figures(storage.read_bytes(output)):
            raise CaptionerError(
                f"--output {output!r} exists and captioner did not make it; name another file"
            )
        return
    inputs = {
        "--model": [options.model],
        "--dataset": options.dataset,
        "--features": options.features,
    }
    outputs.check_output_file(output, is_own=_is_figures, inputs=inputs, makes_parents=True)


def _is_figures(data: bytes) -> bool:
    """Returns whether a JSON file holds the figures of evaluations.

    Earlier versions did not name the program, so a file with exactly their entries counts too.
    """
    figures = outputs.parse_object(data) or {}
    if figures.keys() == _FIGURE_NAMES:
        return True
    has_figures = figures.keys() >= _FIGURE_NAMES or _EVALUATIONS in figures
    return figures.get("software") == outputs.PROGRAM and has_figures


def _write(output: str, evaluations: Sequence[Figures]) -> None:
    """Writes the figures of one dataset as an object, those of several as a list in an object."""
    figures = evaluations[0]
    if len(evaluations) > 1:
        figures = {_EVALUATIONS: list(evaluations), "software": outputs.PROGRAM}
    if storage.is_remote(output):
        storage.write_json(output, figures)
        return
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    with outputs.replacing(output, is_own=_is_figures, makes_parents=True) as staged:
        staged.write_text(text, encoding="utf-8")
