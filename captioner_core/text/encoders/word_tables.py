"""Encodes texts as weighted bags of words: sums of one vector for each word."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from captioner_core.text.vocabulary import tokenize

_BLOCK_VALUES = 400_000
"""Values of sums that are held at once, so that they stay in the processor's cache: 3 MB."""


def sum_words(
    texts: Sequence[str],
    rows: Mapping[str, int],
    table: npt.NDArray[np.float32],
    unknown: Callable[[str], npt.NDArray[np.float32] | None] = lambda word: None,
) -> npt.NDArray[np.float32]:
    """Returns the normalised sum of the vectors of each text's words.

    A row depends on its own text only, to the last bit: words are added in their order, in float64.

    Args:
      texts: any texts.
      rows: each known word's row of the table.
      table: float32 [words, dim].
      unknown: returns the vector of a word that is not in the table, or None to skip the word.

    Returns:
      float32 [len(texts), dim]: unit rows, or zeros for a text without any known word.
    """
    encoded = np.zeros((len(texts), table.shape[1]), np.float32)
    vectors = _GrowingTable(rows, table, unknown)
    block_size = max(1, _BLOCK_VALUES // table.shape[1])
    for start in range(0, len(texts), block_size):
        block = [vectors.find_rows(text) for text in texts[start : start + block_size]]
        lengths = np.array([len(found) for found in block], np.int64)
        text_rows = np.array([row for found in block for row in found], np.int64)
        totals = _sum_rows(vectors.table(), text_rows, lengths)
        norms = np.sqrt(np.einsum("nd,nd->n", totals, totals))
        is_known = norms > 0
        encoded[start : start + block_size][is_known] = totals[is_known] / norms[is_known, None]
    return encoded


class _GrowingTable:
    """A table of word vectors that adds the vectors of further words as they are met.

    Args:
      rows: each known word's row of the table.
      table: float32 [words, dim].
      unknown: returns the vector of another word, or None.
    """

    def __init__(
        self,
        rows: Mapping[str, int],
        table: npt.NDArray[np.float32],
        unknown: Callable[[str], npt.NDArray[np.float32] | None],
    ) -> None:
        self._rows = rows
        self._table = table
        self._unknown = unknown
        self._added_rows: dict[str, int | None] = {}
        self._added: list[npt.NDArray[np.float32]] = []

    def find_rows(self, text: str) -> list[int]:
        """Returns the rows of a text's words in their order, without words that have no vector."""
        rows = [self._find_row(word) for word in tokenize(text)]
        return [row for row in rows if row is not None]

    def _find_row(self, word: str) -> int | None:
        row = self._rows.get(word)
        if row is not None:
            return row
        if word not in self._added_rows:
            vector = self._unknown(word)
            self._added_rows[word] = None
            if vector is not None:
                self._added_rows[word] = len(self._table) + len(self._added)
                self._added.append(vector)
        return self._added_rows[word]

    def table(self) -> npt.NDArray[np.float32]:
        """Returns the table with the vectors added so far: float32 [words, dim]."""
        if self._added:
            self._table = np.concatenate([self._table, np.array(self._added, np.float32)])
            self._added = []
        return self._table


def _sum_rows(
    table: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Returns the sum of each text's rows: float64 [texts, dim].

    Args:
      table: float32 [words, dim].
      rows: int64, the rows of all texts, one text after the other.
      lengths: int64 [texts], the number of rows of each text.
    """
    totals = np.zeros((len(lengths), table.shape[1]))
    first = np.cumsum(lengths) - lengths
    # Adds the first words of all texts, then all second words, and so on.
    for position in range(int(lengths.max(initial=0))):
        texts = np.flatnonzero(lengths > position)
        totals[texts] += table[rows[first[texts] + position]]
    return totals
