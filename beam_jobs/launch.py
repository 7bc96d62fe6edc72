"""Runs pipelines, and holds what the command lines of the jobs share."""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from captioner_core.console.arguments import OneLineParser, start
from captioner_core.errors import JobFailed
from captioner_core.options import add_arguments, check_absolute, from_namespace
from captioner_core.process import error_lines, program
from captioner_core.runs import commits
from captioner_core.security.redaction import redact_arguments
from captioner_core.tables.layout import RunLayout

# What DirectRunner ends up as on one machine. It is named directly, because DirectRunner first
# looks for another engine on the network, so that its results would depend on where it runs.
LOCAL_RUNNER = "FnApiRunner"
_LOCAL_RUNNERS = (None, LOCAL_RUNNER, "DirectRunner")
# How long a cluster keeps an idle worker process. Without it, Flink starts a new process for each
# stage of a job, and each one loads the networks again.
_IDLE_WORKER_MS = 60_000
_CAUSE_LENGTH = 500
OptionsT = TypeVar("OptionsT", bound=PipelineOptions)


def run_pipeline(
    build: Callable[[beam.Pipeline], object], pipeline_args: Sequence[str], run: RunLayout
) -> dict[str, int]:
    """Builds a pipeline, runs it and waits for its end.

    Args:
      build: Adds the steps to a pipeline.
      pipeline_args: Options of Beam.
      run: The run for which the pipeline stages tables, as ``commits.begin_attempt`` returned it.

    Returns:
      The counters of the steps, by name.

    Raises:
      CaptionerError: Another process has begun to write the run and has removed what this one
        staged, or a step raised it.
      OSError: The storage failed.
      JobFailed: A cluster reports that the job failed, or a worker process died.
    """
    options = _CachingOptions(list(pipeline_args))
    standard = options.view_as(StandardOptions)
    in_this_process = _runs_in_this_process(options)
    standard.runner = standard.runner or LOCAL_RUNNER
    if not any(one.startswith("--environment_cache_millis") for one in pipeline_args):
        options.view_as(PortableOptions).environment_cache_millis = _IDLE_WORKER_MS
    _quiet_logs()
    try:
        with beam.Pipeline(options=options) as pipeline:
            build(pipeline)
    except Exception as error:
        # If another process has removed the staged files, that shows as many kinds of errors.
        commits.check_owner(run)
        if not in_this_process and isinstance(error, RuntimeError | grpc.RpcError):
            raise JobFailed(
                f"the job failed on {standard.runner} ({_cause(error)}); its logs say more, "
                "run it again to complete"
            ) from error
        raised = _raised_in_step(error)
        # What a user can mend is raised as itself, without Beam's wrapping.
        if raised is not error and error_lines.describe(raised) is not None:
            raise raised from None
        raise
    counters = pipeline.result.metrics().query()["counters"]
    return {counter.key.metric.name: int(counter.result or 0) for counter in counters}


class _CachingOptions(PipelineOptions):
    """Options of Beam that make each view of themselves once.

    Beam asks for views several times for each step, and each time parses all options again. That
    takes half a second of a small run.
    """

    def view_as(self, cls: type[OptionsT]) -> OptionsT:
        """Returns these options as a subclass; all views have the same values."""
        # PipelineOptions lets no other attributes be set than its options.
        views = self.__dict__.setdefault("_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        view: OptionsT = views[cls]
        return view


def _quiet_logs() -> None:
    logging.getLogger("apache_beam").setLevel(logging.WARNING)
    # It reports that it starts a job server.
    logging.getLogger("apache_beam.utils.subprocess_server").setLevel(logging.ERROR)
    # It logs what a step raised, which run_pipeline reports itself.
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)


def check_options(options: Any, pipeline_args: Sequence[str]) -> None:
    """Refuses, before any work, options that do not fit the runner.

    Raises:
      CaptionerError: A path is relative, and the job will run on a cluster.
    """
    if not runs_here(pipeline_args):
        check_absolute(options)


def runs_here(pipeline_args: Sequence[str]) -> bool:
    """Returns whether a job with these options of Beam runs on this machine, not on a cluster."""
    return _runner(PipelineOptions(list(pipeline_args))) in _LOCAL_RUNNERS


def _runner(options: PipelineOptions) -> str | None:
    runner: str | None = options.view_as(StandardOptions).runner
    return runner


def _runs_in_this_process(options: PipelineOptions) -> bool:
    mode = options.view_as(DirectOptions).direct_running_mode
    return _runner(options) in _LOCAL_RUNNERS and mode != "multi_processing"


def _raised_in_step(error: BaseException) -> BaseException:
    """Returns what a step raised, which Beam raises again, maybe as another type."""
    while getattr(error, "_tagged_with_step", False) and error.__context__ is not None:
        error = error.__context__
    return error


def _cause(error: BaseException) -> str:
    """Returns what a runner reports of a failed job, without its stack of Java classes."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # A Python worker's traceback ends with what was raised.
    raised = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Failed)\b.*", line)]
    line = raised[-1] if raised else lines[0]
    return line.strip().rstrip(".")[:_CAUSE_LENGTH]


def main(
    prog: str,
    description: str,
    options_class: type,
    run: Callable[[Any, Sequence[str]], None],
    argv: Sequence[str] | None,
) -> int:
    """Runs the command line of a job module: its own options, and any option of Beam.

    Args:
      prog: The command's name.
      description: What the command does, for ``--help``.
      options_class: The dataclass of the job's own options.
      run: Runs the job with its options and those of Beam.
      argv: The arguments; None for those of this process.

    Returns:
      The exit code.
    """
    start(argv)

    def parse_and_run() -> int:
        """Parses the arguments, checks the environment and runs the job."""
        parser = OneLineParser(
            prog=prog,
            description=description,
            epilog="Other options go to Beam, such as --runner=FlinkRunner.",
        )
        add_arguments(parser, options_class)
        namespace, pipeline_args = parser.parse_known_args(argv)
        check_pipeline_args(parser, pipeline_args)
        program.check_environment()
        run(from_namespace(options_class, namespace), pipeline_args)
        return 0

    return program.guarded(parse_and_run, prog)


def check_pipeline_args(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Refuses options that Beam does not know either. Beam itself would only warn and ignore them.

    Raises:
      SystemExit: An option is unknown; the exit code is 2.
    """
    known = OneLineParser(prog=parser.prog, add_help=False)
    for options_class in PipelineOptions.__subclasses__():
        if hasattr(options_class, "_add_argparse_args"):
            try:
                options_class._add_argparse_args(known)  # noqa: SLF001  # Beam has no other way
            except argparse.ArgumentError:
                continue
    _, unknown = known.parse_known_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {redact_arguments(unknown)}")
