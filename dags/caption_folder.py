"""Captions a folder of images and writes its tables of similar images.

Trigger it with the folder of images, the output root and a model. It runs
`captioner run` and then `captioner verify` with the interpreter named by the environment
variable `CAPTIONER_PYTHON`, so Airflow itself needs neither TensorFlow nor Beam. When it
is green, the tables and `report/index.html` are in `ROOT/runs/RUN_ID`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import timedelta

import psutil  # comes with Airflow
from airflow.sdk import Param, dag, get_current_context, task

from captioner_core.layout import RunLayout
from captioner_core.options import DEFAULT_ENCODER, ENCODERS, PRETRAINED

_GRACE_S = 15.0


@dag(
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["captioner"],
    default_args={"retries": 1, "retry_delay": timedelta(minutes=1)},
    params={
        "images": Param(type="string", minLength=1, title="Images", description="Folder of images to caption."),
        "output": Param(type="string", minLength=1, title="Output root", description="Tables go to ROOT/runs/RUN_ID."),
        "run_id": Param("run", type="string", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", title="Run id"),
        "model": Param(PRETRAINED, type="string", minLength=1, description="pretrained, or a folder that train made."),
        "index": Param([], type="array", items={"type": "string"}, description="Captions tables to match against."),
        "threshold": Param(0.9, type="number", minimum=-1, maximum=1, description="Least cosine of a match."),
        "top_k": Param(10, type="integer", minimum=0, maximum=10_000, description="Matches kept for each image."),
        "encoder": Param(DEFAULT_ENCODER, enum=list(ENCODERS), type="string"),
    },
)
def caption_folder() -> None:  # noqa: D103  its text is doc_md
    @task(execution_timeout=timedelta(hours=12))
    def caption_match_report() -> str:
        """Replaces the run of that id as a whole, so a retry never doubles a row."""
        params = get_current_context()["params"]
        single = ("images", "output", "run_id", "model", "threshold", "top_k", "encoder")
        arguments = [f"--{name.replace('_', '-')}={params[name]}" for name in single]
        _captioner("run", *arguments, *(f"--index={uri}" for uri in params["index"]))
        return RunLayout(params["output"], params["run_id"]).run_dir

    @task(execution_timeout=timedelta(hours=1), retries=0)
    def verify(run_dir: str) -> None:
        """Checks every invariant of the tables."""
        _captioner("verify", run_dir)

    verify(caption_match_report())


def _captioner(*arguments: str) -> None:
    """Runs a subcommand, its output line by line in the task's log."""
    python = os.environ.get("CAPTIONER_PYTHON", sys.executable)
    command = [python, "-m", "captioner_cli", *arguments]
    # in the task's own process group, which Airflow ends as a whole where the task is cleared or marked failed
    with subprocess.Popen(  # noqa: S603  an argument list: what a form holds is never a command
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
        except BaseException:  # the task's time is up, or it is interrupted: a retry must not meet it at work
            _end(process.pid)
            raise
    if process.returncode:
        raise RuntimeError(
            f"captioner {arguments[0]} ended with exit code {process.returncode}; its last line says why"
        )


def _end(pid: int) -> None:
    """Ends a process and all that it has started, by force where it does not go by itself."""
    leader = psutil.Process(pid)
    processes = [*leader.children(recursive=True), leader]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=_GRACE_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


caption_folder()
