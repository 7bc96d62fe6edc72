"""The entry point of the console script ``captioner``."""

import importlib
import sys
from collections.abc import Sequence

import captioner_core
from captioner_core.console.arguments import OneLineParser, start
from captioner_core.process import program
from captioner_core.security.redaction import redact_arguments

COMMANDS = (
    "data.assets",
    "data.dataset",
    "runs.extract",
    "models.train",
    "models.evaluate",
    "models.export",
    "models.train_encoder",
    "models.calibrate",
    "models.confidence",
    "models.quantize",
    "models.gate",
    "models.promote",
    "models.models",
    "runs.caption",
    "runs.match",
    "runs.run",
    "runs.run_local",
    "results.similar",
    "results.thresholds",
    "results.verify",
    "results.report",
    "results.manifest",
    "data.inbox",
)


def make_parser() -> OneLineParser:
    """The parser with every subcommand; nothing heavy is imported for it."""
    parser = OneLineParser(
        prog="captioner",
        description="Folders of images to captions and tables of similar images, in batch.",
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
    start(argv)

    def parse_and_run() -> int:
        """Parses the arguments, checks the environment and runs the subcommand."""
        parser = make_parser()
        namespace, rest = parser.parse_known_args(argv)
        if rest and not getattr(namespace, "takes_pipeline_options", False):
            parser.error(f"unrecognized arguments: {redact_arguments(rest)}")
        program.check_environment()
        if rest:
            from beam_jobs.launch import check_pipeline_args

            check_pipeline_args(parser, rest)
        namespace.pipeline_args = rest
        return int(namespace.handler(namespace))

    return program.guarded(parse_and_run, "captioner")


if __name__ == "__main__":
    sys.exit(main())
