"""Evaluates a model: captions a split of a dataset and scores the captions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from captioner_core.captioning.saved_model import LoadedModel, load_model
from captioner_core.console.progress import advance, progress
from captioner_core.errors import CaptionerError
from captioner_core.features import load_backbone
from captioner_core.io import json_text, outputs, storage
from captioner_core.models.registry import resolve_model
from captioner_core.options import PRETRAINED, EvaluateOptions
from captioner_core.training.dataset import check_same_images, read_captions_by_split

if TYPE_CHECKING:  # This module loads TensorFlow.
    from captioner_core.captioning.generator import GeneratedCaption

Figures = json_text.JsonObject
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


def evaluate(options: EvaluateOptions) -> Evaluation:
    """Captions a split, scores the captions, and records the figures in the model's folder.

    Raises:
      CaptionerError: The dataset has no such split, an image or a feature of it is missing, or
        the output file may not be written.
    """
    if options.output:
        _check_output(options, options.output)
    references = read_captions_by_split(options.dataset).get(options.split)
    if not references:
        raise CaptionerError(
            f"dataset {options.dataset!r} has no split {options.split!r}; choose another --split"
        )
    if options.features:
        check_same_images(options.dataset, options.features)
    # A broken Java is reported before any work that it would waste.
    check_java()
    model_dir = resolve_model(options.model)
    model = load_model(model_dir)
    captions = _caption_images(options, model, list(references))
    hypotheses = {image_id: caption.text for image_id, caption in captions.items()}
    scores = score(hypotheses, references)
    tokenizer = "PTB" if has_java() else "captioner (no Java, so no METEOR either)"
    figures: Figures = {
        "model_id": model.model_id,
        "dataset": options.dataset,
        "split": options.split,
        "images": len(hypotheses),
        "beam_width": options.beam_width or model.config.beam_width,
        "tokenizer": tokenizer,
        "references": references_fingerprint(references, tokenizer, options.split),
        "scores": dict(scores.corpus),
        "reliability": measure_reliability(captions, scores.cider),
    }
    record_error = _record_in_model(model_dir, figures)
    # By this entry the file is recognised when it is to be replaced later.
    figures["software"] = outputs.PROGRAM
    if options.output:
        _write(options.output, figures)
    return Evaluation(figures, hypotheses, references, record_error)


def _caption_images(
    options: EvaluateOptions, model: LoadedModel, image_ids: list[str]
) -> dict[str, GeneratedCaption]:
    from captioner_core.captioning.generator import CaptionGenerator

    generator = CaptionGenerator(model, options.beam_width)
    captioned: Iterator[tuple[str, GeneratedCaption]]
    if options.features:
        captioned = caption_features(options.features, image_ids, model.config.backbone, generator)
    else:
        captioned = caption_split(options.dataset, image_ids, load_backbone("xception"), generator)
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
    inputs = {"--model": [options.model], "--dataset": [options.dataset]}
    if options.features is not None:
        inputs["--features"] = [options.features]
    outputs.check_output_file(output, is_own=_is_figures, inputs=inputs, makes_parents=True)


def _is_figures(data: bytes) -> bool:
    """Returns whether a JSON file holds the figures of an evaluation.

    Earlier versions did not name the program, so a file with exactly their entries counts too.
    """
    figures = outputs.parse_object(data) or {}
    return figures.keys() == _FIGURE_NAMES or (
        figures.get("software") == outputs.PROGRAM and figures.keys() >= _FIGURE_NAMES
    )


def _write(output: str, figures: Figures) -> None:
    if storage.is_remote(output):
        storage.write_json(output, figures)
        return
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    with outputs.replacing(output, is_own=_is_figures, makes_parents=True) as staged:
        staged.write_text(text, encoding="utf-8")
