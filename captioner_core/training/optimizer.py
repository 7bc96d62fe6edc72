"""How training is set up, and the optimizer with its learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

WEIGHT_DECAY = 1e-4
WARMUP_SHARE = 0.05
_FINAL_SHARE = 0.05  # of the peak, at the end of the cosine


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Args:
      epochs: by teacher forcing.
      reinforce_epochs: after those, by self-critical training.
      batch_size: images of a step over all replicas, each with all its captions.
      learning_rate: peak of teacher forcing.
      reinforce_rate: of self-critical training.
      samples: captions drawn for an image in self-critical training.
      seed: of order, dropout and sampling.
      checkpoint_s: seconds between checkpoints.
    """

    epochs: int
    reinforce_epochs: int = 0
    batch_size: int = 16
    learning_rate: float = 1e-3
    reinforce_rate: float = 1e-4
    samples: int = 5
    seed: int = 0
    checkpoint_s: float = 60.0


class _Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up and half a cosine for teacher forcing, then one low rate."""

    def __init__(self, settings: Settings, steps: int) -> None:
        self._forced = settings.epochs * steps
        warmup = max(1, int(self._forced * WARMUP_SHARE))
        self._cosine = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, self._forced - warmup),
            alpha=_FINAL_SHARE,
            warmup_target=settings.learning_rate,
            warmup_steps=warmup,
        )
        self._after = settings.reinforce_rate

    def __call__(self, step: Any) -> Any:
        return keras.ops.where(step < self._forced, self._cosine(step), self._after)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("a training is described by its options")


def make_optimizer(settings: Settings, steps: int) -> keras.optimizers.Optimizer:
    """AdamW over the whole training; ``steps`` are those of an epoch.

    Gradients are not clipped: Keras would clip each replica's own, and several workers would
    no longer follow one.
    """
    return keras.optimizers.AdamW(_Rate(settings, steps), weight_decay=WEIGHT_DECAY)
