"""The line that shows a job's progress."""

from __future__ import annotations

import sys
import time

import pytest

from captioner_core.console.progress import advance, hide_progress, progress


@pytest.fixture
def clock(monkeypatch):
    """Returns a list whose number is the time that progress sees, in seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_the_time_left_is_estimated_without_the_start(clock, capsys):
    with progress("caption", 1000):
        clock[0] += 60  # Models are loaded meanwhile.
        advance(10)
        clock[0] += 20
        advance(200)
    line = capsys.readouterr().err.splitlines()[0]
    assert line == "caption: 210/1000 images, 10.0/s, 79 s left"


def test_one_step_gives_no_estimate(clock, capsys):
    with progress("caption", 1000):
        clock[0] += 60
        advance(10)
    assert capsys.readouterr().err == "caption: 10/1000 images in 60.0 s\n"


def test_hidden_progress_prints_nothing(clock, capsys):
    with hide_progress(), progress("match", 3):
        advance(3)
    assert capsys.readouterr().err == ""
