"""Captions for features: the trained network and the search, as one compiled call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from captioner_core.model.captioner import ImageState, pool_grid
from captioner_core.model.config import GRID_SIDE
from captioner_core.model.decoding import Hypotheses, beam_search
from captioner_core.model.folder import LoadedModel
from captioner_core.text import PAD


@dataclass(frozen=True, slots=True)
class GeneratedCaption:
    """A caption; ``log_prob`` is natural, END counts into it and not into ``n_tokens``."""

    text: str
    log_prob: float
    n_tokens: int


class CaptionGenerator:
    """Turns features into captions in batch.

    Args:
      model: the captioner.
      beam_width: hypotheses kept; the model's own choice where None.
    """

    def __init__(self, model: LoadedModel, beam_width: int | None = None) -> None:
        self._model = model
        self._beam_width = beam_width or model.config.beam_width
        dim = model.config.feature_dim
        shapes = [tf.TensorSpec([None, dim]), tf.TensorSpec([None, GRID_SIDE**2, dim])]
        self._search = tf.function(self._searched, input_signature=shapes)  # one graph for any batch

    @property
    def model_id(self) -> str:
        return self._model.model_id

    def generate(self, mean: npt.NDArray[np.float32], grid: npt.NDArray[np.float32]) -> list[GeneratedCaption]:
        """The best caption of each image.

        Args:
          mean: float32 [batch, 2048].
          grid: float32 [batch, 100, 2048].
        """
        found = self._search(tf.constant(mean, tf.float32), tf.constant(grid, tf.float32))
        words, log_prob = found.words[:, 0].numpy(), found.log_prob[:, 0].numpy()
        return [
            GeneratedCaption(self._model.vocabulary.decode(row), float(value), int((row != PAD).sum()) - 1)
            for row, value in zip(words, log_prob, strict=True)
        ]

    def _searched(self, mean: tf.Tensor, grid: tf.Tensor) -> Hypotheses:
        captioner, config, width = self._model.captioner, self._model.config, self._beam_width
        state = captioner.encode(mean, pool_grid(grid, config))
        start = tuple(tf.repeat(tensor[:, tf.newaxis], width, axis=1) for tensor in (state.hidden, state.cell))

        def step(words: tf.Tensor, lstm: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
            log_prob, hidden, cell = captioner.step(ImageState(*state), words, *lstm)
            return log_prob, (hidden, cell)

        return beam_search(
            step,
            start,
            batch=tf.shape(mean)[0],
            beam_width=width,
            max_words=config.max_words,
            length_penalty=config.length_penalty,
        )
