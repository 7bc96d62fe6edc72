"""Which hosts train together: from TF_CONFIG, a Kubernetes Indexed Job, or Slurm.

Whoever starts the processes sets one of these; the result is always TF_CONFIG, which is
what TensorFlow reads.
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
      workers: ``host:port`` of each.
      index: this one's place among them; 0 writes the model.
    """

    workers: tuple[str, ...]
    index: int

    def __post_init__(self) -> None:
        if not self.workers or not 0 <= self.index < len(self.workers):
            raise CaptionerError(
                f"worker {self.index} of {len(self.workers)} is none; number the workers from 0 without a gap"
            )

    def tf_config(self) -> str:
        """TF_CONFIG for this worker."""
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": task})


def read_cluster(environ: Mapping[str, str]) -> Cluster | None:
    """The cluster that the environment speaks of; None where this process trains alone.

    Raises:
      CaptionerError: it speaks of one that can't be.
    """
    if environ.get("TF_CONFIG"):
        return _from_tf_config(environ["TF_CONFIG"])
    if environ.get("JOB_COMPLETION_INDEX") and environ.get("CAPTIONER_SERVICE"):
        return _from_indexed_job(environ)
    if int(environ.get("SLURM_STEP_NUM_TASKS") or 1) > 1:
        return _from_slurm(environ)
    return None


def _from_tf_config(text: str) -> Cluster | None:
    try:
        value = json.loads(text)
        listed = value.get("cluster", {})
        workers = (*listed.get("chief", ()), *listed.get("worker", ()))
        task = value.get("task", {"type": "worker", "index": 0})
        index = int(task["index"]) + (
            len(listed.get("chief", ())) if task["type"] == "worker" else 0
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CaptionerError(
            f"TF_CONFIG {text!r} is not of TensorFlow's form ({error!r}); mend it or unset it"
        ) from error
    return Cluster(workers, index) if workers else None


def _from_indexed_job(environ: Mapping[str, str]) -> Cluster:
    """Pods of an Indexed Job are called ``JOB-INDEX``, and are found below the headless service."""
    host, index = environ.get("HOSTNAME", ""), environ["JOB_COMPLETION_INDEX"]
    count = environ.get("CAPTIONER_WORKERS", "")
    if not host.endswith(f"-{index}") or not count.isdigit():
        raise CaptionerError(
            f"JOB_COMPLETION_INDEX {index!r} needs HOSTNAME JOB-{index} (it is {host!r}) and CAPTIONER_WORKERS, the "
            f"Job's completions (it is {count!r}); set both in the pod's template"
        )
    job, port = host.removesuffix(f"-{index}"), environ.get("CAPTIONER_PORT", str(_DEFAULT_PORT))
    service = environ["CAPTIONER_SERVICE"]
    return Cluster(tuple(f"{job}-{n}.{service}:{port}" for n in range(int(count))), int(index))


def _from_slurm(environ: Mapping[str, str]) -> Cluster:
    from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import (
        expand_hostlist,
        expand_tasks_per_node,
    )

    from captioner_core.process import tensorflow_setup  # noqa: F401  first, so that TensorFlow is set up as everywhere

    try:
        hosts = expand_hostlist(environ["SLURM_STEP_NODELIST"])
        tasks = expand_tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
        port = int(environ.get("CAPTIONER_PORT", _DEFAULT_PORT))
        workers = [
            f"{host}:{port + n}"
            for host, count in zip(hosts, tasks, strict=True)
            for n in range(count)
        ]
        return Cluster(tuple(workers), int(environ["SLURM_PROCID"]))
    except (KeyError, ValueError) as error:
        raise CaptionerError(
            f"Slurm's variables of this step don't fit each other ({error!r}); start it with srun"
        ) from error
