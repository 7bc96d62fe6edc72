"""``captioner evaluate``: a model's captions against human references."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from captioner_core.errors import CaptionerError
from captioner_core.io import outputs
from captioner_core.options import (
    PRETRAINED,
    add_arguments,
    beam_width_option,
    check_fields,
    from_namespace,
    option,
    uri_option,
)
from captioner_core.security.redaction import escape_control_chars

if TYPE_CHECKING:
    from captioner_core.captioning.generator import GeneratedCaption
    from captioner_core.captioning.saved_model import LoadedModel


_FIGURES = {
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


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of an evaluation."""

    model: str = uri_option(
        help="model folder, or a folder of models: its current one",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    dataset: str = uri_option(help="dataset folder", metavar="DIR")
    split: str = option("dev", help="split to caption", choices=("dev", "test"))
    features: str | None = uri_option(
        None,
        help="the dataset's features table, with its grid; extracted anew where not given",
        metavar="URI",
    )
    beam_width: int | None = beam_width_option(
        None, help="hypotheses kept; the model's own choice where not given"
    )
    output: str | None = uri_option(
        None, help="also write the figures to this JSON file", metavar="FILE"
    )
    show: int = option(10, help="captions to show", metavar="N")

    def __post_init__(self) -> None:
        check_fields(self)


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "evaluate",
        help="BLEU, METEOR, ROUGE-L and CIDEr of a model on a dataset's split",
        description="Captions a split of a dataset and scores the captions against all human ones.",
    )
    add_arguments(parser, EvaluateOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(EvaluateOptions, namespace)
    from captioner_core.analysis.caption_metrics import (
        has_java,
        measure_reliability,
        record_evaluation,
        references_fingerprint,
        score,
    )
    from captioner_core.analysis.java_metrics import check_java
    from captioner_core.captioning.saved_model import load_model
    from captioner_core.models.registry import resolve_model
    from captioner_core.training.dataset import check_same_images, read_captions_by_split

    if options.output:
        _check_output(options, options.output)
    references = read_captions_by_split(options.dataset).get(options.split)
    if not references:
        raise CaptionerError(
            f"dataset {options.dataset!r} has no split {options.split!r}; choose another --split"
        )
    if options.features:
        check_same_images(options.dataset, options.features)
    check_java()  # before the work that its failure would waste
    model_dir = resolve_model(options.model)
    model = load_model(model_dir)
    captions = _captions(options, model, list(references))
    hypotheses = {image_id: caption.text for image_id, caption in captions.items()}
    scores = score(hypotheses, references)
    tokenizer = "PTB" if has_java() else "captioner (no Java, so no METEOR either)"
    figures: dict[str, Any] = {
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
    if model_dir != PRETRAINED:  # what comes with the package is not written to
        try:
            record_evaluation(model_dir, figures)
        except CaptionerError as error:
            print(
                escape_control_chars(
                    f"evaluate: the figures were not recorded in the model's folder: {error}"
                ),
                file=sys.stderr,
            )
    figures["software"] = outputs.PROGRAM  # by which the file is known later
    if options.output:
        _write(options.output, figures)
    _show(figures, hypotheses, references, options.show)
    return 0


def _check_output(options: EvaluateOptions, output: str) -> None:
    """Refuses, before any work, a file that may not be written.

    Raises:
      CaptionerError: it is an input, or exists and captioner did not make it, or cannot be written.
    """
    from captioner_core.io import storage

    if not storage.is_remote(output):
        read = {"--model": [options.model], "--dataset": [options.dataset]}
        if options.features is not None:
            read["--features"] = [options.features]
        outputs.check_output_file(output, is_own=_is_figures, inputs=read, makes_parents=True)
    elif storage.exists(output) and not _is_figures(storage.read_bytes(output)):
        raise CaptionerError(
            f"--output {output!r} exists and captioner did not make it; name another file"
        )


def _is_figures(data: bytes) -> bool:
    """Returns whether a JSON file holds the figures of an evaluation; earlier versions did not name the program."""
    figures = outputs.parse_object(data) or {}
    return figures.keys() == _FIGURES or (
        figures.get("software") == outputs.PROGRAM and figures.keys() >= _FIGURES
    )


def _write(output: str, figures: Mapping[str, Any]) -> None:
    from captioner_core.io import storage

    if storage.is_remote(output):
        storage.write_json(output, figures)
        return
    with outputs.replacing(output, is_own=_is_figures, makes_parents=True) as made:
        made.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _captions(
    options: EvaluateOptions, model: LoadedModel, image_ids: list[str]
) -> dict[str, GeneratedCaption]:
    from captioner_core.analysis.caption_metrics import caption_features, caption_split
    from captioner_core.captioning.generator import CaptionGenerator
    from captioner_core.console.progress import advance, progress
    from captioner_core.features import load_backbone

    generator = CaptionGenerator(model, options.beam_width)
    if options.features:
        found = caption_features(options.features, image_ids, model.config.backbone, generator)
    else:
        found = caption_split(options.dataset, image_ids, load_backbone("xception"), generator)
    captions = {}
    with progress("evaluate", len(image_ids)):
        for image_id, caption in found:
            captions[image_id] = caption
            advance(1)
    return captions


def _show(
    figures: Mapping[str, Any],
    hypotheses: dict[str, str],
    references: dict[str, list[str]],
    show: int,
) -> None:
    """A few captions beside a human one, then the table, then all as JSON."""
    apart = max(1, len(hypotheses) // max(1, show))
    for image_id in sorted(hypotheses)[::apart][:show]:
        print(
            escape_control_chars(
                f"{image_id}: {hypotheses[image_id]}  |  {references[image_id][0]}"
            )
        )
    for name, value in figures["scores"].items():
        print(f"{name:8} {100 * value:6.1f}" if name != "CIDEr" else f"{name:8} {value:6.3f}")
    for fifth in figures["reliability"]:
        likely, cider = fifth["word_probability"], fifth["cider"]
        print(
            f"{fifth['images']} images whose words have probability {likely:.3f}: CIDEr {cider:.3f}"
        )
    print(json.dumps(figures))
