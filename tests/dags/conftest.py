from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DAGS = Path(__file__).parents[2] / "dags"
# Stands in for the interpreter of the jobs: writes down how it was called, and answers what is asked of it
RECORDER = """#!{python}
import json, sys
called = sys.argv[sys.argv.index("-m") + 1 :]
with open({calls!r}, "a") as calls:
    calls.write(json.dumps(called) + "\\n")
answers = json.load(open({answers!r}))
if called[:2] == ["captioner_cli", "manifest"]:
    print(json.dumps({{"counts": {{"features": 3, "captions": 3, "failures": 1, "matches": 4, "match_summary": 3}}}}))
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
    """An Airflow with a database of its own, in which Python code runs."""

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
        """What the jobs answer from now on: their exit codes, and what the inbox holds."""
        (self.home / "answers").write_text(json.dumps({"exit": {}, "inbox": [], **answers}))
        (self.home / "calls").write_text("")

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    def run(self, code: str) -> str:
        command = [sys.executable, "-c", code]
        env = {**self.env, **{k: v for k, v in os.environ.items() if k.startswith("AIRFLOW_CONN_")}}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=300, cwd=self.home
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def run_dag(self, dag_id: str, conf: dict[str, object]) -> tuple[str, dict[str, str]]:
        """Runs a DAG task by task in one process; the state of the run, and of each task."""
        code = f"""
import json
run = bag.dags[{dag_id!r}].test(run_conf=json.loads({json.dumps(conf)!r}))
print("STATES", json.dumps([run.state, {{ti.task_id: ti.state for ti in run.get_task_instances()}}]))
"""
        said = self.run(LOAD + code)
        state, tasks = json.loads(
            next(line for line in said.splitlines() if line.startswith("STATES "))[7:]
        )
        return state, tasks


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("airflow")
    made = Airflow(home)
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(command, env=made.env, check=True, capture_output=True)
    return made


@pytest.fixture
def airflow(airflow_home):
    airflow_home.answer()
    return airflow_home
