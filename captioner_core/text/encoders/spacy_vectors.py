"""spaCy's word vectors, and the base class of the encoders that pool them."""

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
    """The word vectors of ``en_core_web_md``.

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

    def unit_vector(self, word: str) -> npt.NDArray[np.float32] | None:
        """Returns a word's vector, scaled to length 1, or None if the word has no vector."""
        (row,) = self.rows([word])
        length = 0.0 if row < 0 else float(np.linalg.norm(self._vectors.data[row]))
        return None if not length else np.asarray(self._vectors.data[row] / length, np.float32)

    def rows(self, words: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns each word's row of ``data``, or −1 for an unknown word.

        Callers must filter out −1, which NumPy takes for the last row.
        """
        keys = [self._strings.as_int(word) for word in words]
        found: Any = self._vectors.find(keys=keys) if keys else np.empty(0, np.int64)
        return np.asarray(found, np.int64)

    @property
    def data(self) -> npt.NDArray[np.float32]:
        """float32 [rows, dim], the vectors of all words."""
        table: npt.NDArray[np.float32] = self._vectors.data
        return table


@functools.cache
def load_vectors() -> SpacyVectors:
    """Returns the vectors, which are loaded once in a process."""
    return SpacyVectors()


class PooledSpacyVectors:
    """Encodes a text as the normalised sum of the vectors of some of its words.

    Subclasses choose the words.

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
        """Returns the words of a text whose vectors are summed."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the vectors of texts; see ``TextEncoder.encode``."""
        encoded = np.zeros((len(texts), self.dim), np.float32)
        for number, text in enumerate(texts):
            rows = self._vectors.rows(self.words(self._tokenizer(text)))
            total = self._vectors.data[rows[rows >= 0]].sum(axis=0, dtype=np.float64)
            length = np.linalg.norm(total)
            if length > 0:
                encoded[number] = total / length
        return encoded
