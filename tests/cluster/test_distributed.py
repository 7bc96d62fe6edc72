"""Distributed training in real processes on this machine.

Several workers must learn the same weights as a single one, and a training that was killed or
asked to stop must continue from its checkpoint.
"""

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
from tests.training_runs import history, weights
from tests.training_runs import options as make_options

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def command(options):
    """Returns the command that trains in as many processes as the options say."""
    return [
        sys.executable,
        "-m",
        "captioner_core.training",
        *worker_arguments(options),
        f"--workers={options.workers}",
    ]


def assert_same_weights(model_dir, expected_dir, **tolerance):
    """Checks that two model folders have the same weights."""
    expected = weights(expected_dir)
    for name, value in weights(model_dir).items():
        np.testing.assert_allclose(value, expected[name], **tolerance, err_msg=name)


def test_two_workers_learn_the_same_weights_as_one(source, tmp_path):
    """They take 50 steps: ten epochs of five batches, without dropout."""
    options = make_options(source, tmp_path / "one", epochs=10, dropout=0.0, learning_rate=1e-3)
    train(options)
    two = dataclasses.replace(options, output=str(tmp_path / "two"), workers=2)
    subprocess.run(command(two), check=True, timeout=600, capture_output=True)
    epochs = zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True)
    for expected, actual in epochs:
        for loss in ("train_loss", "dev_loss"):
            assert actual[loss] == pytest.approx(expected[loss], rel=1e-4)
    assert_same_weights(tmp_path / "one", tmp_path / "two", atol=1e-3)


def wait_for_checkpoint(path, process, step):
    """Waits until a training process has written a checkpoint of at least this many steps."""
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
    """Returns the process ids of a process's children."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


@pytest.mark.parametrize("step", [5, "random"])
def test_a_killed_worker_is_reported_and_a_second_call_ends_with_the_same_weights(
    source, tmp_path, step
):
    """A worker is killed at a random step, and at the last step of an epoch.

    After the checkpoint of that last step only the end of the epoch remains to be done.
    """
    options = make_options(source, tmp_path / "model", epochs=12, workers=2, checkpoint_s=0.0)
    undisturbed = dataclasses.replace(options, output=str(tmp_path / "undisturbed"))
    subprocess.run(command(undisturbed), check=True, timeout=600, capture_output=True)
    step = int(np.random.default_rng(time.time_ns()).integers(1, 50)) if step == "random" else step
    process = subprocess.Popen(command(options), stderr=subprocess.PIPE, text=True)
    wait_for_checkpoint(tmp_path / "model.training" / "checkpoint.npz", process, step)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "worker 1 of 2 was killed by SIGKILL" in log.splitlines()[-1]
    assert not (tmp_path / "model").exists()
    subprocess.run(command(options), check=True, timeout=600, capture_output=True)
    assert_same_weights(tmp_path / "model", tmp_path / "undisturbed", rtol=0, atol=0)
    losses = [epoch["train_loss"] for epoch in history(tmp_path / "model")]
    assert losses == [epoch["train_loss"] for epoch in history(tmp_path / "undisturbed")]


@pytest.mark.parametrize(
    ("workers", "signal_number"), [(1, signal.SIGINT), (2, signal.SIGTERM), (2, signal.SIGINT)]
)
def test_a_signal_to_stop_saves_a_checkpoint(source, tmp_path, workers, signal_number):
    options = make_options(
        source, tmp_path / "model", epochs=200, workers=workers, checkpoint_s=0.0
    )
    process = subprocess.Popen(command(options), stderr=subprocess.PIPE, text=True)
    checkpoint = tmp_path / "model.training" / "checkpoint.npz"
    wait_for_checkpoint(checkpoint, process, 12)
    process.send_signal(signal_number)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 128 + signal_number, log
    assert log.splitlines()[-1] == "captioner: interrupted; run it again to complete"
    assert "Traceback" not in log
    assert checkpoint.exists()
