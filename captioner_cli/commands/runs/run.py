"""``captioner run``: caption, match and report in one go."""

import argparse
from typing import Any

from captioner_core.options import RunOptions, add_arguments, from_namespace


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser(
        "run",
        help="caption a folder, match it and write the report",
        description=(
            "Captions every image below a folder, matches the captions against the --index tables "
            "and against each other, and writes an HTML report."
        ),
        epilog="Other options go to Beam, such as --runner=FlinkRunner.",
    )
    add_arguments(parser, RunOptions)
    parser.set_defaults(handler=_run, takes_pipeline_options=True)


def _run(namespace: argparse.Namespace) -> int:
    options = from_namespace(RunOptions, namespace)
    from beam_jobs.workflows.run import execute_run, plan_run
    from captioner_cli.results import print_results
    from captioner_core.runs.failure_policy import check_failures
    from captioner_core.tables import layout

    plan = plan_run(options, namespace.pipeline_args)
    if options.check:
        print("ok: options, images folder, model and index")
        return 0
    if options.plan:
        _print_estimate(plan.options)
        return 0
    result = execute_run(plan)
    print_results(options.layout, result.manifest, result.report)
    check_failures(result.manifest["counts"][layout.FAILURES], options.max_failures)
    return 0


def _print_estimate(options: RunOptions) -> None:
    from beam_jobs.workflows.estimate import estimate_run
    from captioner_core.console.arguments import seconds_since_start

    for line in estimate_run(options, begun_s=seconds_since_start()).lines():
        print(line)
