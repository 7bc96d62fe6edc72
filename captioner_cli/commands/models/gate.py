"""``captioner gate``: whether a model is good enough to become the current one."""

import argparse
from typing import Any

from captioner_core.options import GateOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "gate",
        help="whether a model is good enough to become the current one",
        description=(
            "Compares the CIDEr that 'captioner evaluate' recorded for a model with that of the "
            "current one. The exit code is 1 if it is too low."
        ),
    )
    add_arguments(parser, GateOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(GateOptions, namespace)
    from captioner_core.models.gate import gate

    print(gate(options.models, options.model, options.split, options.margin).describe())
    return 0
