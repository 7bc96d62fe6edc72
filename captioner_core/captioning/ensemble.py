"""Captioners of several seeds as one: each word's probability is the mean over the members."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.network import Captioner, ImageState
from captioner_core.process.tensorflow_setup import tf

_LEAST = 1e-37  # probabilities below it would have no logarithm


class EnsembleState(NamedTuple):
    """``ImageState`` of each member; ``hidden`` and ``cell`` are theirs side by side."""

    members: tuple[ImageState, ...]
    hidden: tf.Tensor
    cell: tf.Tensor


class Ensemble:
    """What a search sees as one captioner; see ``Captioner`` for the methods' tensors.

    Args:
      members: captioners of one configuration, which share their vocabulary.
    """

    def __init__(self, members: Sequence[Captioner]) -> None:
        self.members = tuple(members)
        self.config = dataclasses.replace(members[0].config, members=len(members))

    def encode(self, cells: tf.Tensor) -> EnsembleState:
        """What the members need of each image."""
        states = tuple(member.encode(cells) for member in self.members)
        hidden, cell = (
            tf.concat(parts, axis=-1)
            for parts in zip(*((s.hidden, s.cell) for s in states), strict=True)
        )
        return EnsembleState(states, hidden, cell)

    def step(
        self, state: EnsembleState, words: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One step of all hypotheses: the log of the mean probability, then all members' new states."""
        count = len(self.members)
        before = zip(*(tf.split(part, count, axis=-1) for part in (hidden, cell)), strict=True)
        steps = [
            member.step_logits(of_member, words, *previous)
            for member, of_member, previous in zip(self.members, state.members, before, strict=True)
        ]
        logits, hidden, cell = zip(*steps, strict=True)
        # not logsumexp of logarithms, which goes through the whole vocabulary twice as often
        mean = tf.add_n([tf.nn.softmax(one) for one in logits]) / count
        return (
            tf.math.log(tf.maximum(mean, _LEAST)),
            tf.concat(hidden, axis=-1),
            tf.concat(cell, axis=-1),
        )

    def named_weights(self) -> dict[str, Any]:
        """Every weight by a name that is its own."""
        return {
            f"{number}/{name}": weight
            for number, member in enumerate(self.members)
            for name, weight in member.named_weights().items()
        }


def make_captioner(config: CaptionerConfig) -> Captioner | Ensemble:
    """The network of a configuration, with random weights."""
    single = dataclasses.replace(config, members=1)
    made = [Captioner(single, seed=seed) for seed in range(config.members)]
    return made[0] if config.members == 1 else Ensemble(made)
