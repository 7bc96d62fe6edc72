"""A real Airflow for tests, in an environment without TensorFlow and Beam, and its REST client."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests

from captioner_airflow.local import USER, LocalAirflow, RunningAirflow, run_airflow

ROOT = Path(__file__).parents[2]
JOBS_PYTHON = sys.executable
AIRFLOW_PYTHON = str(ROOT / os.environ.get("AIRFLOW_VENV", ".venv-airflow") / "bin" / "python")
# With these settings Airflow notices a killed process within seconds. Its defaults take five
# minutes, which suits a large installation.
FAST_DETECTION = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
}


class LiveAirflow:
    """A real Airflow, and a client of its REST API.

    Args:
      config: the configuration of the Airflow.
    """

    def __init__(self, config: LocalAirflow) -> None:
        self.config = config
        self._airflow: RunningAirflow
        self._token = ""

    @property
    def url(self) -> str:
        """The URL of the UI and the API."""
        return self._airflow.url

    @property
    def _log(self) -> Path:
        """The log file of all of Airflow's processes."""
        return self.config.home / "standalone.log"

    @contextlib.contextmanager
    def running(self) -> Iterator[LiveAirflow]:
        """Runs Airflow while the block runs; a second use continues with the same database."""
        with run_airflow(self.config, self._log) as airflow:
            self._airflow = airflow
            login = {"username": USER, "password": self.config.password()}
            response = requests.post(f"{self.url}/auth/token", json=login, timeout=30)
            self._token = response.json()["access_token"]
            try:
                self.wait_for_dags("caption_folder", "train_captioner", "watch_inbox")
                yield self
            finally:
                processes = self.processes()
        for process in processes:  # such as the orphans of a killed scheduler
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Calls the REST API and returns its JSON answer."""
        headers = {"Authorization": f"Bearer {self._token}"}
        url = f"{self.url}/api/v2/{path}"
        response = requests.request(method, url, json=body, headers=headers, timeout=60)
        assert response.ok, f"{method} {path}: {response.status_code} {response.text[:500]}"
        return response.json() if response.content else None

    def wait_for_dags(self, *dag_ids: str) -> None:
        """Waits until Airflow has parsed these DAGs."""

        def are_parsed() -> bool:
            dags = self.call("GET", "dags")["dags"]
            return set(dag_ids) <= {dag["dag_id"] for dag in dags}

        wait_until(are_parsed, 120)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Starts a run and returns its id."""
        body = {"logical_date": None, "conf": conf}
        return str(self.call("POST", f"dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str:
        """Returns the state of a run, such as ``running``."""
        return str(self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Returns the task instances of a run by task id."""
        answer = self.call("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")
        return {task["task_id"]: task for task in answer["task_instances"]}

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Returns the runs of a DAG."""
        return list(self.call("GET", f"dags/{dag_id}/dagRuns?limit=100")["dag_runs"])

    def finish(self, dag_id: str, run_id: str, timeout_s: float = 300) -> str:
        """Waits until a run has ended, and returns its state."""
        wait_until(lambda: self.state(dag_id, run_id) in ("success", "failed"), timeout_s)
        return self.state(dag_id, run_id)

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        """Returns the log of one attempt at a task."""
        task = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        lines = self.call("GET", f"{task}/logs/{attempt}?full_content=true")["content"]
        return "\n".join(str(line.get("event", line)) for line in lines)

    def processes(self, *words: str) -> list[psutil.Process]:
        """Returns this Airflow's processes whose command lines contain all the words."""
        return find_processes(self.config.home, *words)

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """Starts a scheduler to replace one that was killed."""
        command = [self.config.airflow_python, "-m", "airflow", "scheduler"]
        environment = dict(self._airflow.environment)
        with self._log.open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def find_processes(home: Path, *words: str) -> list[psutil.Process]:
    """Returns an Airflow's processes, jobs included, whose command lines contain all the words.

    Args:
      home: the AIRFLOW_HOME of the Airflow.
      words: the words to look for.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            has_words = all(word in line for word in words)
            if has_words and process.environ().get("AIRFLOW_HOME") == str(home):
                found.append(process)
    return found


def wait_until(condition: Callable[[], Any], timeout_s: float) -> Any:
    """Waits until a condition returns a true value, and returns that value.

    Raises:
      AssertionError: if it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.2)
    return value
