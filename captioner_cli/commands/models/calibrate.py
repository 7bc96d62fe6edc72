"""``captioner calibrate``: which cosine of an encoder is worth a score of 0.9."""

import argparse
from typing import Any

from captioner_core.options import CalibrateOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "calibrate",
        help="fit the cosine at which an encoder's matches become right",
        description=(
            "Finds the least cosine above which four of five pairs of captions are right to match, "
            "as another encoder and the other captions of the images tell; it becomes the score "
            "0.9."
        ),
    )
    add_arguments(parser, CalibrateOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(CalibrateOptions, namespace)
    from captioner_core.analysis.calibrating import calibrate

    report = calibrate(options)
    print(f"{report.pairs} pairs, {report.right_share:.3%} of which are right")
    print(
        f"{options.encoder}: cosine {report.calibration.cosine:.4f} becomes 0.9, which "
        f"{report.reached} pairs reach"
    )
    print(f"{report.precision:.1%} of these are right: {report.recall:.2%} of all that are")
    return 0
