"""Running a pipeline, and what the jobs' command lines share."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from captioner_core.cli import OneLineParser, guarded, quiet_tensorflow
from captioner_core.errors import CheckFailed
from captioner_core.options import add_arguments, from_namespace

# What DirectRunner comes down to on one machine, named outright: DirectRunner first looks
# for another engine on the network, so its results would depend on where it runs.
LOCAL_RUNNER = "FnApiRunner"


def run_pipeline(build: Callable[[beam.Pipeline], object], pipeline_args: Sequence[str]) -> None:
    """Builds a pipeline, runs it and waits for its end.

    Raises:
      RuntimeError: the runner says that the job did not succeed.
    """
    options = PipelineOptions(list(pipeline_args))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or LOCAL_RUNNER
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    with beam.Pipeline(options=options) as pipeline:
        build(pipeline)


def check_failures(failed: int, allowed: int | None) -> None:
    """Fails a run, once it is written, that has more failures than the user allows.

    Raises:
      CheckFailed: there are more.
    """
    if allowed is not None and failed > allowed:
        raise CheckFailed(f"--max-failures {allowed}: {failed} images failed; the failures table says why")


def main(
    prog: str,
    description: str,
    options_class: type,
    run: Callable[[Any, Sequence[str]], int],
    argv: Sequence[str] | None,
) -> int:
    """The command line of a job module: its own options, then any option of Beam's."""
    quiet_tensorflow()
    parser = OneLineParser(
        prog=prog, description=description, epilog="Other options go to Beam, such as --runner=FlinkRunner."
    )
    add_arguments(parser, options_class)
    namespace, pipeline_args = parse_known(parser, argv)
    return guarded(lambda: run(from_namespace(options_class, namespace), pipeline_args), prog)


def parse_known(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parses, leaving Beam's own options; one that neither knows is an error here, not a warning there."""
    namespace, rest = parser.parse_known_args(argv)
    known = argparse.ArgumentParser(add_help=False)
    for options_class in PipelineOptions.__subclasses__():
        if hasattr(options_class, "_add_argparse_args"):
            try:
                options_class._add_argparse_args(known)
            except argparse.ArgumentError:
                continue
    _, unknown = known.parse_known_args(rest)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return namespace, rest
