"""Distributed training on two hosts.

Each host is a network namespace of this machine with one worker; a virtual cable joins them.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess

import pytest

from captioner_core.training.distributed.cluster import Cluster
from captioner_core.training.train import train
from tests.cluster.test_distributed import assert_same_weights, command
from tests.training_runs import history
from tests.training_runs import options as make_options

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*arguments):
    """Runs the ip command and returns whether it succeeded."""
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts():
    """Returns the names of two network namespaces that reach only each other."""
    if not shutil.which("ip"):
        pytest.skip("the ip command, which makes network namespaces, is not installed")
    names = [f"captioner-{os.getpid()}-{number}" for number in range(2)]
    if not all(ip("netns", "add", name) for name in names):
        pytest.skip("not allowed to make network namespaces")
    cable = [f"cap{os.getpid() % 100_000}{end}" for end in "ab"]
    try:
        assert ip("link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for name, end, address in zip(names, cable, ADDRESSES, strict=True):
            assert ip("link", "set", end, "netns", name)
            assert ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            assert ip("-n", name, "link", "set", end, "up")
            assert ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_workers_on_two_hosts_learn_the_same_weights_as_one(hosts, source, tmp_path):
    options = make_options(source, tmp_path / "one", epochs=4, dropout=0.0, learning_rate=1e-3)
    train(options)
    distributed = dataclasses.replace(options, output=str(tmp_path / "two"))
    workers = tuple(f"{address}:23456" for address in ADDRESSES)
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *command(distributed)],
            env={**os.environ, "TF_CONFIG": Cluster(workers, number).tf_config()},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, host in enumerate(hosts)
    ]
    logs = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], logs
    epochs = zip(history(tmp_path / "one"), history(tmp_path / "two"), strict=True)
    for expected, actual in epochs:
        assert actual["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    assert_same_weights(tmp_path / "one", tmp_path / "two", atol=1e-3)


def test_a_lost_host_ends_the_training_of_the_other_with_a_message(hosts, source, tmp_path):
    options = make_options(source, tmp_path / "model", epochs=500)
    workers = tuple(f"{address}:23456" for address in ADDRESSES)
    processes = [
        subprocess.Popen(
            ["ip", "netns", "exec", host, *command(options)],
            env={**os.environ, "TF_CONFIG": Cluster(workers, number).tf_config()},
            stderr=(tmp_path / f"log{number}").open("w"),
        )
        for number, host in enumerate(hosts)
    ]
    while "epoch 3/" not in (tmp_path / "log0").read_text():
        assert processes[0].poll() is None, (tmp_path / "log0").read_text()
    processes[1].kill()
    assert processes[0].wait(300) == 1
    assert "another worker is gone" in (tmp_path / "log0").read_text().splitlines()[-1]
