"""``captioner export``: trained models to one small folder to hand on."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.options import add_arguments, from_namespace, option


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export."""

    model: tuple[str, ...] = option(
        (), help="model folder; repeated, they become an ensemble whose probabilities are averaged", metavar="MODEL_DIR"
    )
    output: str = option(help="model folder to make", metavar="MODEL_DIR")

    def __post_init__(self) -> None:
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
    from captioner_core.model.folder import export_model

    print(f"model {export_model(options.model, options.output)} in {options.output}")
    return 0
