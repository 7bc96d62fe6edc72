"""How most subcommands are added: their arguments are the fields of an options class."""

import argparse
from collections.abc import Callable
from typing import Any

from captioner_core.options import add_arguments, from_namespace


def add_subcommand(
    subparsers: Any, name: str, options_class: type, run: Callable[..., int | None], **texts: str
) -> argparse.ArgumentParser:
    """Adds a subcommand and returns its parser.

    Args:
      subparsers: what ``add_subparsers`` returned.
      name: the subcommand's name.
      options_class: the dataclass whose fields are the subcommand's options.
      run: called with the checked options. Returns the exit code, or None for 0.
      texts: ``help`` and ``description``, for ``--help``.
    """

    def handle(namespace: argparse.Namespace) -> int:
        """Checks the options and runs the subcommand."""
        return run(from_namespace(options_class, namespace)) or 0

    parser: argparse.ArgumentParser = subparsers.add_parser(name, **texts)
    add_arguments(parser, options_class)
    parser.set_defaults(handler=handle)
    return parser


def add_job(
    subparsers: Any, name: str, options_class: type, run: Callable[..., int | None], **texts: str
) -> None:
    """Adds a subcommand that runs Beam jobs, and to which Beam's options may be given too.

    Args:
      subparsers: what ``add_subparsers`` returned.
      name: the subcommand's name.
      options_class: the dataclass whose fields are the subcommand's own options.
      run: called with the checked options and Beam's. Returns the exit code, or None for 0.
      texts: ``help`` and ``description``, for ``--help``.
    """

    def handle(namespace: argparse.Namespace) -> int:
        """Checks the options and runs the job."""
        return run(from_namespace(options_class, namespace), namespace.pipeline_args) or 0

    epilog = "Other options go to Beam, such as --runner=FlinkRunner."
    parser = add_subcommand(subparsers, name, options_class, run, epilog=epilog, **texts)
    parser.set_defaults(handler=handle, takes_pipeline_options=True)
