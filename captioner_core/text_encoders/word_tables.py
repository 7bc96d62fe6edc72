"""A weighted bag of words: what the encoders with a vector for each word share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.text import tokenize

_BLOCK_VALUES = 4_000_000  # of word vectors held at once: 32 MB as float64
_USUAL_WORDS = 12


def sum_words(
    texts: Sequence[str],
    rows: Mapping[str, int],
    table: npt.NDArray[np.float32],
    unknown: Callable[[str], npt.NDArray[np.float32] | None] = lambda word: None,
) -> npt.NDArray[np.float32]:
    """The normalised sum of the vectors of each text's words.

    Args:
      texts: any text.
      rows: word to its row of the table.
      table: float32 [words, dim].
      unknown: the vector of a word that is not in the table, or None.

    Returns:
      float32 [len(texts), dim]: unit rows, or zeros for a text with no known word. A row depends
      on its own text alone, to the last bit: words are added in their order, as float64.
    """
    encoded = np.zeros((len(texts), table.shape[1]), np.float32)
    block = max(1, _BLOCK_VALUES // (_USUAL_WORDS * table.shape[1]))
    for start in range(0, len(texts), block):
        owners: list[int] = []
        vectors: list[npt.NDArray[np.float32]] = []
        for place, text in enumerate(texts[start : start + block], start):
            for word in tokenize(text):
                row = rows.get(word)
                vector = unknown(word) if row is None else table[row]
                if vector is not None:
                    owners.append(place)
                    vectors.append(vector)
        if owners:
            first = np.flatnonzero(np.diff(owners, prepend=-1))
            totals = np.add.reduceat(np.array(vectors, np.float64), first, axis=0)
            lengths = np.sqrt(np.einsum("nd,nd->n", totals, totals))
            known = lengths > 0
            encoded[np.array(owners)[first][known]] = totals[known] / lengths[known, None]
    return encoded
