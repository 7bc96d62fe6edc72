"""Pooled spaCy word vectors: what the encoders over them share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import spacy
from spacy.tokens import Doc
from spacy.vocab import Vocab

from captioner_core import assets


class PooledSpacyVectors:
    """The normalised sum of the vectors of some words of a text, from ``en_core_web_md``.

    Raises:
      CaptionerError: the vectors are not in the cache.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        vocab = Vocab().from_disk(assets.spacy_vocab())
        self._tokenizer = spacy.blank("en").tokenizer
        self._strings = vocab.strings
        self._vectors = vocab.vectors
        self.dim = int(vocab.vectors.shape[1])
        digest = hashlib.sha256(np.ascontiguousarray(vocab.vectors.data).tobytes())
        self.fingerprint = f"{self.name}/{digest.hexdigest()[:16]}"

    def words(self, doc: Doc) -> list[str]:
        """The words of a text that count; subclasses choose them."""
        raise NotImplementedError

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See ``TextEncoder.encode``."""
        encoded = np.zeros((len(texts), self.dim), np.float32)
        for place, text in enumerate(texts):
            keys = [self._strings.as_int(word) for word in self.words(self._tokenizer(text))]
            rows: Any = self._vectors.find(keys=keys) if keys else np.empty(0, int)
            rows = rows[rows >= 0]  # -1 stands for an unknown word, and would fetch the last row
            total = self._vectors.data[rows].sum(axis=0, dtype=np.float64)
            length = np.linalg.norm(total)
            if length > 0:
                encoded[place] = total / length
        return encoded
