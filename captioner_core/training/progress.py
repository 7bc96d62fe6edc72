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
            _figure("dev loss", result.dev_loss, result.dev_losses),
        ]
        if result.dev_reward is not None:
            figures.append(_figure("dev reward", result.dev_reward, result.dev_rewards))
        seconds_left = (self._epochs - result.epoch) * result.seconds
        print(
            f"train: epoch {result.epoch}/{self._epochs}, {', '.join(figures)}, "
            f"{result.captions_per_s:.0f} captions/s, {seconds_left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
        with self._writer.as_default(step=result.epoch):
            for name, value in asdict(result).items():
                if isinstance(value, tuple):
                    for number, of_dataset in enumerate(value):
                        tf.summary.scalar(f"{name}/{number}", of_dataset)
                elif name != "epoch" and value is not None:
                    tf.summary.scalar(name, value)
        self._writer.flush()


def _figure(name: str, mean: float, by_dataset: tuple[float, ...]) -> str:
    """Returns a figure of dev: its mean, and its value for each dataset if there are several."""
    text = f"{name} {mean:.3f}"
    if len(by_dataset) < 2:
        return text
    return f"{text} ({', '.join(f'{value:.3f}' for value in by_dataset)})"
