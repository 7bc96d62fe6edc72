"""TF-IDF over the words of Flickr8k's training captions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np
import numpy.typing as npt

from captioner_core.text.encoders.calibration import shipped_calibration
from captioner_core.text.encoders.learned import SHIPPED, WORDS
from captioner_core.text.encoders.word_tables import sum_words

_LEAST_CAPTIONS = 5  # that a word must stand in; rarer ones would each cost a dimension


class Tfidf:
    """Each word its own direction, weighted by its inverse document frequency.

    The frequencies come with the package, so that any two tables compare; words that training
    has not seen are unknown. Spärck Jones 1972 (https://doi.org/10.1108/eb026526).
    """

    name = "tfidf"

    def __init__(self) -> None:
        path = resources.files("captioner_core") / SHIPPED / WORDS
        counted = json.loads(path.read_text(encoding="utf-8"))
        weights = {
            word: np.log(counted["captions"] / count)
            for word, count in counted["words"].items()
            if count >= _LEAST_CAPTIONS
        }
        self._rows = {word: row for row, word in enumerate(weights)}
        self._table = np.diag(np.array(list(weights.values()), np.float32))
        self.dim = len(weights)
        self.calibration = shipped_calibration(self.name)
        digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]
        self.fingerprint = f"{self.name}/{digest}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See ``TextEncoder.encode``."""
        return sum_words(texts, self._rows, self._table)
