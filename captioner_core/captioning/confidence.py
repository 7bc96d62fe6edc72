"""How certain a caption is: the probability that it is acceptable.

Three signs tell: how probable each word was to the captioner, how near the caption lies to the
image in the encoder's space, and how near the image lies to one of the kinds of images that the
captioner was trained on. A logistic regression weighs them (Platt 1999). ``analysis`` fits it to
images that training did not see.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.tables.schemas import FEATURE_DIM

WEIGHTS = "confidence/weights"
KINDS = "confidence/kinds"
NAMES = (WEIGHTS, KINDS)
SIGNS = 3


class CaptionSigns(NamedTuple):
    """Signs of how certain some captions are.

    Args:
      log_probs: float32 [captions], the natural log of a word's probability, averaged over the
        words of the caption and its end.
      image_text_scores: float32 [captions], the cosines of image and caption.
      features: float32 [captions, FEATURE_DIM], the averaged features of the images.
    """

    log_probs: npt.NDArray[np.float32]
    image_text_scores: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32]


class ConfidenceModel(NamedTuple):
    """The regression.

    Args:
      weights: float32 [SIGNS + 1], those of a constant, the log-probability, the cosine of image
        and caption, and the cosine of the image and its nearest kind.
      kinds: float32 [kinds, FEATURE_DIM], unit rows: the centres of groups of training images.
    """

    weights: npt.NDArray[np.float32]
    kinds: npt.NDArray[np.float32]

    def estimate(self, signs: CaptionSigns) -> npt.NDArray[np.float64]:
        """Returns float64 [captions], the probability that a caption is acceptable."""
        logits = regression_inputs(signs, self.kinds) @ self.weights.astype(np.float64)
        return np.asarray(1 / (1 + np.exp(-logits)), np.float64)

    def tensors(self) -> dict[str, npt.NDArray[np.float32]]:
        """Returns the arrays by their names in a model folder."""
        return {WEIGHTS: self.weights, KINDS: self.kinds}


def tensor_shapes(kinds: int) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of ``ConfidenceModel.tensors``; none without kinds."""
    return {WEIGHTS: (SIGNS + 1,), KINDS: (kinds, FEATURE_DIM)} if kinds else {}


def regression_inputs(
    signs: CaptionSigns, kinds: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Returns float64 [captions, SIGNS + 1]: a constant, and the signs as numbers near 1.

    Args:
      signs: what is known of the captions.
      kinds: float32 [kinds, FEATURE_DIM], unit rows.
    """
    lengths = np.linalg.norm(signs.features, axis=1)
    nearest = (signs.features @ kinds.T).max(axis=1) / np.maximum(lengths, 1e-12)
    columns = (np.ones(len(nearest)), signs.log_probs, signs.image_text_scores, nearest)
    return np.stack(columns, axis=1).astype(np.float64)
