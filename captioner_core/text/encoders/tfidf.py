"""The encoder ``tfidf``: TF-IDF over the words of the packaged encoder's training captions."""

import hashlib
import itertools
import json
from collections.abc import Sequence
from importlib import resources

import numpy as np
import numpy.typing as npt

from captioner_core.text.encoders import learned, word_tables
from captioner_core.text.encoders.calibration import shipped_calibration

_MAX_WORDS = 4096
"""The most frequent words, each of which is a dimension, are known."""


class Tfidf:
    """Gives each word a dimension of its own, weighted by its inverse document frequency.

    The frequencies come with the package, so vectors of any two tables can be compared. Words
    that do not occur in the training captions are unknown. Spärck Jones 1972
    (https://doi.org/10.1108/eb026526).
    """

    name = "tfidf"

    def __init__(self) -> None:
        path = resources.files("captioner_core") / learned.SHIPPED / learned.WORDS
        counts = json.loads(path.read_text(encoding="utf-8"))
        # The most frequent word comes first.
        frequent = itertools.islice(counts["words"].items(), _MAX_WORDS)
        weights = {word: np.log(counts["captions"] / count) for word, count in frequent}
        self._rows = {word: row for row, word in enumerate(weights)}
        self._table = np.diag(np.array(list(weights.values()), np.float32))
        self.dim = len(weights)
        self.calibration = shipped_calibration(self.name)
        digest = hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()[:16]
        self.fingerprint = f"{self.name}/{digest}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the vectors of texts; see ``TextEncoder.encode``."""
        return word_tables.sum_words(texts, self._rows, self._table)
