"""The training loop: plain TensorFlow under tf.distribute, the same on one device, several, and several hosts.

A batch is a function of seed, epoch and step (see ``order``), and so are dropout and sampling.
A checkpoint therefore needs the tensors and a few numbers alone, and what goes on from it
ends with the weights of a training that was never cut off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.beam_search import forbidden_token_mask
from captioner_core.captioning.generator import CaptionSearch, draw_captions
from captioner_core.captioning.network import Captioner
from captioner_core.errors import CheckFailed
from captioner_core.options import TrainOptions
from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.vocabulary import PAD
from captioner_core.training.checkpoint import (
    NO_SCORE,
    TrainingState,
    load_checkpoint,
    save_checkpoint,
)
from captioner_core.training.dataset import Captions, FeatureStore
from captioner_core.training.devices import ReplicaContext
from captioner_core.training.optimizer import make_optimizer
from captioner_core.training.order import BatchOrder
from captioner_core.training.self_critical import CaptionReward, advantages, prepend_start
from captioner_core.training.stopping import StopRequest

LABEL_SMOOTHING = 0.1
_DEV_BATCH = 64

Batch = tuple[npt.NDArray[Any], ...]


@dataclass(frozen=True)
class Split:
    """A split: captions of all its images, the features of those that this process needs, and a reward.

    Args:
      captions: as word ids.
      features: of ``Place.rows``, in that order.
      reward: of samples; only self-critical training needs it.
      mirrored: features of the same images as a mirror shows them.
    """

    captions: Captions
    features: FeatureStore
    reward: CaptionReward | None = None
    mirrored: FeatureStore | None = None

    def seen(
        self, rows: npt.NDArray[np.int64], mirrored: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float16]:
        """Cells of some rows, of the mirrored images where asked for and there."""
        cells = self.features.cells[rows]
        if self.mirrored is not None:
            cells[mirrored] = self.mirrored.cells[rows[mirrored]]
        return cells


@dataclass(frozen=True)
class EpochResult:
    """What an epoch came to.

    Losses are nats a word; the training loss has label smoothing. An epoch of self-critical
    training has the mean reward of its samples in place of a training loss. ``input_share`` is
    the part of the time in which the loop waited for its input.
    """

    epoch: int
    train_loss: float | None
    dev_loss: float
    seconds: float
    captions_per_s: float
    input_share: float
    reward: float | None = None
    dev_reward: float | None = None


class Trainer:
    """Fits a captioner.

    Args:
      place: where this process stands among those that train.
      captioner: the network, made under the place's strategy; it is changed in place.
      train: what it learns from.
      dev: what its best epoch is chosen on.
      options: how.
      checkpoint: file to go on from and to write; none where None.
      fingerprint: of the inputs; see ``TrainingState``.
    """

    def __init__(
        self,
        place: ReplicaContext,
        captioner: Captioner,
        train: Split,
        dev: Split,
        options: TrainOptions,
        checkpoint: Path | None = None,
        fingerprint: str = "",
    ) -> None:
        self._place, self._captioner, self._options = place, captioner, options
        self._train, self._dev = train, dev
        self._checkpoint = checkpoint if place.is_chief else None
        self._order = BatchOrder(len(train.captions), options.batch_size, options.seed)
        self._local = np.full(len(train.captions), -1, np.int64)
        own = place.rows(len(train.captions))
        self._local[own] = np.arange(len(own))
        self._state = TrainingState(fingerprint)
        self._best: list[npt.NDArray[np.float32]] = []
        self._saved_at = time.monotonic()
        with place.strategy.scope():
            self._optimizer = make_optimizer(options, self._order.steps)
            self._optimizer.build(captioner.trainable_variables)
        self._steps = {reinforcing: self._compiled(reinforcing) for reinforcing in (False, True)}
        self._dev_loss = tf.function(self._loss, reduce_retracing=True)
        self._draw = tf.function(self._drawn, reduce_retracing=True)
        self._search = CaptionSearch(captioner)

    def fit(
        self, say: Callable[[EpochResult], None], stop: StopRequest | None = None
    ) -> TrainingState:
        """Trains, and leaves the captioner with the weights of the best epoch.

        Teacher forcing keeps the weights of least dev loss; self-critical training goes on from
        them and keeps those of the highest reward on dev.

        Raises:
          CheckFailed: the loss is not a number.
          Interrupted: ``stop`` was asked for; the checkpoint is written.
        """
        stop = stop or StopRequest()
        state, options = self._resume(), self._options
        while state.epoch <= options.epochs + options.reinforce_epochs:
            reinforcing = state.epoch > options.epochs
            if reinforcing and not state.step and state.epoch == options.epochs + 1:
                self._assign(self._best)
                state.best_score = NO_SCORE
            result = self._epoch(reinforcing, stop)
            self._keep_if_best(result)
            state.history.append(asdict(result))
            state.epoch, state.step, state.loss, state.words = state.epoch + 1, 0, 0.0, 0.0
            self._save()
            say(result)
        self._assign(self._best)
        return state

    def evaluate(self) -> float:
        """Mean negative log-likelihood a word of dev, in nats, without smoothing or dropout."""
        total = np.zeros(2)
        for places, cells in self._dev_batches():
            words = _trimmed(self._dev.captions.words[places])
            loss = self._dev_loss(cells, words, np.ones(words.shape[:2], np.float32))
            total += [float(value) for value in loss]
        loss, words = self._place.sum_over_workers(total)
        return float(loss / max(words, 1.0))

    def evaluate_reward(self) -> float:
        """Mean reward of the captions that the search finds for dev."""
        assert self._dev.reward is not None
        total = np.zeros(2)
        for places, cells in self._dev_batches():
            words = self._search.find(cells).words[:, :1].numpy()
            total += [float(self._dev.reward.of(places, words).sum()), len(places)]
        reward, images = self._place.sum_over_workers(total)
        return float(reward / max(images, 1.0))

    def _epoch(self, reinforcing: bool, stop: StopRequest) -> EpochResult:
        state, start, captions, waited = self._state, time.monotonic(), 0, 0.0
        orders = [
            self._order.batches(state.epoch, replica, self._place.replicas)
            for replica in self._place.own
        ]
        for step in range(state.step, self._order.steps):
            asked_at = time.monotonic()
            shares = [
                self._share(order[step], step, replica)
                for replica, order in zip(self._place.own, orders, strict=True)
            ]
            waited += time.monotonic() - asked_at
            reward = 0.0
            if reinforcing:
                shares, reward = self._reinforced(shares, [order[step] for order in orders])
            asked = tf.constant(1.0 if stop.asked else 0.0)
            loss, words, stopping = (
                self._steps[reinforcing](*self._spread(shares), asked).numpy().tolist()
            )
            captions += sum(int((words[:, :, 0] != PAD).sum()) for _, words, *_ in shares)
            state.step, state.words = step + 1, state.words + words
            state.loss += reward if reinforcing else loss
            if not math.isfinite(loss):
                raise CheckFailed(
                    f"loss is {loss} in epoch {state.epoch}; nothing was written, lower --learning-rate"
                )
            if stopping or time.monotonic() - self._saved_at > self._options.checkpoint_s:
                self._save()
            if stopping:
                where = f"in epoch {state.epoch} after batch {state.step}"
                raise stop.interrupted(
                    f"training stopped {where}; run it again to go on from there"
                )
        return self._result(reinforcing, max(time.monotonic() - start, 1e-9), captions, waited)

    def _result(
        self, reinforcing: bool, seconds: float, captions: int, waited: float
    ) -> EpochResult:
        state, dev_loss = self._state, self.evaluate()
        if not math.isfinite(dev_loss):
            raise CheckFailed(
                f"dev loss is {dev_loss} in epoch {state.epoch}; nothing was written, lower --learning-rate"
            )
        speed = (seconds, captions * self._place.workers / seconds, waited / seconds)
        if not reinforcing:
            return EpochResult(state.epoch, state.loss / state.words, dev_loss, *speed)
        reward = state.loss / self._order.steps
        return EpochResult(state.epoch, None, dev_loss, *speed, reward, self.evaluate_reward())

    def _keep_if_best(self, result: EpochResult) -> None:
        score = -result.dev_loss if result.dev_reward is None else result.dev_reward
        if score > self._state.best_score:
            self._state.best_score, self._state.best_epoch = score, result.epoch
            self._best = [variable.numpy() for variable in self._captioner.trainable_variables]

    # A step, on one replica

    def _compiled(self, reinforcing: bool) -> Any:
        strategy = self._place.strategy

        def replica_step(*share: tf.Tensor) -> tf.Tensor:
            return self._step(reinforcing, *share)

        def step(*shares: Any) -> tf.Tensor:
            return strategy.experimental_local_results(strategy.run(replica_step, args=shares))[0]

        return tf.function(step, reduce_retracing=True)

    def _step(
        self,
        reinforcing: bool,
        cells: tf.Tensor,
        words: tf.Tensor,
        weights: tf.Tensor,
        seed: tf.Tensor,
        stop: tf.Tensor,
    ) -> tf.Tensor:
        """Summed loss, number of words and requests to stop, over all replicas; the weights are a step on."""
        with tf.GradientTape() as tape:
            loss, count = self._loss(cells, words, weights, seed, reinforcing)
        variables = self._captioner.trainable_variables
        gradients = tape.gradient(loss, variables)
        context = tf.distribute.get_replica_context()
        totals = context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([loss, count, stop]))
        # The optimizer sums over replicas: divided by the words of all, that is the mean over the whole batch
        scale = 1 / tf.maximum(totals[1], 1.0)
        self._optimizer.apply(
            [tf.convert_to_tensor(gradient) * scale for gradient in gradients], variables
        )
        return totals

    def _loss(
        self,
        cells: tf.Tensor,
        words: tf.Tensor,
        weights: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
        drawn: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Summed cross-entropy, each caption by its weight, and the number of words.

        Captions of people are learnt with dropout and label smoothing. Those drawn from the model get
        the probability with which they were drawn: from the same features, their dropout included, and
        none for what is never drawn, or a bad caption's probability would flow to where no reward is seen.
        """
        state = self._captioner.encode(tf.cast(cells, tf.float32), dropout_seed)
        given, wanted = words[:, :, :-1], words[:, :, 1:]
        present = tf.not_equal(wanted, PAD)
        word_seed = None if drawn else dropout_seed
        logits = self._captioner.teacher_forced(state, given, present, word_seed)
        if drawn:
            logits += forbidden_token_mask(tf.shape(logits)[-1])
        wanted = tf.boolean_mask(wanted, present)
        loss = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits)
        if (
            word_seed is not None
        ):  # the mean of -log p over all words is logsumexp minus the mean logit
            uniform = (
                loss + tf.gather(logits, wanted, batch_dims=1) - tf.reduce_mean(logits, axis=-1)
            )
            loss = (1 - LABEL_SMOOTHING) * loss + LABEL_SMOOTHING * uniform
        of_caption = tf.repeat(
            tf.reshape(weights, [-1]), tf.reshape(tf.math.count_nonzero(present, axis=2), [-1])
        )
        return tf.reduce_sum(loss * of_caption), tf.cast(tf.size(loss), tf.float32)

    def _drawn(self, cells: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return draw_captions(self._captioner, cells, self._options.samples, seed)

    # What a step is given

    def _share(self, places: npt.NDArray[np.int64], step: int, replica: int) -> Batch:
        """Cells, words, weights and seed of one replica's share of a batch."""
        words, rows = self._train.captions.words[places], self._local[places]
        if not len(places):  # the last batch may not go round; words of none count for nothing
            words, rows = np.zeros_like(self._train.captions.words[:1]), np.zeros(1, np.int64)
        number = (self._state.epoch * self._order.steps + step) * self._place.replicas + replica
        weights = np.ones(words.shape[:2], np.float32)
        seed = np.array([self._options.seed, number], np.int64)
        # By place, not by replica: any number of workers must see the same pictures
        mirrored = (places + self._state.epoch) % 2 == 1 if len(places) else np.zeros(1, np.bool_)
        return self._train.seen(rows, mirrored), _trimmed(words), weights, seed

    def _reinforced(
        self, shares: Sequence[Batch], places: Sequence[npt.NDArray[np.int64]]
    ) -> tuple[list[Batch], float]:
        """Shares of captions that the model draws, each weighted by its advantage, and their mean reward."""
        assert self._train.reward is not None
        made: list[Batch] = []
        rewards = []
        for (cells, _, _, seed), chosen in zip(shares, places, strict=True):
            words = self._draw(cells, seed).numpy()
            reward = self._train.reward.of(chosen, words[: len(chosen)])
            weights = np.zeros(words.shape[:2], np.float32)
            weights[: len(chosen)] = advantages(reward)
            made.append((cells, _trimmed(prepend_start(words)), weights, seed))
            rewards.append(reward)
        return made, float(np.concatenate(rewards).mean())

    def _spread(self, shares: Sequence[Batch]) -> Sequence[Any]:
        """Each replica's share where tf.distribute wants it."""
        if len(shares) == 1:
            return [tf.convert_to_tensor(array) for array in shares[0]]
        first, spread = (
            self._place.own[0],
            self._place.strategy.experimental_distribute_values_from_function,
        )
        parts = zip(*shares, strict=True)
        return [
            spread(lambda replica, part=part: part[replica.replica_id_in_sync_group - first])
            for part in parts
        ]

    def _dev_batches(self) -> Any:
        """Places among all dev images, and cells, of this process's own."""
        own = self._place.rows(len(self._dev.captions))
        for start in range(0, len(own), _DEV_BATCH):
            rows = slice(start, start + _DEV_BATCH)
            yield own[rows], self._dev.features.cells[rows]

    # Going on after a cut

    def _variables(self) -> dict[str, Any]:
        """Every tensor that the next step depends on."""
        trained = {
            f"weight {n}": variable
            for n, variable in enumerate(self._captioner.trainable_variables)
        }
        return trained | {
            f"optimizer {n}": variable for n, variable in enumerate(self._optimizer.variables)
        }

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        if self._checkpoint is not None:
            tensors = {name: variable.numpy() for name, variable in self._variables().items()}
            best = {f"best {n}": value for n, value in enumerate(self._best)}
            save_checkpoint(self._checkpoint, self._state, tensors | best)

    def _resume(self) -> TrainingState:
        """The state to go on from: the chief's checkpoint, which every process is given."""
        loaded = (
            load_checkpoint(self._checkpoint, self._state.fingerprint) if self._checkpoint else None
        )
        if not self._place.sum_over_workers(np.array([float(loaded is not None)]))[0]:
            return self._state
        state, tensors = loaded or (self._state, {})

        def told(name: str, variable: Any) -> npt.NDArray[np.float64]:
            """The chief's tensor: the others add nothing to it."""
            value = tensors[name] if loaded else np.zeros(variable.shape)
            return self._place.sum_over_workers(value.astype(np.float64))

        numbers = np.array(
            [state.epoch, state.step, state.best_epoch, state.best_score, state.loss, state.words]
        )
        numbers = self._place.sum_over_workers(numbers * (loaded is not None))
        state.epoch, state.step, state.best_epoch = map(int, numbers[:3])
        state.best_score, state.loss, state.words = map(float, numbers[3:])
        for name, variable in self._variables().items():
            variable.assign(tf.cast(told(name, variable), variable.dtype))
        if state.best_epoch:
            trained = enumerate(self._captioner.trainable_variables)
            self._best = [told(f"best {n}", variable).astype(np.float32) for n, variable in trained]
        self._state = state
        return state

    def _assign(self, values: Sequence[npt.NDArray[np.float32]]) -> None:
        for variable, value in zip(self._captioner.trainable_variables, values, strict=True):
            variable.assign(value)


def _trimmed(words: np.ndarray) -> np.ndarray:
    """Without the steps that are PAD in every caption of the batch."""
    return words[:, :, : max(2, int((words != PAD).any(axis=(0, 1)).sum()))]
