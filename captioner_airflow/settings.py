"""What an operator sets for this place: environment variables, read where DAGs are parsed, and Airflow Variables.

docs/airflow.md lists them all. The interpreter of jobs is an environment variable alone: whoever
may edit Variables in the UI must not choose what programs workers run.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import Variable

from captioner_core.errors import CaptionerError

POOL = os.environ.get("CAPTIONER_POOL", "default_pool")
"""Airflow's pool of the tasks that extract and caption."""
TRAINING_POOL = os.environ.get("CAPTIONER_TRAINING_POOL", "default_pool")
"""Airflow's pool of the task that trains: one slot for each training that the GPUs allow."""
RUNS_AT_ONCE = int(os.environ.get("CAPTIONER_RUNS_AT_ONCE", "4"))
"""Runs of caption_folder at the same time; each keeps a network in memory, 1.7 GB."""
RETRY_DELAY = timedelta(seconds=float(os.environ.get("CAPTIONER_RETRY_DELAY_S", "30")))
"""Before a task that was killed is tried again; each further time it doubles."""
INBOX_SCHEDULE = os.environ.get("CAPTIONER_INBOX_SCHEDULE", "* * * * *")
"""When watch_inbox looks."""

RUNNERS, INBOX, KUBERNETES = "captioner_runners", "captioner_inbox", "captioner_kubernetes"


def variable(name: str) -> dict[str, Any]:
    """An Airflow Variable that holds a JSON object; empty where it is not set.

    Raises:
      CaptionerError: it holds something else.
    """
    try:
        value = Variable.get(name, default=None, deserialize_json=True)
    except ValueError as error:
        raise CaptionerError(
            f"Airflow Variable {name!r} is not JSON ({error}); write an object, such as {{}}"
        ) from error
    if not isinstance(value, dict | None):
        raise CaptionerError(
            f"Airflow Variable {name!r} {value!r} is no object; write one, such as {{}}"
        )
    return value or {}
