"""``captioner match``: captions to tables of similar images."""

import argparse
from typing import Any

from captioner_core.options import MatchOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "match",
        help="captions to tables of similar images",
        description="Finds, for every captioned image, the images whose captions are most similar.",
        epilog="Other options go to Beam, such as --runner=FlinkRunner.",
    )
    add_arguments(parser, MatchOptions)
    parser.set_defaults(handler=_run, takes_pipeline_options=True)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(MatchOptions, namespace)
    from beam_jobs import match_captions

    return match_captions.main_with(options, namespace.pipeline_args)
