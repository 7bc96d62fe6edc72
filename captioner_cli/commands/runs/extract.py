"""``captioner extract``: images to Xception features."""

import argparse
from typing import Any

from captioner_core.options import ExtractOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "extract",
        help="images to Xception features",
        description="Extracts Xception features of every image below a folder.",
        epilog="Other options go to Beam, such as --runner=FlinkRunner.",
    )
    add_arguments(parser, ExtractOptions)
    parser.set_defaults(handler=_run, takes_pipeline_options=True)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(ExtractOptions, namespace)
    from beam_jobs import extract_features

    return extract_features.main_with(options, namespace.pipeline_args)
