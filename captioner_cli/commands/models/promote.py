"""``captioner promote``: which model of a folder of models is the current one."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import PromoteOptions


def _run(options: PromoteOptions) -> None:
    from captioner_core.models.registry import model_name, promote, undo

    if options.model is None:
        print(f"{undo(options.models)!r} is the current model again")
        return
    name = model_name(options.models, options.model)
    changed = promote(options.models, name)
    print(f"{name!r} is the current model" + ("" if changed else " already; nothing changed"))


register = subcommand(
    "promote",
    PromoteOptions,
    _run,
    help="make a model the current one, or go back to the one before",
    description=(
        "Makes a model the current one of a folder of models. Commands that are given that "
        "folder as --model then use it. If it is current already, nothing changes."
    ),
)
