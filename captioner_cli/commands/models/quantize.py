"""``captioner quantize``: the feature network in int8."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import QuantizeOptions


def _run(options: QuantizeOptions) -> None:
    from captioner_core.analysis.quantizing import quantize

    report = quantize(options)
    print(f"{report.images} images of split {options.split}, seed {options.seed}")
    print(f"On {report.agreement.text()}.")
    print(f"wrote {options.output}")


register = subcommand(
    "quantize",
    QuantizeOptions,
    _run,
    help="make the int8 form of the feature network",
    description=(
        "Looks at images of a dataset to find the ranges in which the feature network computes, "
        "chooses int8 numbers that cover them, and compares the result with float32 on images of "
        "another split. The package's own int8 network was made so."
    ),
)
