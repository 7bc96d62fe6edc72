"""``captioner promote``: which model of a folder of models is the current one."""

import argparse
from typing import Any

from captioner_core.options import PromoteOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "promote",
        help="make a model the current one, or go back to the one before",
        description=(
            "Makes a model the current one of a folder of models. Commands that are given that "
            "folder as --model then use it. If it is current already, nothing changes."
        ),
    )
    add_arguments(parser, PromoteOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(PromoteOptions, namespace)
    from captioner_core.models.registry import model_name, promote, undo

    if options.model is None:
        print(f"{undo(options.models)!r} is the current model again")
        return 0
    name = model_name(options.models, options.model)
    changed = promote(options.models, name)
    print(f"{name!r} is the current model" + ("" if changed else " already; nothing changed"))
    return 0
