"""One step of training: the loss, its gradients, and the optimizer, under tf.distribute."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.beam_search import forbidden_token_mask
from captioner_core.captioning.network import Captioner
from captioner_core.options import TrainOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.text.vocabulary import PAD
from captioner_core.training.distributed.devices import ReplicaContext

LABEL_SMOOTHING = 0.1
WARMUP_SHARE = 0.05
# The learning rate at the end of each cosine, as a share of its peak.
_FINAL_SHARE = 0.05


# The layers that write, as opposed to those that look at the image.
_DECODER = ("embedding", "lstm", "output_hidden", "captioner/output_bias")


class StepKind(enum.Enum):
    """Kinds of steps, by what they learn and from which captions.

    Members:
      WRITTEN: All weights, from captions that people wrote.
      DECODER: The layers that write, from captions that people wrote.
      DRAWN: All weights, from captions that the model drew.
    """

    WRITTEN = enum.auto()
    DECODER = enum.auto()
    DRAWN = enum.auto()


class ReplicaShare(NamedTuple):
    """One replica's share of a batch.

    Args:
      cells: float16 [images, cells, cell_dim].
      words: int32 [images, captions, steps], with START first and PAD last.
      weights: float32 [images, captions], the weight of each caption in the loss.
      seed: int64 [2], the seed of dropout and sampling.
    """

    cells: npt.NDArray[np.float16]
    words: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    seed: npt.NDArray[np.int64]


class StepTotals(NamedTuple):
    """The outcome of a step, summed over all replicas.

    Args:
      loss: The sum of the losses of all words.
      words: The number of words.
      stop_requests: The number of replicas that are asked to stop.
    """

    loss: float
    words: float
    stop_requests: float


class TrainStep:
    """One step of training on all replicas, compiled once for each kind of training.

    Args:
      context: The replicas.
      captioner: The network, created under the context's strategy; its weights change in place.
      options: The options of the training.
      steps_per_epoch: The number of batches in an epoch.
    """

    def __init__(
        self,
        context: ReplicaContext,
        captioner: Captioner,
        options: TrainOptions,
        steps_per_epoch: int,
    ) -> None:
        self._context = context
        self._captioner = captioner
        with context.strategy.scope():
            self.optimizer = _make_optimizer(options, steps_per_epoch)
            self.optimizer.build(captioner.trainable_variables)
        self._compiled = {kind: self._compile(kind) for kind in StepKind}

    def __call__(
        self, shares: Sequence[ReplicaShare], kind: StepKind, *, is_stopping: bool
    ) -> StepTotals:
        """Changes the weights by one step; every process must call it.

        Args:
          shares: The shares of this process's replicas.
          kind: What is learned, and from which captions.
          is_stopping: Whether this process is asked to stop, which all processes learn here.
        """
        stop = tf.constant(1.0 if is_stopping else 0.0)
        totals = self._compiled[kind](*self._distribute(shares), stop)
        return StepTotals(*totals.numpy().tolist())

    def _compile(self, kind: StepKind) -> Any:
        strategy = self._context.strategy

        def run_replica(*share: tf.Tensor) -> tf.Tensor:
            """Runs the step on one replica."""
            return self._run_replica(kind, *share)

        def run(*shares: Any) -> tf.Tensor:
            """Runs the step on all replicas, and returns the totals that each of them knows."""
            return strategy.experimental_local_results(strategy.run(run_replica, args=shares))[0]

        return tf.function(run, reduce_retracing=True)

    def _run_replica(
        self,
        kind: StepKind,
        cells: tf.Tensor,
        words: tf.Tensor,
        weights: tf.Tensor,
        seed: tf.Tensor,
        stop: tf.Tensor,
    ) -> tf.Tensor:
        """Changes the weights on one replica, and returns the ``StepTotals`` of all replicas."""
        with tf.GradientTape() as tape:
            loss, count = caption_loss(
                self._captioner, cells, words, weights, seed, is_drawn=kind is StepKind.DRAWN
            )
        variables = self._captioner.trainable_variables
        gradients = tape.gradient(loss, variables)
        replica = tf.distribute.get_replica_context()
        totals = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([loss, count, stop]))
        # The optimizer sums gradients over the replicas. Divided by the number of all words, the
        # sum is the mean over the whole batch.
        scale = 1 / tf.maximum(totals[1], 1.0)
        is_learned = [
            kind is not StepKind.DECODER or variable.path.startswith(_DECODER)
            for variable in variables
        ]
        scaled = [
            tf.convert_to_tensor(gradient) * (scale if learned else 0.0)
            for gradient, learned in zip(gradients, is_learned, strict=True)
        ]
        self.optimizer.apply(scaled, variables)
        return totals

    def _distribute(self, shares: Sequence[ReplicaShare]) -> Sequence[Any]:
        """Returns the parts of the shares as tensors where tf.distribute expects them."""
        if len(shares) == 1:
            return [tf.convert_to_tensor(array) for array in shares[0]]
        first = self._context.local_replicas[0]
        distribute = self._context.strategy.experimental_distribute_values_from_function
        return [
            distribute(lambda replica, part=part: part[replica.replica_id_in_sync_group - first])
            for part in zip(*shares, strict=True)
        ]


def caption_loss(
    captioner: Captioner,
    cells: tf.Tensor,
    words: tf.Tensor,
    weights: tf.Tensor,
    dropout_seed: tf.Tensor | None = None,
    is_drawn: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the cross-entropy of captions, summed over their words, and the number of words.

    Captions that people wrote are learned with dropout and label smoothing (Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567, section 7). Captions that the model drew get the probability
    with which they were drawn: their features have the same dropout, and words that are never drawn
    have no probability. Otherwise the probability of a bad caption would flow to words whose reward
    is never seen.

    Args:
      captioner: The network.
      cells: float [images, cells, cell_dim].
      words: int32 [images, captions, steps], with START first and PAD last.
      weights: float32 [images, captions], the weight of each caption.
      dropout_seed: int64 [2]. None computes the loss without dropout and label smoothing.
      is_drawn: Whether the model drew the captions with this seed.
    """
    state = captioner.encode(tf.cast(cells, tf.float32), dropout_seed)
    inputs = words[:, :, :-1]
    targets = words[:, :, 1:]
    present = tf.not_equal(targets, PAD)
    word_seed = None if is_drawn else dropout_seed
    logits = captioner.teacher_forced(state, inputs, present, word_seed)
    if is_drawn:
        logits += forbidden_token_mask(tf.shape(logits)[-1])
    targets = tf.boolean_mask(targets, present)
    loss = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
    if word_seed is not None:
        # The mean of -log p over all words is logsumexp minus the mean logit.
        logsumexp = loss + tf.gather(logits, targets, batch_dims=1)
        uniform = logsumexp - tf.reduce_mean(logits, axis=-1)
        loss = (1 - LABEL_SMOOTHING) * loss + LABEL_SMOOTHING * uniform
    word_counts = tf.reshape(tf.math.count_nonzero(present, axis=2), [-1])
    word_weights = tf.repeat(tf.reshape(weights, [-1]), word_counts)
    return tf.reduce_sum(loss * word_weights), tf.cast(tf.size(loss), tf.float32)


class _LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up and half a cosine for teacher forcing, then half a cosine for self-critical training.

    The half cosine is that of Loshchilov and Hutter 2017 (https://arxiv.org/abs/1608.03983,
    section 3), without restarts.
    """

    def __init__(self, options: TrainOptions, steps_per_epoch: int) -> None:
        self._forced_steps = options.epochs * steps_per_epoch
        warmup = max(1, int(self._forced_steps * WARMUP_SHARE))
        self._teacher_forcing = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, self._forced_steps - warmup),
            alpha=_FINAL_SHARE,
            warmup_target=options.peak_rate,
            warmup_steps=warmup,
        )
        self._self_critical = keras.optimizers.schedules.CosineDecay(
            options.reinforce_rate,
            max(1, options.reinforce_epochs * steps_per_epoch),
            alpha=_FINAL_SHARE,
        )

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate of a step of the whole training."""
        return keras.ops.where(
            step < self._forced_steps,
            self._teacher_forcing(step),
            self._self_critical(keras.ops.maximum(step - self._forced_steps, 0)),
        )


def _make_optimizer(options: TrainOptions, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """Returns AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).

    Gradients are not clipped: Keras would clip those of each replica on its own, so that several
    workers would no longer compute what one does.
    """
    rate = _LearningRate(options, steps_per_epoch)
    return keras.optimizers.AdamW(rate, weight_decay=1e-4)
