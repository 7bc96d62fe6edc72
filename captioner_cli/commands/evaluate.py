"""``captioner evaluate``: a model's captions against human references."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.options import add_arguments, check, from_namespace, option


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Options of an evaluation."""

    model: str = option(help="model folder", metavar="MODEL_DIR")
    dataset: str = option(help="dataset folder", metavar="DIR")
    split: str = option("dev", help="split to caption", choices=("dev", "test"))
    beam_width: int | None = option(None, help="hypotheses kept; the model's own choice where not given", metavar="K")
    output: str | None = option(None, help="also write the figures to this JSON file", metavar="FILE")
    show: int = option(10, help="captions to show", metavar="N")

    def __post_init__(self) -> None:
        in_range = self.beam_width is None or 1 <= self.beam_width <= 20
        check(in_range, "beam_width", self.beam_width, "must be 1 to 20", "leave it out for the model's choice")


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
    from captioner_core import storage
    from captioner_core.backbones import load_backbone
    from captioner_core.evaluation import caption_split, has_java, score
    from captioner_core.model.folder import load_model
    from captioner_core.model.generate import CaptionGenerator
    from captioner_core.progress import advance, progress
    from captioner_core.training.dataset import read_captions_by_split

    references = read_captions_by_split(options.dataset).get(options.split)
    if not references:
        raise CaptionerError(f"dataset {options.dataset!r} has no split {options.split!r}; choose another --split")
    model = load_model(options.model)
    generator = CaptionGenerator(model, options.beam_width)
    hypotheses = {}
    with progress("evaluate", len(references)):
        for image_id, caption in caption_split(options.dataset, list(references), load_backbone("xception"), generator):
            hypotheses[image_id] = caption
            advance(1)
    figures: dict[str, Any] = {
        "model_id": model.model_id,
        "split": options.split,
        "images": len(hypotheses),
        "beam_width": options.beam_width or model.config.beam_width,
        "tokenizer": "PTB" if has_java() else "captioner (no Java, so no METEOR either)",
        "scores": score(hypotheses, references),
    }
    for image_id, caption in list(hypotheses.items())[:: max(1, len(hypotheses) // max(1, options.show))][
        : options.show
    ]:
        print(f"{image_id}: {caption}  |  {references[image_id][0]}")
    for name, value in figures["scores"].items():
        print(f"{name:8} {100 * value:6.1f}" if name != "CIDEr" else f"{name:8} {value:6.3f}")
    print(json.dumps(figures))
    if options.output:
        storage.write_json(options.output, figures)
    return 0
