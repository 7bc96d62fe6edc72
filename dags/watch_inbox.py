"""Starts one run of caption_folder for every new folder in an inbox.

This DAG looks at the inbox every minute. A folder directly inside the inbox is complete when it
contains the marker file `_SUCCESS`, or when nothing in it has changed for ten minutes. Each
complete folder gets one run of caption_folder, which is named after the folder. A folder that has a
run is never captioned again, even if Airflow is restarted in between.

Set the Airflow Variable `captioner_inbox` to say where the inbox is, where the tables go, and which
options caption_folder gets:

    {"inbox": "/data/inbox", "output": "/data/out", "caption": {"model": "/data/out/models"}}

A field that you fill in on the form takes precedence over the Variable. The DAG is paused until you
turn it on.
"""

from datetime import timedelta

import pendulum  # comes with Airflow
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, task

from captioner_airflow import settings
from captioner_airflow.inbox import list_runs_to_start, make_inbox_form
from captioner_airflow.jobs import fail_on_bad_input
from captioner_core.io.json_text import JsonObject


@dag(
    schedule=settings.INBOX_SCHEDULE,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    doc_md=__doc__,
    tags=["captioner"],
    default_args={"retries": 2, "retry_delay": settings.RETRY_DELAY},
    params=make_inbox_form(),
)
def watch_inbox() -> None:
    """Defines the DAG; the docstring of this module describes it."""

    @task(execution_timeout=timedelta(minutes=30))
    def find_folders() -> list[JsonObject]:
        """Returns the runs to start: one for each complete folder that has no run."""
        with fail_on_bad_input():
            return list_runs_to_start()

    # The name of a run belongs to one folder. If the run exists already, an earlier try of this
    # task started it and was interrupted afterwards.
    TriggerDagRunOperator.partial(
        task_id="start_runs",
        trigger_dag_id="caption_folder",
        logical_date=None,
        skip_when_already_exists=True,
    ).expand_kwargs(find_folders())


watch_inbox()
