"""The entry point of the console script ``captioner``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import captioner_core
from captioner_core.cli import OneLineParser, end_with_launcher, guarded, quiet_libraries
from captioner_core.shown import shown_arguments

COMMANDS = (
    "assets",
    "dataset",
    "extract",
    "train",
    "evaluate",
    "export",
    "train_encoder",
    "calibrate",
    "gate",
    "promote",
    "models",
    "caption",
    "match",
    "run",
    "run_local",
    "similar",
    "thresholds",
    "verify",
    "report",
    "manifest",
    "inbox",
)


def make_parser() -> OneLineParser:
    """The parser with every subcommand; nothing heavy is imported for it."""
    parser = OneLineParser(
        prog="captioner", description="Folders of images to captions and tables of similar images, in batch."
    )
    parser.add_argument("--version", action="version", version=captioner_core.__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"captioner_cli.commands.{name}").register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Returns:
      0 done; 1 a check failed; 2 bad usage or bad input.
    """
    quiet_libraries()
    end_with_launcher()
    parser = make_parser()
    namespace, rest = parser.parse_known_args(argv)
    if rest and not getattr(namespace, "takes_pipeline_options", False):
        parser.error(f"unrecognized arguments: {shown_arguments(rest)}")
    if rest:
        from beam_jobs.launch import check_pipeline_args

        check_pipeline_args(parser, rest)
    namespace.pipeline_args = rest
    return guarded(lambda: int(namespace.handler(namespace)), "captioner")


if __name__ == "__main__":
    sys.exit(main())
