"""Captions from features: a search for the likeliest ones, and the choice among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.generated_caption import GeneratedCaption
from captioner_core.captioning.grid import attended_cells
from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.captioning.search.base import load_search
from captioner_core.errors import CaptionerError
from captioner_core.options import DEFAULT_ENGINE
from captioner_core.text.encoders.base import JointEncoder
from captioner_core.text.encoders.learned import LearnedEncoder
from captioner_core.text.vocabulary import PAD


class CaptionGenerator:
    """Turns the features of images into captions, a batch at a time.

    Args:
      model: The captioner.
      beam_width: The number of hypotheses kept. None uses the model's own beam width.
      engine: What searches; see ``load_search``.

    Raises:
      CaptionerError: The engine is not known, or the model chooses captions by another encoder
        than the packaged one.
    """

    def __init__(
        self, model: LoadedModel, beam_width: int | None = None, engine: str = DEFAULT_ENGINE
    ) -> None:
        self._model = model
        self._search = load_search(model, beam_width, engine)
        self._joint = _load_joint_encoder(model.config) if model.config.joint_weight else None

    @property
    def model_id(self) -> str:
        """The id of the model that writes the captions."""
        return self._model.model_id

    def generate(
        self, features: npt.NDArray[np.float32], grid: npt.NDArray[Any]
    ) -> list[GeneratedCaption]:
        """Returns the best caption of each image; see ``FeatureCaptioner.generate``."""
        words, log_prob = self._search.find(attended_cells(grid, self._model.config))
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


def _load_joint_encoder(config: CaptionerConfig) -> JointEncoder:
    """Returns the packaged encoder if it is the one that the model was exported with."""
    encoder = LearnedEncoder()
    if encoder.fingerprint != config.joint_encoder:
        raise CaptionerError(
            f"the model chooses captions by encoder {config.joint_encoder!r}, the package has "
            f"{encoder.fingerprint!r}; export the model again"
        )
    return encoder
