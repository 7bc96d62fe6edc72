"""spaCy's word vectors, and what the encoders that pool them share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import spacy
from spacy.tokens import Doc
from spacy.vocab import Vocab

from captioner_core.text.encoders.calibration import Calibration, shipped_calibration
from captioner_core.weights import assets


class SpacyVectors:
    """The vectors of ``en_core_web_md``, by word.

    Raises:
      CaptionerError: the vectors are not in the cache.
    """

    def __init__(self) -> None:
        vocab = Vocab().from_disk(assets.spacy_vocab())
        self._strings = vocab.strings
        self._vectors = vocab.vectors
        self.dim = int(vocab.vectors.shape[1])
        self.digest = hashlib.sha256(
            np.ascontiguousarray(vocab.vectors.data).tobytes()
        ).hexdigest()[:16]

    def of(self, word: str) -> npt.NDArray[np.float32] | None:
        """A word's vector as a unit row; None where it has none."""
        (row,) = self.rows([word])
        length = 0.0 if row < 0 else float(np.linalg.norm(self._vectors.data[row]))
        return None if not length else np.asarray(self._vectors.data[row] / length, np.float32)

    def rows(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        """Each word's row of ``data``; −1 for an unknown word, which must not fetch the last row."""
        keys = [self._strings.as_int(word) for word in words]
        found: Any = self._vectors.find(keys=keys) if keys else np.empty(0, np.int64)
        return np.asarray(found, np.int64)

    @property
    def data(self) -> npt.NDArray[np.float32]:
        """float32 [rows, dim]."""
        table: npt.NDArray[np.float32] = self._vectors.data
        return table


@functools.cache
def load_vectors() -> SpacyVectors:
    """The vectors, once a process."""
    return SpacyVectors()


class PooledSpacyVectors:
    """The normalised sum of the vectors of some words of a text, from ``en_core_web_md``.

    Raises:
      CaptionerError: the vectors are not in the cache.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._vectors = load_vectors()
        self._tokenizer = spacy.blank("en").tokenizer
        self.dim = self._vectors.dim
        self.calibration: Calibration = shipped_calibration(self.name)
        self.fingerprint = f"{self.name}/{self._vectors.digest}"

    def words(self, doc: Doc) -> list[str]:
        """The words of a text that count; subclasses choose them."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See ``TextEncoder.encode``."""
        encoded = np.zeros((len(texts), self.dim), np.float32)
        for place, text in enumerate(texts):
            rows = self._vectors.rows(self.words(self._tokenizer(text)))
            total = self._vectors.data[rows[rows >= 0]].sum(axis=0, dtype=np.float64)
            length = np.linalg.norm(total)
            if length > 0:
                encoded[place] = total / length
        return encoded
