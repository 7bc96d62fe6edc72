"""Captions for features: the trained network and the search, as one compiled call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.beam_search import Hypotheses, Step, beam_search, sample
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.ensemble import Ensemble, EnsembleState
from captioner_core.captioning.network import Captioner, ImageState, attended_cells
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.errors import CaptionerError
from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.encoders.base import JointEncoder
from captioner_core.text.encoders.learned import LearnedEncoder
from captioner_core.text.vocabulary import PAD


@dataclass(frozen=True, slots=True)
class GeneratedCaption:
    """A caption; ``log_prob`` is natural, END counts into it and not into ``n_tokens``."""

    text: str
    log_prob: float
    n_tokens: int


class CaptionSearch:
    """Beam search over images in batch, as one compiled graph for any number of them.

    Args:
      captioner: the network; its weights may change between calls.
      beam_width: hypotheses kept; the model's own choice where None.
    """

    def __init__(self, captioner: Captioner | Ensemble, beam_width: int | None = None) -> None:
        self._captioner, config = captioner, captioner.config
        self._beam_width = beam_width or config.beam_width
        shape = tf.TensorSpec([None, config.cells, config.cell_dim])
        self._search = tf.function(self._searched, input_signature=[shape])

    def find(self, cells: Any) -> Hypotheses:
        """The hypotheses of each image.

        Args:
          cells: float [batch, cells, cell_dim]; see ``attended_cells``.
        """
        return self._search(tf.cast(cells, tf.float32))

    def _searched(self, cells: tf.Tensor) -> Hypotheses:
        config, width = self._captioner.config, self._beam_width
        state = self._captioner.encode(cells)
        return beam_search(
            _step_of(self._captioner, state),
            _start(state, width),
            batch=tf.shape(cells)[0],
            beam_width=width,
            max_words=config.max_words,
            length_penalty=config.length_penalty,
        )


def draw_captions(
    captioner: Captioner, cells: tf.Tensor, samples: int, seed: tf.Tensor
) -> tf.Tensor:
    """Captions drawn from the model's probabilities, int32 [batch, samples, steps]; see ``decoding.sample``.

    ``seed`` also drops values of the features, as the loss then does with the same seed.
    """
    state = captioner.encode(tf.cast(cells, tf.float32), seed)
    return sample(
        _step_of(captioner, state),
        _start(state, samples),
        batch=tf.shape(cells)[0],
        samples=samples,
        max_words=captioner.config.max_words,
        seed=seed,
    )


def _start(state: ImageState | EnsembleState, each: int) -> tuple[tf.Tensor, ...]:
    """The first LSTM state of each of an image's hypotheses."""
    return tuple(
        tf.repeat(tensor[:, tf.newaxis], each, axis=1) for tensor in (state.hidden, state.cell)
    )


def _step_of(captioner: Any, state: ImageState | EnsembleState) -> Step:
    def step(
        words: tf.Tensor, lstm: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        log_prob, hidden, cell = captioner.step(state, words, *lstm)
        return log_prob, (hidden, cell)

    return step


class CaptionGenerator:
    """Turns features into captions in batch.

    Args:
      model: the captioner.
      beam_width: hypotheses kept; the model's own choice where None.

    Raises:
      CaptionerError: the model chooses by another encoder than the one that comes with the package.
    """

    def __init__(self, model: LoadedModel, beam_width: int | None = None) -> None:
        self._model = model
        self._search = CaptionSearch(model.captioner, beam_width)
        self._joint = _joint_encoder(model.config) if model.config.joint_weight else None

    @property
    def model_id(self) -> str:
        return self._model.model_id

    def generate(
        self, features: npt.NDArray[np.float32], grid: npt.NDArray[Any]
    ) -> list[GeneratedCaption]:
        """The best caption of each image.

        Args:
          features: float32 [batch, 2048], the averages.
          grid: float [batch, 25, 3800], or flattened to [batch, 25 * 3800].
        """
        found = self._search.find(attended_cells(grid, self._model.config))
        words, log_prob = found.words.numpy(), found.log_prob.numpy()
        if self._joint is None:
            return [
                self._caption(rows[0], values[0])
                for rows, values in zip(words, log_prob, strict=True)
            ]
        images = self._joint.encode_images(features)
        chosen = []
        for image, rows, values in zip(images, words, log_prob, strict=True):
            captions = [self._caption(row, value) for row, value in zip(rows, values, strict=True)]
            cosines = self._joint.encode([caption.text for caption in captions]) @ image
            lengths = np.array([caption.n_tokens + 1 for caption in captions])
            fluent = values / lengths**self._model.config.length_penalty
            chosen.append(
                captions[int(np.argmax(fluent + self._model.config.joint_weight * cosines))]
            )
        return chosen

    def _caption(self, row: npt.NDArray[np.int32], log_prob: float) -> GeneratedCaption:
        return GeneratedCaption(
            self._model.vocabulary.decode(row), float(log_prob), int((row != PAD).sum()) - 1
        )


def _joint_encoder(config: CaptionerConfig) -> JointEncoder:
    encoder = LearnedEncoder()
    if encoder.fingerprint != config.joint_encoder:
        raise CaptionerError(
            f"the model chooses captions by encoder {config.joint_encoder!r}, the package has {encoder.fingerprint!r}; "
            "export the model again"
        )
    return encoder
