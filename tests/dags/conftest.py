"""A real Airflow with its own database, whose jobs are replaced by a recorder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).parents[2] / "dags"
# A program in place of the interpreter of the jobs. It records its arguments and prints answers
# that a test has prepared.
RECORDER = """#!{python}
import json, sys
called = sys.argv[sys.argv.index("-m") + 1 :]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(called) + "\\n")
answers = json.load(open({answers!r}))
if called[:2] == ["captioner_cli", "manifest"]:
    counts = {{"features": 3, "captions": 3, "failures": 1, "matches": 4, "match_summary": 3}}
    print(json.dumps({{"counts": counts}}))
elif called[:2] == ["captioner_cli", "inbox"]:
    print(json.dumps(answers["inbox"]))
else:
    print(called[0], "says hello")
sys.exit(answers["exit"].get(" ".join(called[:2]), answers["exit"].get(called[0], 0)))
"""
LOAD = f"""
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(DAGS)!r})
assert not bag.import_errors, bag.import_errors
"""


class Airflow:
    """An Airflow with a database of its own, in which tests run Python code.

    Args:
      home: its folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "CAPTIONER_PYTHON": str(home / "python"),
            "CAPTIONER_RETRY_DELAY_S": "0.1",
        }
        recorder = RECORDER.format(
            python=sys.executable, calls=str(home / "calls"), answers=str(home / "answers")
        )
        (home / "python").write_text(recorder)
        (home / "python").chmod(0o755)
        self.answer()

    def answer(self, **answers: object) -> None:
        """Sets what jobs answer from now on, and forgets the calls so far.

        Args:
          answers: ``exit``, exit codes by program, and ``inbox``, the folders of the inbox.
        """
        (self.home / "answers").write_text(json.dumps({"exit": {}, "inbox": [], **answers}))
        (self.home / "calls").write_text("")

    def calls(self) -> list[list[str]]:
        """Returns the arguments of each call of the interpreter of the jobs."""
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def run(self, code: str) -> str:
        """Runs Python code with this Airflow and returns what it prints."""
        command = [sys.executable, "-c", code]
        # a test's fixtures may set connections after this object was created
        connections = {k: v for k, v in os.environ.items() if k.startswith("AIRFLOW_CONN_")}
        env = {**self.env, **connections}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=300, cwd=self.home
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def run_dag(self, dag_id: str, conf: dict[str, object]) -> tuple[str, dict[str, str]]:
        """Runs a DAG in one process; returns the state of the run and the states of its tasks."""
        code = f"""
import json
run = bag.dags[{dag_id!r}].test(run_conf=json.loads({json.dumps(conf)!r}))
tasks = {{ti.task_id: ti.state for ti in run.get_task_instances()}}
print("STATES", json.dumps([run.state, tasks]))
"""
        lines = self.run(LOAD + code).splitlines()
        states = next(line for line in lines if line.startswith("STATES "))
        state, tasks = json.loads(states.removeprefix("STATES "))
        return state, tasks


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory):
    """Returns an Airflow whose database is created once for all tests."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow"))
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=airflow.env, check=True, capture_output=True)
    return airflow


@pytest.fixture
def airflow(airflow_home):
    """Returns the same Airflow without the answers and calls of earlier tests."""
    airflow_home.answer()
    return airflow_home
