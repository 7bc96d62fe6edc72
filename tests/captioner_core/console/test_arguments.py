"""Ctrl-C ends a command, whatever library it strikes in."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest

SWALLOWS = """
import sys, time
from captioner_core.console import arguments
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

sys.exit(arguments.guarded(work, "work"))
"""

IGNORES = """
import sys, time
from captioner_core.console import arguments
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

sys.exit(arguments.guarded(work, "work"))
"""


@pytest.mark.parametrize("caught", ["Exception", "BaseException"])
def test_an_interrupt_is_heard_even_where_it_is_swallowed(caught):
    assert interrupted(SWALLOWS.format(caught=caught)) == (
        130,
        "captioner: interrupted; run it again to complete\n",
    )


def test_an_interrupt_is_heard_once_where_python_has_to_ignore_it():
    assert interrupted(IGNORES) == (130, "captioner: interrupted; run it again to complete\n")


def interrupted(program: str) -> tuple[int, str]:
    """Exit code and stderr of a program that is interrupted once it has printed a line."""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    return process.returncode, said


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
    """A task killed with -9 can't end its job, which would then be at work beside the task's retry."""
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
        job = psutil.Process(int(process.stdout.readline()))
        time.sleep(1)
        assert job.is_running(), "it stays while its launcher does"
        process.kill()
        process.wait()  # a zombie would still be there
        job.wait(10)
