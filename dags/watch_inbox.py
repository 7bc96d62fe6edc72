"""Captions every new folder of an inbox, once.

Looks at the inbox every minute. A folder directly in it is complete when the marker file `_SUCCESS`
lies in it, or when nothing in it has changed for ten minutes; then it gets one run of
caption_folder, whose name is made of the folder's, so that it never gets two, whatever is restarted
in between. A folder that a run was made of is not looked at again.

The Airflow Variable `captioner_inbox` says which inbox, where the tables go and how to caption:

    {"inbox": "/data/inbox", "output": "/data/out", "caption": {"model": "/data/out/models"}}

It is paused until somebody turns it on. A form field that is filled in goes before the Variable.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pendulum  # comes with Airflow
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import dag, task

from captioner_airflow import settings
from captioner_airflow.inbox import complete_folders, inbox_form
from captioner_airflow.jobs import one_line_errors


@dag(
    schedule=settings.INBOX_SCHEDULE,
    start_date=pendulum.datetime(2024, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=True,
    doc_md=__doc__,
    tags=["captioner"],
    default_args={"retries": 2, "retry_delay": settings.RETRY_DELAY},
    params=inbox_form(),
)
def watch_inbox() -> None:  # noqa: D103  its text is doc_md
    @task(execution_timeout=timedelta(minutes=30))
    def find_folders() -> list[dict[str, Any]]:
        """The runs to start: of folders that are complete and have none."""
        with one_line_errors():
            return complete_folders()

    # a run of that name is a folder's own: where it is there already, a task before this one was cut off after it
    TriggerDagRunOperator.partial(
        task_id="start_runs",
        trigger_dag_id="caption_folder",
        logical_date=None,
        skip_when_already_exists=True,
    ).expand_kwargs(find_folders())


watch_inbox()
