"""``captioner confidence``: how certain a model's captions are."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import ConfidenceOptions


def _run(options: ConfidenceOptions) -> None:
    from captioner_core.analysis.confidence_fitting import fit_confidence

    rows = fit_confidence(options)
    print("dev images   confidence   acceptable")
    for row in rows:
        print(f"{row.images:10} {row.confidence:12.1%} {row.acceptable:12.1%}")


register = subcommand(
    "confidence",
    ConfidenceOptions,
    _run,
    help="fit how certain a model's captions are",
    description=(
        "Captions the dev images and fits, on half of them, the probability that a caption is "
        "acceptable: that its CIDEr is at least 0.2. The table is of the other half, the least "
        "certain captions first. The model's folder is changed."
    ),
)
