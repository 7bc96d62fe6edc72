"""A caption that a model has written, and the interface of what writes it; without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class GeneratedCaption:
    """A caption that a model has written.

    Args:
      text: The caption.
      log_prob: The natural log of its probability, including the probability of END.
      n_tokens: The number of its words, without END.
      image_text_score: The cosine of image and caption in the encoder's space; None if the encoder
        reads other features than the model.
      confidence: The probability that the caption is acceptable; None if that was not fitted for
        the model.
    """

    text: str
    log_prob: float
    n_tokens: int
    image_text_score: float | None = None
    confidence: float | None = None


class FeatureCaptioner(Protocol):
    """Whatever turns the features of images into captions, such as ``CaptionGenerator``."""

    @property
    def model_id(self) -> str:
        """The id of the model that writes the captions."""
        ...

    def generate(
        self, features: npt.NDArray[np.float32], grid: npt.NDArray[Any]
    ) -> list[GeneratedCaption]:
        """Returns the caption of each image.

        Args:
          features: float32 [batch, FEATURE_DIM], the averaged features.
          grid: float [batch, GRID_CELLS, CELL_DIM], or the same flattened to two dimensions.
        """
        ...
