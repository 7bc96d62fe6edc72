"""Where this process stands among those that train together, and the strategy that joins them."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.process.tensorflow_setup import tf
from captioner_core.training.cluster import Cluster


@dataclass(frozen=True)
class ReplicaContext:
    """Which replicas are this process's: all, unless several processes train together.

    Args:
      strategy: of tf.distribute.
      worker: number of this process; 0 writes the model.
      workers: number of processes.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """Of all processes."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def own(self) -> range:
        """The replicas of this process; replica r takes every image whose place is r modulo their number."""
        each = self.replicas // self.workers
        return range(self.worker * each, (self.worker + 1) * each)

    @property
    def is_chief(self) -> bool:
        return self.worker == 0

    def rows(self, images: int) -> npt.NDArray[np.int64]:
        """The images that this process needs, as places among all."""
        places = np.arange(images)
        return places[np.isin(places % self.replicas, self.own)]

    def sum_over_workers(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The sum of what every process passes; all must call it."""
        if self.workers == 1:
            return values

        share = tf.constant(values / len(self.own), tf.float64)
        result: npt.NDArray[np.float64] = _total(self.strategy, share).numpy()
        return result


@tf.function(reduce_retracing=True)
def _total(strategy: tf.distribute.Strategy, share: tf.Tensor) -> tf.Tensor:
    return strategy.reduce(
        tf.distribute.ReduceOp.SUM, strategy.run(tf.identity, args=(share,)), axis=None
    )


def make_context(cluster: Cluster | None) -> ReplicaContext:
    """One device, several GPUs, or several processes; must come before TensorFlow does anything else."""
    if cluster is not None and len(cluster.workers) > 1:
        os.environ["TF_CONFIG"] = cluster.tf_config()
        return ReplicaContext(
            tf.distribute.MultiWorkerMirroredStrategy(), cluster.index, len(cluster.workers)
        )
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return ReplicaContext(tf.distribute.MirroredStrategy())
    return ReplicaContext(tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0"))
