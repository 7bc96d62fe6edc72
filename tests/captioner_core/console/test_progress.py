"""What a person is told while a job runs."""

from __future__ import annotations

import pytest

from captioner_core.console import progress as shown
from captioner_core.console.progress import advance, hide_progress, progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(shown.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def test_the_time_left_leaves_out_the_start(clock, capsys):
    with progress("caption", 1000):
        clock[0] += 60  # models are loaded
        advance(10)
        clock[0] += 20
        advance(200)
    line = capsys.readouterr().err.splitlines()[0]
    assert line == "caption: 210/1000 images, 10.0/s, 79 s left"


def test_nothing_is_foretold_from_one_step(clock, capsys):
    with progress("caption", 1000):
        clock[0] += 60
        advance(10)
    assert capsys.readouterr().err == "caption: 10/1000 images in 60.0 s\n"


def test_hidden_progress_says_nothing(clock, capsys):
    with hide_progress(), progress("match", 3):
        advance(3)
    assert capsys.readouterr().err == ""
