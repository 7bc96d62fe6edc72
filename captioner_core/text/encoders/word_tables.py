"""Encodes texts as weighted bags of words: sums of one vector for each word."""

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
    tokens = [tokenize(text) for text in texts]
    row_of = {word: rows.get(word) for words in tokens for word in words}
    added: list[npt.NDArray[np.float32]] = []
    for word, row in row_of.items():
        if row is None and (vector := unknown(word)) is not None:
            row_of[word] = len(table) + len(added)
            added.append(vector)
    if added:
        table = np.concatenate([table, np.array(added, np.float32)])
    text_rows = [[row for word in words if (row := row_of[word]) is not None] for words in tokens]
    encoded = np.zeros((len(texts), table.shape[1]), np.float32)
    block_size = max(1, _BLOCK_VALUES // table.shape[1])
    for start in range(0, len(texts), block_size):
        totals = _sum_rows(table, text_rows[start : start + block_size])
        norms = np.sqrt(np.einsum("nd,nd->n", totals, totals))
        is_known = norms > 0
        encoded[start : start + block_size][is_known] = totals[is_known] / norms[is_known, None]
    return encoded


def _sum_rows(
    table: npt.NDArray[np.float32], text_rows: Sequence[Sequence[int]]
) -> npt.NDArray[np.float64]:
    """Returns the sum of each text's rows of the table: float64 [texts, dim].

    Args:
      table: float32 [words, dim].
      text_rows: the rows of each text.
    """
    rows = np.array([row for rows in text_rows for row in rows], np.int64)
    lengths = np.array([len(rows) for rows in text_rows], np.int64)
    first = np.cumsum(lengths) - lengths
    totals = np.zeros((len(text_rows), table.shape[1]))
    # Adds the first words of all texts, then all second words, and so on.
    for position in range(int(lengths.max(initial=0))):
        texts = np.flatnonzero(lengths > position)
        totals[texts] += table[rows[first[texts] + position]]
    return totals
