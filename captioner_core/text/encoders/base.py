"""The protocol of text encoders, and the table of all encoders."""

import importlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.calibration import Calibration

# The module and the class of each encoder. They are imported only when loaded, since most import
# spaCy or TensorFlow.
_ENCODERS = {
    "learned": ("captioner_core.text.encoders.learned", "LearnedEncoder"),
    "spacy-content": ("captioner_core.text.encoders.spacy_content", "SpacyContent"),
    "spacy-mean": ("captioner_core.text.encoders.spacy_mean", "SpacyMean"),
    "tfidf": ("captioner_core.text.encoders.tfidf", "Tfidf"),
    "minilm": ("captioner_core.text.encoders.minilm", "MiniLm"),
}


class TextEncoder(Protocol):
    """Turns texts into unit vectors whose dot product, calibrated, is their similarity."""

    name: str
    """The encoder's name, as the option ``--encoder`` takes it."""
    dim: int
    """The length of its vectors."""
    fingerprint: str
    """Identifies everything that vectors depend on: encoders with the same fingerprint agree."""
    calibration: Calibration
    """Turns a dot product into a score that means the same for every encoder."""

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the vectors of texts.

        A row depends on its own text only, to the last bit, whatever other texts are in the batch.

        Args:
          texts: any texts.

        Returns:
          float32 [len(texts), dim]: unit rows, or zeros for a text without any known word.
        """


@runtime_checkable
class JointEncoder(TextEncoder, Protocol):
    """An encoder that puts images into the same space as their captions."""

    backbone: str
    """The name of the backbone whose features it encodes."""

    def encode_images(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the vectors of images: float32 [images, dim], unit rows.

        Args:
          features: float32 [images, 2048], averaged features of the backbone.
        """


def load_encoder(name: str) -> TextEncoder:
    """Returns the encoder of this name.

    Raises:
      CaptionerError: the name is not known, or the encoder's files are not on this machine.
    """
    if name not in _ENCODERS:
        raise CaptionerError(f"encoder {name!r} is not known; choose one of {', '.join(_ENCODERS)}")
    module, class_name = _ENCODERS[name]
    encoder: TextEncoder = getattr(importlib.import_module(module), class_name)()
    return encoder
