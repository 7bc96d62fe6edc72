"""Captions from features: a search for the likeliest ones, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning import confidence
from captioner_core.captioning.confidence import CaptionSigns, ConfidenceModel
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
      CaptionerError: The engine is not known, or the model needs another encoder than the one that
        ``LearnedEncoder`` loads.
    """

    def __init__(
        self, model: LoadedModel, beam_width: int | None = None, engine: str = DEFAULT_ENGINE
    ) -> None:
        self._model = model
        self._search = load_search(model, beam_width, engine)
        self._encoder = _load_encoder(model)
        self._confidence = _load_confidence(model, self._encoder)

    @property
    def model_id(self) -> str:
        """The id of the model that writes the captions."""
        return self._model.model_id

    def generate(
        self, features: npt.NDArray[np.float32], grid: npt.NDArray[Any]
    ) -> list[GeneratedCaption]:
        """Returns the best caption of each image; see ``FeatureCaptioner.generate``."""
        words, log_prob = self._search.find(attended_cells(grid, self._model.config))
        if self._encoder is None:
            return [
                self._decode(rows[0], values[0])
                for rows, values in zip(words, log_prob, strict=True)
            ]
        captions = [
            self._choose_by_image(self._encoder, *beams)
            for beams in zip(self._encoder.encode_images(features), words, log_prob, strict=True)
        ]
        return self._with_confidence(captions, features)

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
        beams = len(words) if config.joint_weight else 1
        captions = [
            self._decode(row, value)
            for row, value in zip(words[:beams], log_prob[:beams], strict=True)
        ]
        cosines = encoder.encode([caption.text for caption in captions]) @ image
        lengths = np.array([caption.n_tokens + 1 for caption in captions])
        scores = log_prob[:beams] / lengths**config.length_penalty + config.joint_weight * cosines
        best = int(np.argmax(scores))
        return replace(captions[best], image_text_score=float(np.clip(cosines[best], -1, 1)))

    def _with_confidence(
        self, captions: list[GeneratedCaption], features: npt.NDArray[np.float32]
    ) -> list[GeneratedCaption]:
        """Returns the captions with their confidence, if the model has one."""
        if self._confidence is None:
            return captions
        estimates = self._confidence.estimate(caption_signs(captions, features))
        return [
            replace(caption, confidence=float(value))
            for caption, value in zip(captions, estimates, strict=True)
        ]

    def _decode(self, words: npt.NDArray[np.int32], log_prob: float) -> GeneratedCaption:
        n_tokens = int((words != PAD).sum()) - 1
        return GeneratedCaption(self._model.vocabulary.decode(words), float(log_prob), n_tokens)


def caption_signs(
    captions: Sequence[GeneratedCaption], features: npt.NDArray[np.float32]
) -> CaptionSigns:
    """Returns what a confidence is estimated from.

    Args:
      captions: The captions, each with its ``image_text_score``.
      features: float32 [captions, FEATURE_DIM], the averaged features of their images.
    """
    log_probs = [caption.log_prob / (caption.n_tokens + 1) for caption in captions]
    scores = [caption.image_text_score for caption in captions]
    return CaptionSigns(np.array(log_probs, np.float32), np.array(scores, np.float32), features)


def _load_encoder(model: LoadedModel) -> JointEncoder | None:
    """Returns the encoder, or None if it reads other features and the model can do without it.

    Raises:
      CaptionerError: The model was exported with another encoder.
    """
    encoder = LearnedEncoder()
    config = model.config
    if config.joint_weight and encoder.fingerprint != config.joint_encoder:
        raise CaptionerError(
            f"the model chooses captions by encoder {config.joint_encoder!r}, the package has "
            f"{encoder.fingerprint!r}; export the model again"
        )
    return encoder if encoder.backbone == config.backbone else None


def _load_confidence(model: LoadedModel, encoder: JointEncoder | None) -> ConfidenceModel | None:
    """Returns the model's confidence, unless it was fitted with another encoder."""
    config = model.config
    if not config.kinds or encoder is None or encoder.fingerprint != config.joint_encoder:
        return None
    tensors = (model.tensors[name].astype(np.float32) for name in confidence.NAMES)
    return ConfidenceModel(*tensors)
