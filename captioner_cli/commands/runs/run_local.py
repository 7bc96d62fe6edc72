"""``captioner run-local``: everything on this machine, which is what ``make run-local`` does."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import NEW_RUN, LocalOptions


def _run(options: LocalOptions) -> None:
    from beam_jobs.workflows.run_local import run_local
    from captioner_cli.results import print_results, print_verified
    from captioner_core.runs.failure_policy import check_failures
    from captioner_core.tables import layout

    result = run_local(options)
    run = layout.RunLayout(options.out, NEW_RUN)
    print_results(run, result.run.manifest, result.run.report)
    print(f"{'model':14} {'':8}  {options.model_dir}")
    print(f"{'dataset':14} {'':8}  {result.dataset}")
    print_verified(run.run_dir)
    check_failures(result.run.manifest["counts"][layout.FAILURES], options.max_failures)


register = subcommand(
    "run-local",
    LocalOptions,
    _run,
    help="dataset, features, training, captions, matches and report on this machine",
    description=(
        "Makes a dataset, trains a captioner, and captions and matches a folder on this "
        "machine. 'make run-local' calls it with the Makefile's variables."
    ),
)
