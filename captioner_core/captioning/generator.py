"""Captions from features: the trained network and the search, compiled into one graph."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.beam_search import Hypotheses, beam_search, sample_words
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.ensemble import Ensemble, EnsembleState
from captioner_core.captioning.generated_caption import GeneratedCaption
from captioner_core.captioning.grid import attended_cells
from captioner_core.captioning.network import Captioner, ImageState
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.errors import CaptionerError
from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.encoders.base import JointEncoder
from captioner_core.text.encoders.learned import LearnedEncoder
from captioner_core.text.vocabulary import PAD


class CaptionSearch:
    """Beam search over batches of images, compiled once for batches of any size.

    Args:
      captioner: The network. Its weights may change between calls.
      beam_width: The number of hypotheses kept. None uses the model's own beam width.
    """

    def __init__(self, captioner: Captioner | Ensemble, beam_width: int | None = None) -> None:
        self._captioner = captioner
        config = captioner.config
        self._beam_width = beam_width or config.beam_width
        cells = tf.TensorSpec([None, config.cell_count, config.cell_dim])
        self._search = tf.function(self._build_search, input_signature=[cells])

    def find(self, cells: Any) -> Hypotheses:
        """Returns the hypotheses of each image, best first.

        Args:
          cells: float [batch, cells, cell_dim]; see ``attended_cells``.
        """
        return self._search(tf.cast(cells, tf.float32))

    def _build_search(self, cells: tf.Tensor) -> Hypotheses:
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


class CaptionGenerator:
    """Turns the features of images into captions, a batch at a time.

    Args:
      model: The captioner.
      beam_width: The number of hypotheses kept. None uses the model's own beam width.

    Raises:
      CaptionerError: The model chooses captions by another encoder than the packaged one.
    """

    def __init__(self, model: LoadedModel, beam_width: int | None = None) -> None:
        self._model = model
        self._search = CaptionSearch(model.captioner, beam_width)
        self._joint = _load_joint_encoder(model.config) if model.config.joint_weight else None

    @property
    def model_id(self) -> str:
        """The id of the model that writes the captions."""
        return self._model.model_id

    def generate(
        self, features: npt.NDArray[np.float32], grid: npt.NDArray[Any]
    ) -> list[GeneratedCaption]:
        """Returns the best caption of each image; see ``FeatureCaptioner.generate``."""
        found = self._search.find(attended_cells(grid, self._model.config))
        words = found.words.numpy()
        log_prob = found.log_prob.numpy()
        if self._joint is None:
            return [
                self._decode(rows[0], values[0])
                for rows, values in zip(words, log_prob, strict=True)
            ]
        return [
            self._choose_by_image(self._joint, *beams)
            for beams in zip(self._joint.encode_images(features), words, log_prob, strict=True)
        ]

    def _choose_by_image(
        self,
        encoder: JointEncoder,
        image: npt.NDArray[np.float32],
        words: npt.NDArray[np.int32],
        log_prob: npt.NDArray[np.float32],
    ) -> GeneratedCaption:
        """Returns the beam of one image whose probability and similarity to the image are best.

        Args:
          encoder: The encoder of captions and images into one space.
          image: float32 [dim], the image in that space.
          words: int32 [beams, max_words + 1].
          log_prob: float32 [beams].
        """
        config = self._model.config
        captions = [self._decode(row, value) for row, value in zip(words, log_prob, strict=True)]
        cosines = encoder.encode([caption.text for caption in captions]) @ image
        lengths = np.array([caption.n_tokens + 1 for caption in captions])
        scores = log_prob / lengths**config.length_penalty + config.joint_weight * cosines
        return captions[int(np.argmax(scores))]

    def _decode(self, words: npt.NDArray[np.int32], log_prob: float) -> GeneratedCaption:
        n_tokens = int((words != PAD).sum()) - 1
        return GeneratedCaption(self._model.vocabulary.decode(words), float(log_prob), n_tokens)


def _initial_state(state: ImageState | EnsembleState, copies: int) -> tuple[tf.Tensor, ...]:
    """Returns the first LSTM state, repeated for each hypothesis of an image."""
    return tuple(
        tf.repeat(tensor[:, tf.newaxis], copies, axis=1) for tensor in (state.hidden, state.cell)
    )


def _load_joint_encoder(config: CaptionerConfig) -> JointEncoder:
    """Returns the packaged encoder if it is the one that the model was exported with."""
    encoder = LearnedEncoder()
    if encoder.fingerprint != config.joint_encoder:
        raise CaptionerError(
            f"the model chooses captions by encoder {config.joint_encoder!r}, the package has "
            f"{encoder.fingerprint!r}; export the model again"
        )
    return encoder
