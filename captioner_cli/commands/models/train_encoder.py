"""``captioner train-encoder``: features and captions to an encoder folder."""

import argparse
from typing import Any

from captioner_core.options import TrainEncoderOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "train-encoder",
        help="train the encoder that puts captions and images into one space",
        description=(
            "Trains the learned encoder on a dataset's train split and calibrates its scores on "
            "the dev split."
        ),
    )
    add_arguments(parser, TrainEncoderOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(TrainEncoderOptions, namespace)
    from captioner_core.training.encoder.train_encoder import train_encoder

    print(f"encoder {train_encoder(options)} in {options.output}")
    return 0
