"""What a training says as it goes: a line an epoch, and TensorBoard's event files."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from captioner_core.process.tensorflow_setup import tf
from captioner_core.training.loop import EpochResult


class EpochLog:
    """Writes each epoch's figures.

    Args:
      folder: of the event files; ``tensorboard --logdir`` shows it.
      epochs: how many there will be.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._epochs = epochs
        self._writer = tf.summary.create_file_writer(str(folder))

    def say(self, result: EpochResult) -> None:
        """Prints the line and writes the scalars."""
        left = (self._epochs - result.epoch) * result.seconds
        came_to = (
            f"loss {result.train_loss:.3f}"
            if result.train_loss is not None
            else f"reward {result.reward:.3f}"
        )
        dev = f"dev loss {result.dev_loss:.3f}"
        if result.dev_reward is not None:
            dev += f", dev reward {result.dev_reward:.3f}"
        line = f"train: epoch {result.epoch}/{self._epochs}, {came_to}, {dev}, {result.captions_per_s:.0f} captions/s"
        print(f"{line}, {left:.0f} s left", file=sys.stderr, flush=True)
        with self._writer.as_default(step=result.epoch):
            for name, value in asdict(result).items():
                if name != "epoch" and value is not None:
                    tf.summary.scalar(name, value)
        self._writer.flush()
