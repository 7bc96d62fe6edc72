"""``captioner models``: the models of a folder, the current one, and how it became that."""

from __future__ import annotations

import argparse
from typing import Any

from captioner_core.security.allowed_roots import uri_argument
from captioner_core.security.redaction import escape_control_chars


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "models",
        help="the models of a folder, and which is the current one",
        description="Lists the models of a folder, with * at the current one, then every change of it.",
    )
    parser.add_argument("models", type=uri_argument, metavar="DIR", help="folder of models")
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    from captioner_core.models.registry import PROMOTE, ModelEntry, list_models, read_pointer

    pointer = read_pointer(namespace.models)
    models = list_models(namespace.models)
    if pointer.current is not None and pointer.current not in {model.name for model in models}:
        models.append(ModelEntry(pointer.current, "missing", None))  # jobs given this folder fail
    width = max([len(escape_control_chars(model.name)) for model in models], default=4)
    id_width = max([len(model.model_id or "unknown") for model in models], default=8)
    print(f"  {'name':{width}}  {'model_id':{id_width}}  dev CIDEr")
    for model in models:
        mark = "*" if model.name == pointer.current else " "
        print(
            f"{mark} {escape_control_chars(model.name):{width}}  {model.model_id or 'unknown':{id_width}}  {_figure(model.cider):>9}"
        )
    if pointer.history:
        print("\nhistory")
    for change in pointer.history:
        verb = "promoted" if change.action == PROMOTE else "undone, back to"
        before = f", after {change.previous!r}" if change.previous else ""
        print(
            f"  {change.utc}  {verb} {change.model!r} {change.model_id}, dev CIDEr {_figure(change.cider)}{before}"
        )
    return 0


def _figure(cider: float | None) -> str:
    return "-" if cider is None else f"{cider:.3f}"
