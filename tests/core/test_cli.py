"""Ctrl-C ends a command, whatever library it strikes in."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SWALLOWS = """
import sys, time
from captioner_core import cli
cli._UNWIND_S = 1.0

def work():
    print("begun", flush=True)
    for _ in range(600):
        try:
            time.sleep(0.1)
        except {caught}:
            pass
    return 0

sys.exit(cli.guarded(work, "work"))
"""


@pytest.mark.parametrize("caught", ["Exception", "BaseException"])
def test_an_interrupt_is_heard_even_where_it_is_swallowed(caught):
    command = [sys.executable, "-c", SWALLOWS.format(caught=caught)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "work: interrupted; run it again to complete\n"
