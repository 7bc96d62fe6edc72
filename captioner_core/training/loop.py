"""The training loop: plain TensorFlow, one step function, the best weights kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from captioner_core.errors import CheckFailed
from captioner_core.model.captioner import Captioner
from captioner_core.text import PAD
from captioner_core.training.dataset import FeatureTable, Split

LABEL_SMOOTHING = 0.1
WEIGHT_DECAY = 1e-4
CLIP_NORM = 5.0
WARMUP_SHARE = 0.05


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to; losses are nats a word, the training one with label smoothing."""

    epoch: int
    train_loss: float
    dev_loss: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The history, and the epoch whose weights the captioner holds now."""

    history: tuple[EpochResult, ...]
    best_epoch: int


class Trainer:
    """Fits a captioner by teacher forcing.

    Args:
      captioner: the network; it is changed in place.
      features: of all images.
      steps: number of steps that the learning-rate schedule spans.
      learning_rate: its peak.
      seed: of the order of the batches.
    """

    def __init__(
        self, captioner: Captioner, features: FeatureTable, *, steps: int, learning_rate: float, seed: int
    ) -> None:
        self._captioner = captioner
        self._mean = tf.constant(features.mean)
        self._cells = tf.constant(features.cells)
        self._random = np.random.default_rng(seed)
        warmup = max(1, int(steps * WARMUP_SHARE))
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup), alpha=0.05, warmup_target=learning_rate, warmup_steps=warmup
        )
        self._optimizer = keras.optimizers.AdamW(schedule, weight_decay=WEIGHT_DECAY, global_clipnorm=CLIP_NORM)
        self._optimizer.build(captioner.trainable_variables)
        signature = [tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, None, None], tf.int32)]
        self._train_step = tf.function(self._step, input_signature=signature)
        self._dev_step = tf.function(
            lambda rows, words: self._loss(rows, words, training=False), input_signature=signature
        )

    def fit(
        self, train: Split, dev: Split, *, epochs: int, batch_size: int, say: Callable[[EpochResult], None]
    ) -> TrainingResult:
        """Trains, and leaves the captioner with the weights of the epoch of least dev loss.

        Raises:
          CheckFailed: the loss is not a number.
        """
        history: list[EpochResult] = []
        best: list[npt.NDArray[np.float32]] = []
        best_loss, best_epoch = math.inf, 0
        for epoch in range(1, epochs + 1):
            start = time.monotonic()
            train_loss = self._epoch(train, batch_size)
            result = EpochResult(epoch, train_loss, self.evaluate(dev, batch_size), time.monotonic() - start)
            if not (math.isfinite(result.train_loss) and math.isfinite(result.dev_loss)):
                raise CheckFailed(f"loss is {train_loss} in epoch {epoch}; nothing was written, lower --learning-rate")
            history.append(result)
            say(result)
            if result.dev_loss < best_loss:
                best_loss, best_epoch = result.dev_loss, epoch
                best = [variable.numpy() for variable in self._captioner.trainable_variables]
        for variable, value in zip(self._captioner.trainable_variables, best, strict=True):
            variable.assign(value)
        return TrainingResult(tuple(history), best_epoch)

    def evaluate(self, split: Split, batch_size: int) -> float:
        """Mean negative log-likelihood a word, in nats, without smoothing or dropout."""
        total, words = 0.0, 0.0
        for rows, batch in split.batches(batch_size):
            loss, count = self._dev_step(rows, _trimmed(batch))
            total, words = total + float(loss), words + float(count)
        return total / max(words, 1.0)

    def _epoch(self, split: Split, batch_size: int) -> float:
        total, words = tf.constant(0.0), tf.constant(0.0)
        for rows, batch in split.batches(batch_size, self._random.permutation(len(split))):
            loss, count = self._train_step(rows, _trimmed(batch))
            total, words = total + loss, words + count
        return float(total / words)

    def _step(self, rows: tf.Tensor, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            loss, count = self._loss(rows, words, training=True)
            mean_loss = loss / count
        variables = self._captioner.trainable_variables
        self._optimizer.apply(tape.gradient(mean_loss, variables), variables)
        return loss, count

    def _loss(self, rows: tf.Tensor, words: tf.Tensor, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Summed cross-entropy and number of words."""
        mean = tf.gather(self._mean, rows)
        cells = tf.cast(tf.gather(self._cells, rows), tf.float32)
        state = self._captioner.encode(mean, cells, training=training)
        given, wanted = words[:, :, :-1], words[:, :, 1:]
        logits = self._captioner.teacher_forced(state, given, training=training)
        weight = tf.cast(tf.not_equal(wanted, PAD), tf.float32)
        log_prob = tf.nn.log_softmax(logits)
        loss = -tf.gather(log_prob, wanted, batch_dims=3)
        if training:
            loss = (1 - LABEL_SMOOTHING) * loss - LABEL_SMOOTHING * tf.reduce_mean(log_prob, axis=-1)
        return tf.reduce_sum(loss * weight), tf.reduce_sum(weight)


def _trimmed(words: np.ndarray) -> np.ndarray:
    """Without the steps that are PAD in every caption of the batch."""
    return words[:, :, : int((words != PAD).any(axis=(0, 1)).sum())]
