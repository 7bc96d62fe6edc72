"""A weighted bag of words: what the encoders with a vector for each word share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.text.vocabulary import tokenize

_BLOCK_VALUES = 400_000  # of sums held at once, so that they stay near the processor: 3 MB


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
    added: dict[str, int | None] = {}
    block = max(1, _BLOCK_VALUES // table.shape[1])
    vectors = table
    for start in range(0, len(texts), block):
        listed: list[int] = []
        lengths = []
        extra: list[npt.NDArray[np.float32]] = []
        for text in texts[start : start + block]:
            before = len(listed)
            for word in tokenize(text):
                row = rows.get(word)
                if row is None:
                    if word not in added:
                        vector = unknown(word)
                        added[word] = None if vector is None else len(vectors) + len(extra)
                        extra += [] if vector is None else [vector]
                    row = added[word]
                if row is not None:
                    listed.append(row)
            lengths.append(len(listed) - before)
        if extra:
            vectors = np.concatenate([vectors, np.array(extra, np.float32)])
        totals = _sums(vectors, np.array(listed, np.int64), np.array(lengths, np.int64))
        norms = np.sqrt(np.einsum("nd,nd->n", totals, totals))
        known = norms > 0
        encoded[start : start + block][known] = totals[known] / norms[known, None]
    return encoded


def _sums(
    table: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """float64 [texts, dim], of each text's rows one after the other."""
    totals = np.zeros((len(lengths), table.shape[1]))
    first = np.cumsum(lengths) - lengths
    for place in range(int(lengths.max(initial=0))):
        texts = np.flatnonzero(lengths > place)
        totals[texts] += table[rows[first[texts] + place]]
    return totals
