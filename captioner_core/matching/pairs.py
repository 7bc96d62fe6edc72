"""The pairs of captions whose cosine could reach what is looked for, exactly.

Blocks of float32 products choose; the pairs chosen alone are scored as float64, calibrated and rounded
to six decimals. So scores, their order and every comparison with the threshold are the same however
queries and index are cut: the last bits of a matrix product depend on its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.matching.caption_set import CaptionSet, Floats, Int64Array
from captioner_core.matching.outline import ROWS_PADDED_TO
from captioner_core.text.encoders.calibration import Calibration

_INDEX_BLOCK = (
    4_096  # captions searched at once, so that a block of products stays near the processor
)
_SCORED_AT_ONCE = 16_384  # pairs whose vectors are gathered: 64 MB at 256 dimensions
_DECIMALS = 6
_UNIT_ROUNDING = 2.0**-24  # of float32


@dataclass(frozen=True, slots=True)
class Pairs:
    """Captions asked (by number, rising), captions of the index, and the scores of the two.

    Args:
      asked: int64 [pairs].
      row: int64 [pairs].
      score: float32 [pairs].
    """

    asked: Int64Array
    row: Int64Array
    score: Floats


def reaching_pairs(
    vectors: Floats,
    index: CaptionSet,
    hidden: tuple[Int64Array, Int64Array],
    *,
    calibration: Calibration,
    threshold: np.float32,
    most_entries: int | None,
) -> Pairs | None:
    """Every pair that scores the threshold or more, and for captions that have none the nearest ones.

    Args:
      vectors: float32 [asked, dim], of the captions asked.
      index: what is searched, with its outline.
      hidden: captions asked and captions of the index that must not meet, pair by pair.
      calibration: of the encoder.
      threshold: least score.
      most_entries: of the index that may be reached.

    Returns:
      The pairs; None where they reach more entries than ``most_entries``.
    """
    seeking = _Seeking(vectors, index, calibration, threshold)
    chosen: list[tuple[Int64Array, Int64Array, Floats]] = []
    held = 0
    for start in range(0, len(index.captions), _INDEX_BLOCK):
        one, row, bound = seeking.choose(start, hidden)
        held += int(index.shared[row].sum())
        if most_entries is not None and held > most_entries:
            return None
        chosen.append((one, row, bound))
    one, row, bound = (joined([block[place] for block in chosen]) for place in range(3))
    # what was chosen early was measured against less than what has been found since
    kept = np.flatnonzero(bound >= seeking.least[one])
    one, row = seeking.rescored(one[kept], row[kept])
    order = np.argsort(one, kind="stable")
    one, row = one[order], row[order]
    scores = pair_scores(vectors, index.vectors, one, row, calibration)
    # of captions that reach nothing the nearest remain
    best = np.full(len(vectors), -np.inf, np.float32)
    np.maximum.at(best, one, scores)
    kept = np.flatnonzero(scores >= np.minimum(threshold, best[one]))
    return Pairs(one[kept], row[kept], scores[kept])


class _Seeking:
    """What is known of the captions asked while the index is gone through block by block."""

    def __init__(
        self, vectors: Floats, index: CaptionSet, calibration: Calibration, threshold: np.float32
    ) -> None:
        self._vectors, self._index = vectors, index
        assert index.outline is not None, "a set to search is made with its outline"
        self._outline = index.outline
        self._coarse = self._outline.of(vectors)
        # how far a float32 product can be from the true one, for vectors of length 1
        rounding = 2 * (vectors.shape[1] + 2) * _UNIT_ROUNDING
        lowest = np.array([threshold - 10.0**-_DECIMALS], np.float64)
        self._reaching = np.float32(calibration.cosines(lowest)[0] - rounding)
        # scores may tie though products differ, by float32's rounding and what rounding a score takes away
        self._slack = np.float32(2 * rounding + 40 * 10.0**-_DECIMALS)
        self._unknown = ~vectors.any(axis=1)
        self._nearest = np.full(len(vectors), -np.inf, np.float32)  # the highest product met
        self.least = np.full(len(vectors), np.inf, np.float32)
        self._rows = np.arange(len(vectors))
        self._bounds = np.empty((len(vectors), _INDEX_BLOCK), np.float32)

    def choose(
        self, start: int, hidden: tuple[Int64Array, Int64Array]
    ) -> tuple[Int64Array, Int64Array, Floats]:
        """Of a block of the index, the pairs whose bound reaches what is looked for so far; and the bounds."""
        bounds = self._block(start, hidden)
        peak = bounds.argmax(axis=1)
        highest = bounds[self._rows, peak]
        # of captions that reach nothing yet, the likeliest pair is multiplied out, which tells how near is near
        open_ = np.flatnonzero((self._nearest < self._reaching) & (highest > self._nearest))
        products = np.einsum(
            "nd,nd->n", self._vectors[open_], self._index.vectors[start + peak[open_]]
        )
        self._nearest[open_] = np.maximum(self._nearest[open_], products)
        found = np.isfinite(self._nearest)
        self.least = np.where(
            found, np.minimum(self._reaching, self._nearest - self._slack), np.float32(np.inf)
        )
        one, column = _where(bounds >= self.least[:, None])
        return one, start + column, bounds[one, column]

    def rescored(self, one: Int64Array, row: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Of pairs chosen by their bounds, those whose product reaches what is looked for."""
        if not self._outline.basis.shape[1]:
            return one, row
        products = np.empty(len(one), np.float32)
        for start in range(0, len(one), _SCORED_AT_ONCE):
            some = slice(start, start + _SCORED_AT_ONCE)
            products[some] = np.einsum(
                "nd,nd->n", self._vectors[one[some]], self._index.vectors[row[some]]
            )
        np.maximum.at(self._nearest, one, products)
        kept = np.flatnonzero(
            products >= np.minimum(self._reaching, self._nearest - self._slack)[one]
        )
        return one[kept], row[kept]

    def _block(self, start: int, hidden: tuple[Int64Array, Int64Array]) -> Floats:
        """float32 [asked, captions], upper bounds of products; -inf of pairs that must not meet."""
        coarse, stop = self._outline.coarse[start : start + _INDEX_BLOCK], start + _INDEX_BLOCK
        whole = len(coarse) == _INDEX_BLOCK
        bounds: Floats = (
            np.matmul(self._coarse, coarse.T, out=self._bounds)
            if whole
            else self._coarse @ coarse.T
        )
        here = (hidden[1] >= start) & (hidden[1] < stop)
        bounds[hidden[0][here], hidden[1][here] - start] = -np.inf
        bounds[self._unknown] = -np.inf
        first, last = np.searchsorted(self._index.unknown, (start, stop))
        bounds[:, self._index.unknown[first:last] - start] = -np.inf
        bounds[:, len(self._index.captions) - start :] = -np.inf
        return bounds


def pair_scores(
    vectors: Floats, others: Floats, one: Int64Array, other: Int64Array, calibration: Calibration
) -> npt.NDArray[np.float32]:
    """float32 [pairs], the scores of pairs of known captions by their rows in either array."""
    scores = np.empty(len(one), np.float32)
    for start in range(0, len(one), _SCORED_AT_ONCE):
        some = slice(start, start + _SCORED_AT_ONCE)
        cosines = row_products(vectors[one[some]], others[other[some]])
        scores[some] = np.round(calibration.scores(cosines), _DECIMALS)
    return scores


def row_products(one: Floats, other: Floats) -> npt.NDArray[np.float64]:
    """float64 [rows], the product of each row with its counterpart, within −1 to 1."""
    products = np.einsum("nd,nd->n", one.astype(np.float64), other.astype(np.float64))
    return np.asarray(np.clip(products, -1.0, 1.0))


def _where(mask: npt.NDArray[np.bool_]) -> tuple[Int64Array, Int64Array]:
    """Rows and columns of the few True, as ``np.nonzero`` but faster; columns are a multiple of ``ROWS_PADDED_TO``."""
    eights = mask.reshape(-1).view(np.uint64) != 0
    lines = np.flatnonzero(eights.view(np.uint64))
    line, place = np.nonzero(mask.reshape(-1, ROWS_PADDED_TO)[lines])
    return np.divmod(lines[line] * ROWS_PADDED_TO + place, mask.shape[1])


def joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """All parts in a row; an empty array of int64 where there are none."""
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
