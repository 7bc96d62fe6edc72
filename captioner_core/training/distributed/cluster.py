"""The hosts that train together, as TF_CONFIG, a Kubernetes Indexed Job or Slurm describe them.

Whatever starts the processes sets the environment variables of one of these. The result is always
expressed as TF_CONFIG, which is what TensorFlow reads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from captioner_core.errors import CaptionerError

_DEFAULT_PORT = 23456


@dataclass(frozen=True)
class Cluster:
    """The workers of a training, and which of them this process is.

    Args:
      workers: The ``host:port`` of each worker.
      index: The number of this worker. Worker 0 writes the model.

    Raises:
      CaptionerError: The number does not belong to a worker.
    """

    workers: tuple[str, ...]
    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < len(self.workers):
            raise CaptionerError(
                f"worker {self.index} is not one of {len(self.workers)} workers; number the "
                "workers from 0 without a gap"
            )

    def tf_config(self) -> str:
        """Returns the value of TF_CONFIG for this worker."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


def read_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """Returns the cluster that the environment describes; None if this process trains alone.

    Raises:
      CaptionerError: The description is incomplete or contradicts itself.
    """
    if environ.get("TF_CONFIG"):
        return _from_tf_config(environ["TF_CONFIG"])
    if environ.get("JOB_COMPLETION_INDEX") and environ.get("CAPTIONER_SERVICE"):
        return _from_indexed_job(environ)
    return _from_slurm(environ) if int(environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1 else None


def _from_tf_config(text: str) -> Cluster | None:
    """Returns the cluster of a TF_CONFIG; None if it lists no workers.

    A chief, which TensorFlow lists on its own, becomes worker 0.
    """
    try:
        value = json.loads(text)
        cluster = value.get("cluster", {})
        chiefs = tuple(cluster.get("chief", ()))
        workers = (*chiefs, *cluster.get("worker", ()))
        task = value.get("task", {"type": "worker", "index": 0})
        index = int(task["index"])
        if task["type"] == "worker":
            index += len(chiefs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptionerError(
            f"TF_CONFIG {text!r} is not of TensorFlow's form ({error!r}); mend it or unset it"
        ) from error
    return Cluster(workers, index) if workers else None


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    """Returns the cluster of a Kubernetes Indexed Job.

    The Job's pods have the host names ``JOB-INDEX`` below its headless service.
    """
    host = environ.get("HOSTNAME", "")
    index = environ["JOB_COMPLETION_INDEX"]
    count = environ.get("CAPTIONER_WORKERS", "")
    if not host.endswith(f"-{index}") or not count.isdigit():
        raise CaptionerError(
            f"JOB_COMPLETION_INDEX {index!r} needs HOSTNAME JOB-{index} (it is {host!r}) and "
            f"CAPTIONER_WORKERS, the Job's completions (it is {count!r}); set both in the pod's "
            "template"
        )
    job = host.removesuffix(f"-{index}")
    service = environ["CAPTIONER_SERVICE"]
    port = environ.get("CAPTIONER_PORT", str(_DEFAULT_PORT))
    workers = tuple(f"{job}-{number}.{service}:{port}" for number in range(int(count)))
    return Cluster(workers, int(index))


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    """Returns the cluster of a Slurm step; the tasks of a host listen on consecutive ports."""
    # captioner's TensorFlow setup must be loaded before any of TensorFlow's own modules.
    from captioner_core.process import tensorflow_setup  # noqa: F401, I001
    from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import (
        expand_hostlist,
        expand_tasks_per_node,
    )

    try:
        hosts = expand_hostlist(environ["SLURM_STEP_NODELIST"])
        tasks = expand_tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
        port = int(environ.get("CAPTIONER_PORT", _DEFAULT_PORT))
        workers = [
            f"{host}:{port + number}"
            for host, count in zip(hosts, tasks, strict=True)
            for number in range(count)
        ]
        return Cluster(tuple(workers), int(environ["SLURM_PROCID"]))
    except (KeyError, ValueError) as error:
        raise CaptionerError(
            f"Slurm's variables of this step don't fit each other ({error!r}); start it with srun"
        ) from error
