"""Trains a captioner and makes it the current model if it is no worse than the current one.

The run builds a dataset, unless you name an existing one, and extracts its features. Later runs on
the same dataset reuse these features. The run then trains a model, and evaluates the new model and
the current one on the dev split of the dataset.

The task `gate` lets the new model pass if its CIDEr score is at least that of the current model
plus *margin*. The task `promote` then makes `ROOT/models/current.json` point to the new model. If
`gate` stops the new model, the run fails, the new model stays in its folder, and the current model
does not change.

To caption with the current model, give `ROOT/models` as the *model* of caption_folder. To return to
the previous model, run `captioner promote --models ROOT/models --undo`.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from captioner_airflow import settings
from captioner_airflow.assets import FEATURES, MODEL, announce, announce_table
from captioner_airflow.jobs import fail_on_bad_input, run_check, run_command, run_job
from captioner_airflow.train_operator import TrainOperator
from captioner_airflow.train_run import TrainRun, make_train_form
from captioner_core.options import arguments_of


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,  # two runs would overwrite each other's promotion
    doc_md=__doc__,
    tags=["captioner"],
    default_args={
        "retries": 2,
        "retry_delay": settings.RETRY_DELAY,
        "retry_exponential_backoff": True,
    },
    params=make_train_form(),
)
def train_captioner() -> None:
    """Defines the DAG; the docstring of this module describes it."""

    @task(execution_timeout=timedelta(hours=12))
    def prepare_dataset() -> str:
        """Draws or downloads the dataset, unless the form names a dataset folder."""
        run = TrainRun.current()
        with fail_on_bad_input():
            run.train_options()  # reports a bad option before any work starts
        if arguments := run.dataset_arguments():
            run_command("dataset", *arguments)
        return run.dataset

    @task(outlets=[FEATURES], pool=settings.POOL, execution_timeout=timedelta(days=2))
    def extract_features() -> None:
        """Extracts features from the images of the dataset."""
        with fail_on_bad_input():
            run = TrainRun.current()
            options = run.extract_options()
            run_job("beam_jobs.extract_features", options, run.beam_arguments())
            announce_table(FEATURES, options.layout)

    @task(execution_timeout=timedelta(hours=4))
    def evaluate() -> None:
        """Evaluates the new model and the current one on the same images."""
        for arguments in TrainRun.current().evaluate_arguments():
            run_command("evaluate", *arguments)

    @task(execution_timeout=timedelta(minutes=10))
    def gate() -> None:
        """Stops a model that is worse than the current one."""
        with fail_on_bad_input():
            run_check("gate", *arguments_of(TrainRun.current().gate_options()))

    @task(outlets=[MODEL], execution_timeout=timedelta(minutes=10))
    def promote() -> str:
        """Makes the new model the current one; `captioner promote --undo` reverses it."""
        run = TrainRun.current()
        run_command("promote", f"--models={run.models}", f"--model={run.model}")
        announce(MODEL, {"uri": run.model, **run.read_metrics()})
        return run.model

    train = TrainOperator(
        task_id="train", pool=settings.TRAINING_POOL, execution_timeout=timedelta(days=7)
    )
    prepare_dataset() >> extract_features() >> train >> evaluate() >> gate() >> promote()


train_captioner()
