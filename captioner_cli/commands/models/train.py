"""``captioner train``: features and captions to a model folder."""

import argparse
from typing import Any

from captioner_core.options import TrainOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "train",
        help="train a captioner from features and human captions",
        description=(
            "Trains an LSTM captioner on a dataset's train split and keeps the weights that are "
            "best on its dev split."
        ),
    )
    add_arguments(parser, TrainOptions)
    parser.set_defaults(handler=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(TrainOptions, namespace)
    from captioner_core.training.train import train

    print(f"model {train(options)} in {options.output}")
    return 0
