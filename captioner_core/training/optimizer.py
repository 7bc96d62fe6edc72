"""The optimizer and its learning rate."""

from __future__ import annotations

from typing import Any

from captioner_core.options import TrainOptions
from captioner_core.process.tensorflow_setup import keras

WEIGHT_DECAY = 1e-4
WARMUP_SHARE = 0.05
_FINAL_SHARE = 0.05  # of the peak, at the end of the cosine


class _Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up and half a cosine for teacher forcing, then half a cosine for self-critical training."""

    def __init__(self, options: TrainOptions, steps: int) -> None:
        self._forced = options.epochs * steps
        warmup = max(1, int(self._forced * WARMUP_SHARE))
        self._first = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, self._forced - warmup),
            alpha=_FINAL_SHARE,
            warmup_target=options.learning_rate,
            warmup_steps=warmup,
        )
        self._then = keras.optimizers.schedules.CosineDecay(
            options.reinforce_rate, max(1, options.reinforce_epochs * steps), alpha=_FINAL_SHARE
        )

    def __call__(self, step: Any) -> Any:
        reinforced = keras.ops.maximum(step - self._forced, 0)
        return keras.ops.where(step < self._forced, self._first(step), self._then(reinforced))


def make_optimizer(options: TrainOptions, steps: int) -> keras.optimizers.Optimizer:
    """AdamW over the whole training; ``steps`` are those of an epoch.

    Gradients are not clipped: Keras would clip each replica's own, and several workers would
    no longer follow one.
    """
    return keras.optimizers.AdamW(_Rate(options, steps), weight_decay=WEIGHT_DECAY)
