"""``captioner gate``: whether a model is good enough to become the current one."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import GateOptions


def _run(options: GateOptions) -> None:
    from captioner_core.models.gate import gate

    print(gate(options.models, options.model, options.split, options.margin).describe())


register = subcommand(
    "gate",
    GateOptions,
    _run,
    help="whether a model is good enough to become the current one",
    description=(
        "Compares the CIDEr that 'captioner evaluate' recorded for a model with that of the "
        "current one. The exit code is 1 if it is too low."
    ),
)
