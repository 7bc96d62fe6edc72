"""The training loop, which is the same on one device, on several, and on several hosts.

A batch is a function of seed, epoch and step (see ``order``), and so are dropout and sampling. A
checkpoint therefore needs only the tensors and a few numbers, and a training that continues from it
ends with the weights of a training that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning import network
from captioner_core.captioning.search import tensorflow_search
from captioner_core.errors import CheckFailed
from captioner_core.options import TrainOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.text.vocabulary import PAD
from captioner_core.training.checkpoint import (
    NO_SCORE,
    CheckpointFile,
    TrainingState,
)
from captioner_core.training.dataset import Split
from captioner_core.training.distributed.devices import ReplicaContext
from captioner_core.training.distributed.order import BatchOrder
from captioner_core.training.rewards.self_critical import compute_advantages, prepend_start
from captioner_core.training.step import ReplicaShare, StepKind, TrainStep, caption_loss
from captioner_core.training.stopping import StopRequest

_DEV_BATCH = 64


@dataclass(frozen=True)
class EpochResult:
    """The figures of an epoch.

    Args:
      epoch: Number of the epoch, from 1.
      train_loss: Mean loss in nats a word, with label smoothing. None in self-critical training.
      dev_loss: Mean loss on dev in nats a word, without label smoothing: the weighted mean over
        the datasets.
      seconds: Time for the training images.
      captions_per_s: Captions that all processes trained on in a second.
      input_share: Share of the time in which the loop waited for its input.
      reward: Mean reward of the samples. None in teacher forcing.
      dev_reward: Mean reward of the captions found for dev, the weighted mean over the datasets.
        None in teacher forcing.
      dev_losses: The loss on dev of each dataset.
      dev_rewards: The reward on dev of each dataset; empty in teacher forcing.
    """

    epoch: int
    train_loss: float | None
    dev_loss: float
    seconds: float
    captions_per_s: float
    input_share: float
    reward: float | None = None
    dev_reward: float | None = None
    dev_losses: tuple[float, ...] = ()
    dev_rewards: tuple[float, ...] = ()


class Trainer:
    """Fits a captioner: first by teacher forcing, then by self-critical training.

    Args:
      context: The replicas of this process.
      captioner: The network, created under the context's strategy; its weights change in place.
      train: The images to learn from.
      dev: The images on which the best epoch is chosen.
      options: The options of the training.
      checkpoint: The file to continue from and to write, which only the chief has.
    """

    def __init__(
        self,
        context: ReplicaContext,
        captioner: network.Captioner,
        train: Split,
        dev: Split,
        options: TrainOptions,
        checkpoint: CheckpointFile | None = None,
    ) -> None:
        self._context = context
        self._captioner = captioner
        self._train = train
        self._dev = dev
        self._options = options
        self._checkpoint = checkpoint
        images = len(train.captions)
        self._order = BatchOrder(images, options.batch_size, options.seed)
        # The row of each training image among this process's features; -1 for other processes'.
        self._feature_rows = np.full(images, -1, np.int64)
        local_rows = context.local_rows(images)
        self._feature_rows[local_rows] = np.arange(len(local_rows))
        self._state = TrainingState(checkpoint.fingerprint if checkpoint else "")
        self._best_weights: list[npt.NDArray[np.float32]] = []
        self._saved_at = time.monotonic()
        self._step = TrainStep(context, captioner, options, self._order.steps)
        self._dev_loss = tf.function(caption_loss, reduce_retracing=True)
        self._draw = tf.function(tensorflow_search.draw_captions, reduce_retracing=True)
        self._search = tensorflow_search.TensorFlowSearch(captioner, captioner.config.beam_width)

    def fit(
        self,
        on_epoch: Callable[[EpochResult], None] | None = None,
        stop: StopRequest | None = None,
    ) -> TrainingState:
        """Trains, and leaves the captioner with the weights of the best epoch.

        Teacher forcing keeps the weights with the lowest dev loss. Self-critical training starts
        from them and keeps those with the highest reward on dev.

        Args:
          on_epoch: Receives the figures of each epoch.
          stop: The request to stop, which ends the training after the current batch.

        Raises:
          CheckFailed: The loss is not finite.
          Interrupted: A stop was requested. The checkpoint is written.
        """
        stop = stop or StopRequest()
        self._resume()
        state = self._state
        forced_epochs = self._options.epochs
        while state.epoch <= forced_epochs + self._options.reinforce_epochs:
            is_self_critical = state.epoch > forced_epochs
            if state.epoch == forced_epochs + 1 and not state.step:
                self._assign_weights(self._best_weights)
                state.best_score = NO_SCORE
            result = self._run_epoch(is_self_critical, stop)
            self._keep_if_best(result)
            state.history.append(asdict(result))
            state.epoch += 1
            state.step = 0
            state.loss = 0.0
            state.words = 0.0
            self._save()
            if on_epoch is not None:
                on_epoch(result)
        self._assign_weights(self._best_weights)
        return state

    def evaluate(self) -> tuple[float, ...]:
        """Returns the mean negative log-likelihood of each dataset's dev split, in nats a word.

        There is no label smoothing and no dropout.
        """
        totals = np.zeros((len(self._dev.parts), 2))
        for part, rows, cells in self._dev_batches():
            words = _trim_padding(self._dev.captions.words[rows])
            weights = np.ones(words.shape[:2], np.float32)
            loss = self._dev_loss(self._captioner, cells, words, weights)
            totals[part] += [float(value) for value in loss]
        return self._mean_by_dataset(totals)

    def evaluate_reward(self) -> tuple[float, ...]:
        """Returns the mean reward of the captions that the search finds for each dataset's dev."""
        totals = np.zeros((len(self._dev.parts), 2))
        for part, rows, cells in self._dev_batches():
            words = self._search.find(cells).words[:, :1]
            totals[part] += [float(self._dev.score(rows, words).sum()), len(rows)]
        return self._mean_by_dataset(totals)

    def _mean_by_dataset(self, totals: npt.NDArray[np.float64]) -> tuple[float, ...]:
        """Returns the mean over all workers' dev images of each dataset.

        Args:
          totals: float64 [datasets, 2], sum and count of this process's images.
        """
        totals = self._context.sum_over_workers(totals)
        means = totals[:, 0] / np.maximum(totals[:, 1], 1.0)
        return tuple(means.tolist())

    def _mean_over_datasets(self, values: Sequence[float]) -> float:
        return float(np.average(values, weights=[part.weight for part in self._dev.parts]))

    def _run_epoch(self, is_self_critical: bool, stop: StopRequest) -> EpochResult:
        state = self._state
        kind = StepKind.DRAWN if is_self_critical else StepKind.WRITTEN
        if self._options.init and state.epoch == 1:
            kind = StepKind.DECODER
        start = time.monotonic()
        captions = 0
        wait_seconds = 0.0
        replicas = self._context.local_replicas
        orders = [
            self._order.batches(state.epoch, replica, self._context.replica_count)
            for replica in replicas
        ]
        for step in range(state.step, self._order.steps):
            wait_start = time.monotonic()
            rows = [order[step] for order in orders]
            shares = [
                self._make_share(of_replica, step, replica)
                for replica, of_replica in zip(replicas, rows, strict=True)
            ]
            wait_seconds += time.monotonic() - wait_start
            reward = 0.0
            if is_self_critical:
                shares, reward = self._draw_shares(shares, rows)
            totals = self._step(shares, kind, is_stopping=stop.is_requested)
            captions += sum(int((share.words[:, :, 0] != PAD).sum()) for share in shares)
            state.step = step + 1
            state.words += totals.words
            state.loss += reward if is_self_critical else totals.loss
            self._check_finite("loss", totals.loss)
            self._save_or_stop(totals.stop_requests > 0, stop)
        seconds = max(time.monotonic() - start, 1e-9)
        return self._make_result(is_self_critical, seconds, captions, wait_seconds)

    def _save_or_stop(self, is_stopping: bool, stop: StopRequest) -> None:
        if is_stopping or time.monotonic() - self._saved_at > self._options.checkpoint_s:
            self._save()
        if is_stopping:
            raise stop.make_error(
                f"training stopped in epoch {self._state.epoch} after batch {self._state.step}; "
                "run it again to go on from there"
            )

    def _make_result(
        self, is_self_critical: bool, seconds: float, captions: int, wait_seconds: float
    ) -> EpochResult:
        state = self._state
        dev_losses = self.evaluate()
        dev_loss = self._mean_over_datasets(dev_losses)
        self._check_finite("dev loss", dev_loss)
        dev_rewards = self.evaluate_reward() if is_self_critical else ()
        return EpochResult(
            epoch=state.epoch,
            train_loss=None if is_self_critical else state.loss / state.words,
            dev_loss=dev_loss,
            seconds=seconds,
            captions_per_s=captions * self._context.worker_count / seconds,
            input_share=wait_seconds / seconds,
            reward=state.loss / self._order.steps if is_self_critical else None,
            dev_reward=self._mean_over_datasets(dev_rewards) if is_self_critical else None,
            dev_losses=dev_losses,
            dev_rewards=dev_rewards,
        )

    def _check_finite(self, name: str, loss: float) -> None:
        if not math.isfinite(loss):
            raise CheckFailed(
                f"{name} is {loss} in epoch {self._state.epoch}; nothing was written, lower "
                "--learning-rate"
            )

    def _keep_if_best(self, result: EpochResult) -> None:
        score = -result.dev_loss if result.dev_reward is None else result.dev_reward
        if score > self._state.best_score:
            self._state.best_score = score
            self._state.best_epoch = result.epoch
            self._best_weights = [
                variable.numpy() for variable in self._captioner.trainable_variables
            ]

    # Batches

    def _make_share(self, rows: npt.NDArray[np.int64], step: int, replica: int) -> ReplicaShare:
        """Returns one replica's share of a batch of captions that people wrote.

        Args:
          rows: int64 [images], the rows of the share's images among all training images.
          step: The number of the batch in its epoch.
          replica: The number of the replica.
        """
        words = self._train.captions.words[rows]
        weights = self._train.weights(rows)
        feature_rows = self._feature_rows[rows]
        # By row and not by replica, so that any number of workers sees the same images.
        is_mirrored = (rows + self._state.epoch) % 2 == 1
        if not len(rows):
            # The last batch may have no image for this replica, which then gets one image without
            # words. It counts for nothing.
            words = np.full_like(self._train.captions.words[:1], PAD)
            weights = np.zeros(1, np.float32)
            feature_rows = np.zeros(1, np.int64)
            is_mirrored = np.zeros(1, np.bool_)
        batch = self._state.epoch * self._order.steps + step
        number = batch * self._context.replica_count + replica
        return ReplicaShare(
            self._train.select_cells(feature_rows, is_mirrored),
            _trim_padding(words),
            np.repeat(weights[:, np.newaxis], words.shape[1], axis=1),
            np.array([self._options.seed, number], np.int64),
        )

    def _draw_shares(
        self, shares: Sequence[ReplicaShare], rows: Sequence[npt.NDArray[np.int64]]
    ) -> tuple[list[ReplicaShare], float]:
        """Returns shares of captions that the model draws, and the mean reward of these captions.

        The weight of a caption is its advantage.

        Args:
          shares: The shares whose images get new captions.
          rows: The rows of each share's images among all training images.
        """
        drawn_shares: list[ReplicaShare] = []
        rewards = []
        for share, of_share in zip(shares, rows, strict=True):
            words = self._draw(
                self._captioner, share.cells, self._options.samples, share.seed
            ).numpy()
            # A share without images has one row of cells, whose captions keep a weight of 0.
            reward = self._train.score(of_share, words[: len(of_share)])
            weights = np.zeros(words.shape[:2], np.float32)
            weights[: len(of_share)] = compute_advantages(reward)
            weights *= share.weights[:, :1]
            drawn_words = _trim_padding(prepend_start(words))
            drawn_shares.append(ReplicaShare(share.cells, drawn_words, weights, share.seed))
            rewards.append(reward)
        return drawn_shares, float(np.concatenate(rewards).mean())

    def _dev_batches(
        self,
    ) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float16]]]:
        """Yields this process's dev images.

        A batch holds images of one dataset: the dataset's number, the rows among all dev images,
        and the cells.
        """
        local_rows = self._context.local_rows(len(self._dev.captions))
        parts = self._dev.part_of(local_rows)
        for number in range(len(self._dev.parts)):
            of_part = np.flatnonzero(parts == number)
            for start in range(0, len(of_part), _DEV_BATCH):
                batch = of_part[start : start + _DEV_BATCH]
                yield number, local_rows[batch], self._dev.features.cells[batch]

    # Checkpoints

    def _variables(self) -> dict[str, keras.Variable]:
        """Returns every tensor that the next step depends on by its name in a checkpoint."""
        weights = enumerate(self._captioner.trainable_variables)
        others = enumerate(self._step.optimizer.variables)
        return {
            **{f"weight {number}": variable for number, variable in weights},
            **{f"optimizer {number}": variable for number, variable in others},
        }

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._checkpoint is not None:
            tensors = {name: variable.numpy() for name, variable in self._variables().items()}
            best = {f"best {number}": value for number, value in enumerate(self._best_weights)}
            self._checkpoint.save(self._state, tensors | best)

    def _resume(self) -> None:
        """Continues from the chief's checkpoint, which is broadcast to every process."""
        loaded = self._checkpoint.load() if self._checkpoint else None
        if not self._context.sum_over_workers(np.array([float(loaded is not None)]))[0]:
            return
        self._state, tensors = loaded or (self._state, {})
        state = self._state

        def broadcast(name: str, variable: Any) -> npt.NDArray[np.float64]:
            """Returns the chief's tensor; the other processes add zeros to it."""
            value = tensors[name] if loaded else np.zeros(variable.shape)
            return self._context.sum_over_workers(value.astype(np.float64))

        numbers = np.array(
            [state.epoch, state.step, state.best_epoch, state.best_score, state.loss, state.words]
        )
        numbers = self._context.sum_over_workers(numbers * (loaded is not None))
        state.epoch, state.step, state.best_epoch = map(int, numbers[:3])
        state.best_score, state.loss, state.words = map(float, numbers[3:])
        for name, variable in self._variables().items():
            variable.assign(tf.cast(broadcast(name, variable), variable.dtype))
        if state.best_epoch:
            self._best_weights = [
                broadcast(f"best {number}", variable).astype(np.float32)
                for number, variable in enumerate(self._captioner.trainable_variables)
            ]

    def _assign_weights(self, values: Sequence[npt.NDArray[np.float32]]) -> None:
        for variable, value in zip(self._captioner.trainable_variables, values, strict=True):
            variable.assign(value)


def _trim_padding(words: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Returns the words without the steps that are PAD in every caption; at least 2 steps stay."""
    steps = int((words != PAD).any(axis=(0, 1)).sum())
    return words[:, :, : max(2, steps)]
