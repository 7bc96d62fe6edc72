"""How most subcommands are made: their arguments are the fields of an options class."""

import argparse
from collections.abc import Callable
from typing import Any

from captioner_core.options import add_arguments, from_namespace


def subcommand(
    name: str,
    options_class: type,
    run: Callable[..., None],
    *,
    takes_pipeline_options: bool = False,
    **texts: str,
) -> Callable[[Any], None]:
    """Returns a function that adds a subcommand to what ``add_subparsers`` returned.

    Args:
      name: the subcommand's name.
      options_class: the dataclass whose fields are the subcommand's options.
      run: called with the checked options, and with Beam's if it takes them.
      takes_pipeline_options: whether options that the class does not have go to Beam.
      texts: ``help`` and ``description``, for ``--help``.
    """

    def handle(namespace: argparse.Namespace) -> int:
        """Checks the options and runs the subcommand."""
        pipeline_args = (namespace.pipeline_args,) if takes_pipeline_options else ()
        run(from_namespace(options_class, namespace), *pipeline_args)
        return 0

    def register(subparsers: Any) -> None:
        """Adds the subcommand."""
        epilog = "Other options go to Beam, such as --runner=FlinkRunner."
        parser = subparsers.add_parser(
            name, epilog=epilog if takes_pipeline_options else None, **texts
        )
        add_arguments(parser, options_class)
        parser.set_defaults(handler=handle, takes_pipeline_options=takes_pipeline_options)

    return register
