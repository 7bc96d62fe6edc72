"""The cluster of a training, as each of three schedulers describes it."""

from __future__ import annotations

import json

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.training.distributed.cluster import Cluster, read_cluster

HOSTS = ("a:1", "b:1", "c:1")


def test_without_a_scheduler_there_is_no_cluster():
    assert read_cluster({}) is None
    assert read_cluster({"TF_CONFIG": ""}) is None
    assert read_cluster({"TF_CONFIG": "{}"}) is None
    assert read_cluster({"JOB_COMPLETION_INDEX": "0"}) is None, (
        "an Indexed Job without a service does not belong to captioner"
    )


def test_tf_config_describes_the_cluster():
    text = json.dumps({"cluster": {"worker": list(HOSTS)}, "task": {"type": "worker", "index": 2}})
    assert read_cluster({"TF_CONFIG": text}) == Cluster(HOSTS, 2)
    assert json.loads(Cluster(HOSTS, 2).tf_config()) == json.loads(text)
    chief = {
        "cluster": {"chief": ["a:1"], "worker": ["b:1", "c:1"]},
        "task": {"type": "worker", "index": 1},
    }
    assert read_cluster({"TF_CONFIG": json.dumps(chief)}) == Cluster(HOSTS, 2)


def test_an_indexed_job_describes_the_cluster():
    environ = {
        "JOB_COMPLETION_INDEX": "1",
        "HOSTNAME": "train-1",
        "CAPTIONER_SERVICE": "train-svc",
        "CAPTIONER_WORKERS": "2",
    }
    assert read_cluster(environ) == Cluster(
        ("train-0.train-svc:23456", "train-1.train-svc:23456"), 1
    )
    with pytest.raises(CaptionerError, match="CAPTIONER_WORKERS"):
        read_cluster({**environ, "CAPTIONER_WORKERS": ""})


def test_slurm_describes_the_cluster():
    environ = {
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NODELIST": "gpu[01-02]",
        "SLURM_STEP_TASKS_PER_NODE": "2,1",
        "SLURM_PROCID": "2",
    }
    assert read_cluster(environ) == Cluster(("gpu01:23456", "gpu01:23457", "gpu02:23456"), 2)
    with pytest.raises(CaptionerError, match="srun"):
        read_cluster({**environ, "SLURM_STEP_NODELIST": "gpu01"})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}']
)
def test_an_invalid_tf_config_is_refused(text):
    with pytest.raises(CaptionerError):
        read_cluster({"TF_CONFIG": text})
