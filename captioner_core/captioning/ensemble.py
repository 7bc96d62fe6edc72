"""Several captioners used as one: the probability of a word is the mean over the members."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.network import Captioner, DecoderStep, ImageState
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.process.tensorflow_setup import keras, tf

# Smaller probabilities are raised to this one, since the logarithm of 0 is not finite.
_MIN_PROBABILITY = 1e-37


class EnsembleState(NamedTuple):
    """The information that the members need about a batch of images.

    Args:
      members: The ``ImageState`` of each member.
      hidden: float32 [batch, members * units], the members' first hidden states side by side.
      cell: float32 [batch, members * units], the members' first cell states side by side.
    """

    members: tuple[ImageState, ...]
    hidden: tf.Tensor
    cell: tf.Tensor


class Ensemble:
    """Captioners that a search can use like a single ``Captioner``.

    The methods take and return the same tensors as those of ``Captioner``, except that the LSTM
    states of all members lie side by side in the last dimension.

    Args:
      members: Captioners of one configuration and one vocabulary.
    """

    def __init__(self, members: Sequence[Captioner]) -> None:
        self.members = tuple(members)
        self.config = dataclasses.replace(members[0].config, members=len(members))

    def encode(self, cells: tf.Tensor) -> EnsembleState:
        """Returns what the members need to know of each image; see ``Captioner.encode``."""
        states = tuple(member.encode(cells) for member in self.members)
        return EnsembleState(
            states,
            tf.concat([state.hidden for state in states], axis=-1),
            tf.concat([state.cell for state in states], axis=-1),
        )

    def step(
        self, state: EnsembleState, words: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
    ) -> DecoderStep:
        """Advances all hypotheses by one word; see ``Captioner.step``.

        The scores are the logarithm of the members' mean probability.
        """
        count = len(self.members)
        steps = [
            member.step_logits(member_state, words, member_hidden, member_cell)
            for member, member_state, member_hidden, member_cell in zip(
                self.members,
                state.members,
                tf.split(hidden, count, axis=-1),
                tf.split(cell, count, axis=-1),
                strict=True,
            )
        ]
        # A logsumexp of log-probabilities would pass over the whole vocabulary twice as often.
        mean = tf.add_n([tf.nn.softmax(step.scores) for step in steps]) / count
        return DecoderStep(
            tf.math.log(tf.maximum(mean, _MIN_PROBABILITY)),
            tf.concat([step.hidden for step in steps], axis=-1),
            tf.concat([step.cell for step in steps], axis=-1),
        )

    def named_weights(self) -> dict[str, keras.Variable]:
        """Returns every weight of every member by its name in a model folder."""
        return {
            f"{number}/{name}": weight
            for number, member in enumerate(self.members)
            for name, weight in member.named_weights().items()
        }


def make_captioner(config: CaptionerConfig) -> Captioner | Ensemble:
    """Returns the network of a configuration, with random weights."""
    member_config = dataclasses.replace(config, members=1)
    members = [Captioner(member_config, seed=seed) for seed in range(config.members)]
    return members[0] if config.members == 1 else Ensemble(members)


def build_captioner(model: LoadedModel) -> Captioner | Ensemble:
    """Returns the network of a model, with the model's weights."""
    captioner = make_captioner(model.config)
    for name, weight in captioner.named_weights().items():
        weight.assign(model.tensors[name].astype(np.float32))
    return captioner
