"""What a text encoder is, and the table of those there are."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.calibration import Calibration

# name -> module and class; imported when asked for, since they load spaCy
_ENCODERS = {
    "learned": ("captioner_core.text.encoders.learned", "LearnedEncoder"),
    "spacy-content": ("captioner_core.text.encoders.spacy_content", "SpacyContent"),
    "spacy-mean": ("captioner_core.text.encoders.spacy_mean", "SpacyMean"),
    "tfidf": ("captioner_core.text.encoders.tfidf", "Tfidf"),
    "minilm": ("captioner_core.text.encoders.minilm", "MiniLm"),
}


class TextEncoder(Protocol):
    """Texts to unit vectors whose dot product, calibrated, is their similarity."""

    name: str
    dim: int
    fingerprint: str
    """Names everything that decides a vector: two encoders alike in it agree on every text."""
    calibration: Calibration
    """Makes a dot product a score that means the same for every encoder."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [len(texts), dim]: unit rows, or zeros for a text with no known word.

        A row depends on its own text alone, to the last bit, whatever the batch.
        """
        ...


@runtime_checkable
class JointEncoder(TextEncoder, Protocol):
    """An encoder that also puts images into the space of their captions."""

    backbone: str
    """Whose features it takes."""

    def encode_images(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Unit rows float32 [n, dim] of averaged features float32 [n, 2048]."""
        ...


def load_encoder(name: str) -> TextEncoder:
    """An encoder by its name.

    Raises:
      CaptionerError: the name is not known, or its vectors are not in the cache.
    """
    if name not in _ENCODERS:
        raise CaptionerError(f"encoder {name!r} is not known; choose one of {', '.join(_ENCODERS)}")
    module, class_name = _ENCODERS[name]
    encoder: TextEncoder = getattr(importlib.import_module(module), class_name)()
    return encoder
