"""The order in which training sees its images: the same for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class BatchOrder:
    """Which images make up each batch.

    Images are dealt out in turn to as many lanes as a batch has images. Every epoch shuffles
    each lane by itself, and a batch is the next image of every lane. A worker takes every Nth
    lane, and so needs every Nth image alone; together the workers make the very batches that
    one alone would. Nothing but these numbers decides a batch, so training can go on from any.

    Args:
      images: how many there are.
      batch_size: images of a batch, over all workers.
      seed: another seed makes another order.
    """

    images: int
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-self.images // self.batch_size)

    def batches(self, epoch: int, worker: int = 0, workers: int = 1) -> list[npt.NDArray[np.int64]]:
        """Each batch's images of one worker, as places among all images.

        Args:
          epoch: its number.
          worker: the worker's number.
          workers: how many there are; they must divide the batch size.
        """
        lanes = []
        for lane in range(worker, self.batch_size, workers):
            own = np.arange(lane, self.images, self.batch_size)
            lanes.append(np.random.default_rng([self.seed, epoch, lane]).permutation(own))
        return [
            np.array([lane[step] for lane in lanes if step < len(lane)], np.int64)
            for step in range(self.steps)
        ]
