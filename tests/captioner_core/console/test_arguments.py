"""Ctrl-C ends any command, and a job ends with the process that started it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.processes import read_line

SWALLOWS = """
import sys, time
from captioner_core.process import program
program.begin()

def work():
    print("begun", flush=True)
    for _ in range(600):
        try:
            time.sleep(0.1)
        except {caught}:
            pass
    return 0

sys.exit(program.guarded(work, "work"))
"""

IGNORES = """
import sys, time
from captioner_core.process import program
program.begin()

class Finalized:
    def __del__(self):
        print("begun", flush=True)
        time.sleep(60)

def work():
    Finalized()
    time.sleep(60)
    return 0

sys.exit(program.guarded(work, "work"))
"""


@pytest.mark.parametrize("caught", ["Exception", "BaseException"])
def test_an_interrupt_works_even_if_the_program_catches_it(caught):
    assert interrupted(SWALLOWS.format(caught=caught)) == (
        130,
        "captioner: interrupted; run it again to complete\n",
    )


def test_an_interrupt_works_once_even_if_python_has_to_ignore_it():
    assert interrupted(IGNORES) == (130, "captioner: interrupted; run it again to complete\n")


def interrupted(program: str) -> tuple[int, str]:
    """Returns the exit code and stderr of a program that is interrupted after it prints a line."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        read_line(process)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    return process.returncode, err


LAUNCHED = """
import os, time
from captioner_core.console import arguments
arguments.end_with_launcher()
assert "CAPTIONER_LAUNCHER" not in os.environ
print(os.getpid(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    "wrapper", [[], ["sh", "-c", '"$@"; exit', "sh"]], ids=["direct", "wrapped"]
)
def test_a_job_ends_with_what_started_it(wrapper):
    """A task that is killed can't end its job, which would then run beside the task's retry."""
    command = [*wrapper, sys.executable, "-c", LAUNCHED]
    launcher = (
        "import os, subprocess, sys, time\n"
        "environment = {**os.environ, 'CAPTIONER_LAUNCHER': str(os.getpid())}\n"
        f"subprocess.Popen({command!r}, env=environment)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", launcher], stdout=subprocess.PIPE, text=True
    ) as process:
        job = psutil.Process(int(read_line(process)))
        time.sleep(1)
        assert job.is_running(), "the job runs as long as its launcher"
        process.kill()
        process.wait()  # A zombie would still exist.
        job.wait(10)
