"""Settings of an installation: environment variables, and Airflow Variables that hold JSON objects.

docs/airflow.md lists them all. Environment variables are read where DAGs are parsed, and Airflow
Variables when a task runs. The interpreter of the jobs is set by an environment variable only,
because users who may edit Variables in the UI must not choose the programs that workers run.
"""

import os
from datetime import timedelta

from airflow.sdk import Variable

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import JsonObject

POOL = os.environ.get("CAPTIONER_POOL", "default_pool")
"""Airflow pool of the tasks that extract features, caption and match."""
TRAINING_POOL = os.environ.get("CAPTIONER_TRAINING_POOL", "default_pool")
"""Airflow pool of the task that trains. Give it one slot for each training that the GPUs allow."""
MAX_ACTIVE_RUNS = int(os.environ.get("CAPTIONER_RUNS_AT_ONCE", "4"))
"""Number of concurrent runs of caption_folder, each of which needs up to 1.7 GB of memory."""
RETRY_DELAY = timedelta(seconds=float(os.environ.get("CAPTIONER_RETRY_DELAY_S", "30")))
"""Delay before a task that was killed is retried. It doubles with each further retry."""
INBOX_SCHEDULE = os.environ.get("CAPTIONER_INBOX_SCHEDULE", "* * * * *")
"""Cron schedule of watch_inbox."""

RUNNERS_VARIABLE = "captioner_runners"
INBOX_VARIABLE = "captioner_inbox"
KUBERNETES_VARIABLE = "captioner_kubernetes"


def read_variable(name: str) -> JsonObject:
    """Returns the JSON object in an Airflow Variable, or an empty one if it is not set.

    Raises:
      CaptionerError: if the Variable holds anything but a JSON object.
    """
    try:
        value = Variable.get(name, default=None, deserialize_json=True)
    except ValueError as error:
        raise CaptionerError(
            f"Airflow Variable {name!r} is not valid JSON ({error}); write an object, such as {{}}"
        ) from error
    if not isinstance(value, dict | None):
        raise CaptionerError(
            f"Airflow Variable {name!r} is {value!r}, not a JSON object; write one, such as {{}}"
        )
    return value or {}
