"""``captioner calibrate``: which cosine of an encoder is worth a score of 0.9."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import CalibrateOptions


def _run(options: CalibrateOptions) -> None:
    from captioner_core.analysis.calibrating import calibrate

    calibration, agreement = calibrate(options)
    print(f"{options.encoder}: cosine {calibration.cosine:.4f} becomes the score 0.9")
    print(f"{agreement.reached} of {agreement.pairs} pairs reach it")
    if not agreement.reached:
        return
    source = "people said" if options.judgements else f"{options.judge} estimates that people say"
    print(f"{source} yes to {agreement.yes_share:.1%} of these")
    if agreement.interval:
        low, high = agreement.interval
        print(f"95 % interval: {low:.1%} to {high:.1%}")


register = subcommand(
    "calibrate",
    CalibrateOptions,
    _run,
    help="fit the cosine at which people agree with an encoder's matches",
    description=(
        "Finds the least cosine above which three in four people say that a caption describes "
        "the other image; it becomes the score 0.9. --judgements holds what people said. For a "
        "--dataset nobody was asked about, another encoder estimates it."
    ),
)
