"""The DAG in real Airflow: it parses light, refuses bad parameters, and runs the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

DAGS = Path(__file__).parents[2] / "dags"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory):
    """Runs Python code in an Airflow of its own, with its database."""
    home = tmp_path_factory.mktemp("airflow")
    env = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "CAPTIONER_PYTHON": str(home / "python"),
    }
    recorder = (
        f"#!{sys.executable}\nimport json, sys\n"
        f"open({str(home / 'calls')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\nprint('captioner says hello')\n"
    )
    (home / "python").write_text(recorder)
    (home / "python").chmod(0o755)

    def run(code):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    run.home = home
    return run


LOAD = f"""
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(DAGS)!r})
assert not bag.import_errors, bag.import_errors
dag = bag.dags["caption_folder"]
"""


def test_parses_without_the_heavy_libraries(airflow):
    heavy = "{'tensorflow', 'apache_beam', 'spacy', 'pandas'}"
    assert (
        airflow(LOAD + f"import sys; print(sorted({heavy} & set(sys.modules)), dag.doc_md[:8])").split("\n")[-2]
        == "[] Captions"
    )


def test_a_parameter_is_one_argument_whatever_it_holds(airflow):
    hostile = '"; touch x; echo $(id) `id`\n--help'
    conf = {"images": hostile, "output": "out", "model": "m", "index": ["a b"], "run_id": "r1"}
    airflow(LOAD + f"run = dag.test(run_conf={conf!r}); assert run.state == 'success', run.state")
    calls = [json.loads(line) for line in (airflow.home / "calls").read_text().splitlines()]
    assert calls[0][:4] == ["-m", "captioner_cli", "run", f"--images={hostile}"]
    assert "--index=a b" in calls[0]
    assert calls[1] == ["-m", "captioner_cli", "verify", "out/runs/r1"]


@pytest.mark.parametrize(
    "bad", [{"threshold": 1.5}, {"top_k": -1}, {"run_id": "../x"}, {"encoder": "x"}, {"images": ""}]
)
def test_bad_parameters_are_refused(airflow, bad):
    conf = {"images": "in", "output": "out", "model": "m", **bad}
    code = f"""
try:
    dag.test(run_conf={conf!r})
except Exception as error:
    print("refused", type(error).__name__)
"""
    assert "refused ParamValidationError" in airflow(LOAD + code)


def test_a_task_whose_time_is_up_leaves_no_process(airflow):
    """A retry would write into the same run as the job that goes on."""
    starts_another = airflow.home / "starts_another"
    starts_another.write_text(f"#!/bin/sh\nsleep 120 &\necho $! > {airflow.home}/sleeper\necho started\nwait\n")
    starts_another.chmod(0o755)
    airflow(f"""
import os, signal, sys, time
sys.path.insert(0, {str(DAGS)!r})
import caption_folder
os.environ["CAPTIONER_PYTHON"] = {str(starts_another)!r}
def time_is_up(*_):
    raise TimeoutError
signal.signal(signal.SIGALRM, time_is_up)
signal.alarm(3)
start = time.monotonic()
try:
    caption_folder._captioner("run")
except TimeoutError:
    assert time.monotonic() - start < 60
else:
    raise AssertionError("it was not interrupted")
""")
    sleeper = int((airflow.home / "sleeper").read_text())
    # one that has ended stays a zombie where nobody asks for its exit code
    assert not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == psutil.STATUS_ZOMBIE
