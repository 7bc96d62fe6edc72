"""``captioner run``: caption, match and report in one go."""

from collections.abc import Sequence

from captioner_cli.subcommand import subcommand
from captioner_core.options import RunOptions


def _run(options: RunOptions, pipeline_args: Sequence[str]) -> None:
    from beam_jobs.workflows.run import execute_run, plan_run
    from captioner_cli.results import print_results
    from captioner_core.runs.failure_policy import check_failures
    from captioner_core.tables import layout

    plan = plan_run(options, pipeline_args)
    if options.check:
        print("ok: options, images folder, model and index")
        return
    if options.plan:
        _print_estimate(plan.options)
        return
    result = execute_run(plan)
    print_results(options.layout, result.manifest, result.report)
    check_failures(result.manifest["counts"][layout.FAILURES], options.max_failures)


def _print_estimate(options: RunOptions) -> None:
    from beam_jobs.workflows.estimate import estimate_run
    from captioner_core.console.arguments import seconds_since_start

    for line in estimate_run(options, begun_s=seconds_since_start()).lines():
        print(line)


register = subcommand(
    "run",
    RunOptions,
    _run,
    help="caption a folder, match it and write the report",
    description=(
        "Captions every image below a folder, matches the captions against the --index tables "
        "and against each other, and writes an HTML report."
    ),
    takes_pipeline_options=True,
)
