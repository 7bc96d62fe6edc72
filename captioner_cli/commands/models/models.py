"""``captioner models``: the models of a folder, the current one, and how it became that."""

import argparse
from typing import Any

from captioner_core.security import allowed_roots, redaction


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "models",
        help="the models of a folder, and which is the current one",
        description="Lists the models of a folder, with * at the current one, then its history.",
    )
    parser.add_argument(
        "models", type=allowed_roots.uri_argument, metavar="DIR", help="folder of models"
    )
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    from captioner_core.models.registry import PROMOTE, ModelEntry, list_models, read_pointer

    pointer = read_pointer(namespace.models)
    models = list_models(namespace.models)
    if pointer.current is not None and pointer.current not in {model.name for model in models}:
        # Jobs that are given this folder fail, so the list must show why.
        models.append(ModelEntry(pointer.current, "missing", None))
    names = [redaction.escape_control_chars(model.name) for model in models]
    ids = [model.model_id or "unknown" for model in models]
    width = max(map(len, names), default=4)
    id_width = max(map(len, ids), default=8)
    print(f"  {'name':{width}}  {'model_id':{id_width}}  dev CIDEr")
    for model, name, model_id in zip(models, names, ids, strict=True):
        mark = "*" if model.name == pointer.current else " "
        cider = _cider_text(model.cider)
        print(f"{mark} {name:{width}}  {model_id:{id_width}}  {cider:>9}")
    if pointer.history:
        print("\nhistory")
    for change in pointer.history:
        verb = "promoted" if change.action == PROMOTE else "undone, back to"
        before = f", after {change.previous!r}" if change.previous else ""
        cider = _cider_text(change.cider)
        promoted = f"{change.model!r} {change.model_id}"
        print(f"  {change.utc}  {verb} {promoted}, dev CIDEr {cider}{before}")
    return 0


def _cider_text(cider: float | None) -> str:
    return "-" if cider is None else f"{cider:.3f}"
