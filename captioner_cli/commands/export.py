"""``captioner export``: trained models to one small folder to hand on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.options import (
    PRETRAINED,
    add_arguments,
    beam_width_option,
    check_fields,
    from_namespace,
    option,
    uri_option,
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export."""

    model: tuple[str, ...] = uri_option(
        (),
        help="model folder, or a folder of models: its current one; repeated, they become an ensemble whose "
        "probabilities are averaged",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    output: str = uri_option(help="model folder to make", metavar="MODEL_DIR")
    beam_width: int | None = beam_width_option(
        None, help="hypotheses that searches with it keep; the first model's where not given"
    )
    length_penalty: float | None = option(
        None,
        help="exponent of the length normalisation in searches with it: 0 ranks by probability alone, higher favours "
        "longer captions; the first model's where not given",
        metavar="X",
        limits=(0, 5),
        remedy="0.7 is what training sets",
    )
    joint_weight: float | None = option(
        None,
        help="how much the cosine of image and caption in the joint space counts when one of the beams is chosen; 0 is "
        "not at all; the first model's where not given",
        metavar="X",
        limits=(0, 100),
        remedy="4 suits the model that comes with the package",
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.model:
            raise CaptionerError("no --model given; name at least one model folder")


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="one or several trained models as one, with float16 weights",
        description="Writes a model with float16 weights; several models of different seeds become an ensemble.",
    )
    add_arguments(parser, ExportOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(ExportOptions, namespace)
    from captioner_core.captioning.saved_model import export_model
    from captioner_core.models.registry import resolve_model

    folders = [resolve_model(model) for model in options.model]
    model_id = export_model(
        folders, options.output, options.beam_width, options.length_penalty, options.joint_weight
    )
    print(f"model {model_id} in {options.output}")
    return 0
