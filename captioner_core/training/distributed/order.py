"""The order in which training sees its images, which is the same for any number of workers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class BatchOrder:
    """Decides which images make up each batch.

    The images are dealt out in turn to as many lanes as a batch has images. Every epoch shuffles
    each lane on its own, and a batch takes the next image of every lane. A worker takes every Nth
    lane and therefore needs only every Nth image. Together, the workers make exactly the batches
    that a single worker would make. A batch depends on nothing but these numbers, so training can
    continue from any batch.

    Args:
      images: The number of images.
      batch_size: The number of images in a batch, over all workers.
      seed: The seed of the order.
    """

    images: int
    batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """The number of batches in an epoch; the last batch may be smaller."""
        return -(-self.images // self.batch_size)

    def batches(self, epoch: int, worker: int = 0, workers: int = 1) -> list[npt.NDArray[np.int64]]:
        """Returns the rows of one worker's images in each batch of an epoch.

        Args:
          epoch: The number of the epoch.
          worker: The number of the worker.
          workers: The number of workers, which must divide the batch size.
        """
        lanes = []
        for lane in range(worker, self.batch_size, workers):
            rows = np.arange(lane, self.images, self.batch_size)
            lanes.append(np.random.default_rng([self.seed, epoch, lane]).permutation(rows))
        return [
            np.array([lane[step] for lane in lanes if step < len(lane)], np.int64)
            for step in range(self.steps)
        ]
