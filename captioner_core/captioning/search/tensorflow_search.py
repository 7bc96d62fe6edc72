"""Beam search and sampling of captions with the network in TensorFlow, for GPUs and training."""

from __future__ import annotations

import functools
from typing import Any

import numpy.typing as npt

from captioner_core.captioning.beam_search import HypothesisTensors, beam_search, sample_words
from captioner_core.captioning.ensemble import Ensemble, EnsembleState, build_captioner
from captioner_core.captioning.network import Captioner, ImageState
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.captioning.search.base import Hypotheses
from captioner_core.process.tensorflow_setup import tf


class TensorFlowSearch:
    """Beam search over batches of images, compiled once for batches of any size.

    Args:
      captioner: The network. Its weights may change between calls.
      beam_width: The number of hypotheses kept.
    """

    def __init__(self, captioner: Captioner | Ensemble, beam_width: int) -> None:
        self._captioner = captioner
        self._beam_width = beam_width
        config = captioner.config
        cells = tf.TensorSpec([None, config.cell_count, config.cell_dim])
        self._search = tf.function(self._build_search, input_signature=[cells])

    @classmethod
    def from_model(cls, model: LoadedModel, beam_width: int) -> TensorFlowSearch:
        """Returns a search with the weights of a model; see ``load_search``."""
        return cls(build_captioner(model), beam_width)

    def find(self, cells: npt.NDArray[Any]) -> Hypotheses:
        """Returns the hypotheses of each image; see ``CaptionSearch.find``."""
        found = self._search(tf.cast(cells, tf.float32))
        return Hypotheses(found.words.numpy(), found.log_prob.numpy())

    def _build_search(self, cells: tf.Tensor) -> HypothesisTensors:
        config = self._captioner.config
        state = self._captioner.encode(cells)
        return beam_search(
            # A network takes the state that it has made itself, which mypy cannot see.
            functools.partial(self._captioner.step, state),  # type: ignore[arg-type]
            _initial_state(state, self._beam_width),
            batch=tf.shape(cells)[0],
            beam_width=self._beam_width,
            max_words=config.max_words,
            length_penalty=config.length_penalty,
        )


def draw_captions(
    captioner: Captioner, cells: tf.Tensor, samples: int, seed: tf.Tensor
) -> tf.Tensor:
    """Draws captions from the probabilities of a captioner; see ``sample_words``.

    Args:
      captioner: The network.
      cells: float [batch, cells, cell_dim]; see ``attended_cells``.
      samples: The number of captions drawn for each image.
      seed: int [2], the seed of the samples. It also drops values of the features, so that a loss
        computed with the same seed sees the same features.

    Returns:
      int32 [batch, samples, max_words + 1].
    """
    state = captioner.encode(tf.cast(cells, tf.float32), seed)
    return sample_words(
        functools.partial(captioner.step, state),
        _initial_state(state, samples),
        batch=tf.shape(cells)[0],
        samples=samples,
        max_words=captioner.config.max_words,
        seed=seed,
    )


def _initial_state(state: ImageState | EnsembleState, copies: int) -> tuple[tf.Tensor, ...]:
    """Returns the first LSTM state, repeated for each hypothesis of an image."""
    return tuple(
        tf.repeat(tensor[:, tf.newaxis], copies, axis=1) for tensor in (state.hidden, state.cell)
    )
