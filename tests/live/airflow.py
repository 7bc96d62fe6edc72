"""A real Airflow for tests, in an environment without TensorFlow and Beam, and what a client of it does."""

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

from captioner_airflow.local import USER, Place, Running, started

ROOT = Path(__file__).parents[2]
JOBS_PYTHON = sys.executable
AIRFLOW_PYTHON = str(ROOT / os.environ.get("AIRFLOW_VENV", ".venv-airflow") / "bin" / "python")
# so that what a kill -9 leaves is noticed in seconds, not in the five minutes that suit a large installation
IMPATIENT = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
}


class LiveAirflow:
    """An Airflow that runs.

    Args:
      place: where.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._airflow: Running
        self._token = ""

    @property
    def url(self) -> str:
        return self._airflow.url

    @contextlib.contextmanager
    def running(self) -> Iterator[LiveAirflow]:
        """Starts it; a second time on the same place goes on where the first was cut off."""
        with started(self.place, self.place.home / "standalone.log") as airflow:
            self._airflow = airflow
            said = {"username": USER, "password": self.place.password()}
            self._token = requests.post(f"{self.url}/auth/token", json=said, timeout=30).json()[
                "access_token"
            ]
            try:
                self.wait_for_dags("caption_folder", "train_captioner", "watch_inbox")
                yield self
            finally:
                everything = self.processes()
        for process in everything:  # what a killed scheduler has left
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """A call of the REST API."""
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = requests.request(
            method, f"{self.url}/api/v2/{path}", json=body, headers=headers, timeout=60
        )
        assert answer.ok, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else None

    def wait_for_dags(self, *dag_ids: str) -> None:
        wait_until(
            lambda: {d["dag_id"] for d in self.ask("GET", "dags")["dags"]} >= set(dag_ids), 120
        )

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Starts a run; its id."""
        return str(
            self.ask("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})[
                "dag_run_id"
            ]
        )

    def state(self, dag_id: str, run_id: str) -> str:
        return str(self.ask("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        found = self.ask("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {task["task_id"]: task for task in found}

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        return list(self.ask("GET", f"dags/{dag_id}/dagRuns?limit=100")["dag_runs"])

    def finish(self, dag_id: str, run_id: str, timeout_s: float = 300) -> str:
        """Waits for a run's end; its state."""
        wait_until(lambda: self.state(dag_id, run_id) in ("success", "failed"), timeout_s)
        return self.state(dag_id, run_id)

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1) -> str:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{attempt}?full_content=true"
        return "\n".join(str(line.get("event", line)) for line in self.ask("GET", path)["content"])

    def processes(self, *words: str) -> list[psutil.Process]:
        """Those of this Airflow whose command line holds all the words."""
        return processes_of(self.place.home, *words)

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """A scheduler in place of one that was killed."""
        with (self.place.home / "standalone.log").open("ab") as log:
            command = [self.place.airflow_python, "-m", "airflow", "scheduler"]
            return subprocess.Popen(
                command, env=dict(self._airflow.environment), stdout=log, stderr=log
            )


def processes_of(home: Path, *words: str) -> list[psutil.Process]:
    """The machine's processes of an Airflow, jobs included, whose command line holds all the words."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and process.environ().get("AIRFLOW_HOME") == str(
                home
            ):
                found.append(process)
    return found


def wait_until(holds: Callable[[], Any], timeout_s: float) -> Any:
    """Waits until something is so, and returns it.

    Raises:
      AssertionError: it was not in time.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.2)
    return found
