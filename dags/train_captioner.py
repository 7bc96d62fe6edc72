"""Trains a captioner and makes it the current one, if it is no worse than the one before.

The run makes or takes a dataset, extracts its features (once: a later run takes them over), trains,
and evaluates the new model and the current one on the dataset's dev split. The **gate** lets the new
model pass if its CIDEr there is at least the current one's plus *margin*; then `promote` lets
`ROOT/models/current.json` point to it. Where the gate stops a model, the run is red, the model
stays in its folder, and the current one stays current.

`captioner promote --models ROOT/models --undo` goes back to the model before. Give `ROOT/models` as
*model* to caption_folder, and it takes the current one.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from captioner_airflow import settings
from captioner_airflow.assets import FEATURES, MODEL, announce, announce_table
from captioner_airflow.jobs import one_line_errors, run_check, run_command, run_job
from captioner_airflow.train_run import TrainRun, train_form
from captioner_airflow.training import TrainOperator
from captioner_core.options import arguments_of


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,  # two would promote over each other
    doc_md=__doc__,
    tags=["captioner"],
    default_args={
        "retries": 2,
        "retry_delay": settings.RETRY_DELAY,
        "retry_exponential_backoff": True,
    },
    params=train_form(),
)
def train_captioner() -> None:  # noqa: D103  its text is doc_md
    @task(execution_timeout=timedelta(hours=12))
    def prepare_dataset() -> str:
        """Draws or downloads the dataset, unless it is a folder that is there."""
        run = TrainRun.current()
        with one_line_errors():
            run.train_options()  # a bad option shows before work starts
        if command := run.dataset_command():
            run_command("dataset", *command)
        return run.dataset

    @task(outlets=[FEATURES], pool=settings.POOL, execution_timeout=timedelta(days=2))
    def extract_features() -> None:
        """The dataset's images to features."""
        with one_line_errors():
            run = TrainRun.current()
            options = run.extract_options()
            run_job("beam_jobs.extract_features", options, run.runner_options())
            announce_table(FEATURES, options.layout)

    @task(execution_timeout=timedelta(hours=4))
    def evaluate() -> None:
        """The figures of the new model and of the current one, on the same images."""
        for arguments in TrainRun.current().evaluations():
            run_command("evaluate", *arguments)

    @task(execution_timeout=timedelta(minutes=10))
    def gate() -> None:
        """Stops a model that is worse than the current one."""
        with one_line_errors():
            run_check("gate", *arguments_of(TrainRun.current().gate_options()))

    @task(outlets=[MODEL], execution_timeout=timedelta(minutes=10))
    def promote() -> str:
        """Makes the model the current one, in one step that can be undone."""
        run = TrainRun.current()
        run_command("promote", f"--models={run.models}", f"--model={run.model}")
        announce(MODEL, {"uri": run.model, **run.figures()})
        return run.model

    train = TrainOperator(
        task_id="train", pool=settings.TRAINING_POOL, execution_timeout=timedelta(days=7)
    )
    prepare_dataset() >> extract_features() >> train >> evaluate() >> gate() >> promote()


train_captioner()
