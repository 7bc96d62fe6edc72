"""Progress of a training: one line per epoch on stderr, and event files for TensorBoard."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from captioner_core.process.tensorflow_setup import tf
from captioner_core.training.loop import EpochResult


class EpochLog:
    """Writes the figures of each epoch.

    Args:
      folder: The folder of the event files, which ``tensorboard --logdir`` shows.
      epochs: The number of epochs that there will be.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._epochs = epochs
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, result: EpochResult) -> None:
        """Prints the line of an epoch and writes its scalars."""
        is_loss = result.train_loss is not None
        figures = [
            f"loss {result.train_loss:.3f}" if is_loss else f"reward {result.reward:.3f}",
            f"dev loss {result.dev_loss:.3f}",
        ]
        if result.dev_reward is not None:
            figures.append(f"dev reward {result.dev_reward:.3f}")
        seconds_left = (self._epochs - result.epoch) * result.seconds
        print(
            f"train: epoch {result.epoch}/{self._epochs}, {', '.join(figures)}, "
            f"{result.captions_per_s:.0f} captions/s, {seconds_left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
        with self._writer.as_default(step=result.epoch):
            for name, value in asdict(result).items():
                if name != "epoch" and value is not None:
                    tf.summary.scalar(name, value)
        self._writer.flush()
