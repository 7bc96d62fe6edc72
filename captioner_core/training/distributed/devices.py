"""The replicas of a training: how many there are, and which of them belong to this process.

A replica is a copy of the network on one device. Every replica computes its share of each batch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.process.tensorflow_setup import tf
from captioner_core.training.distributed.cluster import Cluster


@dataclass(frozen=True)
class ReplicaContext:
    """The replicas of this process among those of all processes that train together.

    Args:
      strategy: The tf.distribute strategy that joins the replicas.
      worker_index: The number of this process. Process 0, the chief, writes the model.
      worker_count: The number of processes.
    """

    strategy: tf.distribute.Strategy
    worker_index: int = 0
    worker_count: int = 1

    @property
    def replica_count(self) -> int:
        """The number of replicas of all processes together."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def local_replicas(self) -> range:
        """The numbers of this process's replicas."""
        count = self.replica_count // self.worker_count
        return range(self.worker_index * count, (self.worker_index + 1) * count)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the model and the checkpoint."""
        return self.worker_index == 0

    def local_rows(self, images: int) -> npt.NDArray[np.int64]:
        """Returns the rows, among those of all images, that this process needs.

        Replica r needs the rows whose remainder by the number of replicas is r; see ``BatchOrder``.
        """
        rows = np.arange(images)
        return rows[np.isin(rows % self.replica_count, self.local_replicas)]

    def sum_over_workers(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the sum of the arrays that all processes pass; every process must call it."""
        if self.worker_count == 1:
            return values
        # The reduction sums over replicas, so each replica of this process passes a part.
        share = tf.constant(values / len(self.local_replicas), tf.float64)
        result: npt.NDArray[np.float64] = _sum_over_replicas(self.strategy, share).numpy()
        return result


@tf.function(reduce_retracing=True)
def _sum_over_replicas(strategy: tf.distribute.Strategy, share: tf.Tensor) -> tf.Tensor:
    shares = strategy.run(tf.identity, args=(share,))
    return strategy.reduce(tf.distribute.ReduceOp.SUM, shares, axis=None)


def make_context(cluster: Cluster | None) -> ReplicaContext:
    """Returns the replicas for one device, several GPUs of this host, or several processes.

    It must be called before TensorFlow does anything else.

    Args:
      cluster: The processes that train together; None for this one alone.
    """
    if cluster is not None and len(cluster.workers) > 1:
        os.environ["TF_CONFIG"] = cluster.tf_config()
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        return ReplicaContext(strategy, cluster.index, len(cluster.workers))
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return ReplicaContext(tf.distribute.MirroredStrategy())
    return ReplicaContext(tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0"))
