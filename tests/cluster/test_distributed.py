"""Real processes that train together: they follow one alone, and go on after being killed or asked to stop."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from captioner_core.training.distributed.launcher import worker_arguments
from captioner_core.training.train import train
from tests.training_runs import history, options, weights

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def command(asked):
    return [
        sys.executable,
        "-m",
        "captioner_core.training",
        *worker_arguments(asked),
        f"--workers={asked.workers}",
    ]


def assert_same_weights(one, other, **tolerance):
    for name, value in weights(one).items():
        np.testing.assert_allclose(value, weights(other)[name], **tolerance, err_msg=name)


def test_two_workers_follow_one(source, tmp_path):
    """Ten epochs of five batches without dropout: 50 steps."""
    asked = options(source, tmp_path / "one", epochs=10, dropout=0.0, learning_rate=1e-3)
    train(asked)
    two = dataclasses.replace(asked, output=str(tmp_path / "two"), workers=2)
    subprocess.run(command(two), check=True, timeout=600, capture_output=True)
    for alone, together in zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True):
        for loss in ("train_loss", "dev_loss"):
            assert together[loss] == pytest.approx(alone[loss], rel=1e-4)
    assert_same_weights(tmp_path / "one", tmp_path / "two", atol=1e-3)


def wait_for_checkpoint(path, process, step):
    """Waits until a checkpoint of at least this many steps is there."""
    while process.poll() is None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                state = json.loads(stored["state"].tobytes())
            if (state["epoch"] - 1) * 5 + state["step"] >= step:
                return
        except (OSError, ValueError, KeyError, EOFError):
            pass
        time.sleep(0.02)
    raise AssertionError("training ended before it could be disturbed")


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize("step", [5, "random"])
def test_a_worker_killed_is_said_and_the_relaunch_ends_with_the_same_weights(
    source, tmp_path, step
):
    """At any step, and at an epoch's last, whose checkpoint leaves nothing of the epoch to do but its end."""
    asked = options(source, tmp_path / "model", epochs=12, workers=2, checkpoint_s=0.0)
    undisturbed = dataclasses.replace(asked, output=str(tmp_path / "undisturbed"))
    subprocess.run(command(undisturbed), check=True, timeout=600, capture_output=True)
    step = int(np.random.default_rng(time.time_ns()).integers(1, 50)) if step == "random" else step
    process = subprocess.Popen(command(asked), stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(tmp_path / "model.training" / "checkpoint.npz", process, step)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker 1 of 2 was killed by SIGKILL" in said.splitlines()[-1]
    assert not (tmp_path / "model").exists()
    subprocess.run(command(asked), check=True, timeout=600, capture_output=True)
    assert_same_weights(tmp_path / "model", tmp_path / "undisturbed", rtol=0, atol=0)
    ours, theirs = history(tmp_path / "model"), history(tmp_path / "undisturbed")
    assert [epoch["train_loss"] for epoch in ours] == [epoch["train_loss"] for epoch in theirs]


@pytest.mark.parametrize(
    ("workers", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM), (2, signal.SIGINT)]
)
def test_asked_to_stop_it_saves_and_goes_on(source, tmp_path, workers, number):
    asked = options(source, tmp_path / "model", epochs=200, workers=workers, checkpoint_s=0.0)
    process = subprocess.Popen(command(asked), stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "model.training" / "checkpoint.npz"
    wait_for_checkpoint(checkpoint, process, 12)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert said.splitlines()[-1] == "captioner: interrupted; run it again to complete"
    assert "Traceback" not in said
    assert checkpoint.exists()
