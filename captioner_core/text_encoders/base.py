"""What a text encoder is, and the table of those there are."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError

# name -> module and class; imported when asked for, since they load spaCy
_ENCODERS = {
    "spacy-content": ("captioner_core.text_encoders.spacy_content", "SpacyContent"),
    "spacy-mean": ("captioner_core.text_encoders.spacy_mean", "SpacyMean"),
}


class TextEncoder(Protocol):
    """Texts to unit vectors whose dot product is their similarity."""

    name: str
    dim: int
    fingerprint: str
    """Names everything that decides a vector: two encoders alike in it agree on every text."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [len(texts), dim]: unit rows, or zeros for a text with no known word.

        A row depends on its own text alone, to the last bit, whatever the batch.
        """
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
