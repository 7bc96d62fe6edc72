"""``captioner calibrate``: which cosine of an encoder is worth a score of 0.9."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import CalibrateOptions


def _run(options: CalibrateOptions) -> None:
    from captioner_core.analysis.calibrating import calibrate

    report = calibrate(options)
    print(f"{report.pairs} pairs, {report.right_share:.3%} of which are right")
    print(
        f"{options.encoder}: cosine {report.calibration.cosine:.4f} becomes 0.9, which "
        f"{report.reached} pairs reach"
    )
    print(f"{report.precision:.1%} of these are right: {report.recall:.2%} of all that are")


register = subcommand(
    "calibrate",
    CalibrateOptions,
    _run,
    help="fit the cosine at which an encoder's matches become right",
    description=(
        "Finds the least cosine above which four of five pairs of captions are right to match, "
        "as another encoder and the other captions of the images tell; it becomes the score "
        "0.9."
    ),
)
