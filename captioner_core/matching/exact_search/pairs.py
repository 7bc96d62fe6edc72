"""Finds the caption pairs that matter: all that reach the threshold, else the nearest of a query.

The index is scanned in blocks of float32 products, each an upper bound of a cosine. The bounds only
select candidates. The candidates are scored again in float64, calibrated and rounded to six
decimals. The last bits of a matrix product depend on the shape of the matrices; the rounded
scores do not. So scores, their order and every comparison with the threshold are the same however
queries and index are divided.
"""

from typing import NamedTuple

import numpy as np

from captioner_core.matching.exact_search.arrays import (
    BoolArray,
    Float32Array,
    Int64Array,
    gathered_products,
)
from captioner_core.matching.exact_search.caption_set import CaptionSet
from captioner_core.matching.exact_search.projection import ROW_MULTIPLE
from captioner_core.text.encoders.calibration import Calibration

INDEX_BLOCK = 4_096
"""Captions of the index that are scanned at a time, so that the products stay in the cache."""
_DECIMALS = 6
_UNIT_ROUNDING = 2.0**-24
"""The largest relative error of one float32 operation."""


class CaptionPairs(NamedTuple):
    """Pairs of a query caption and a caption of the index, sorted by the query.

    Args:
      query: int64 [pairs], the row of the query's vector.
      caption: int64 [pairs], the caption number in the index.
      score: float32 [pairs].
    """

    query: Int64Array
    caption: Int64Array
    score: Float32Array


class ExcludedPairs(NamedTuple):
    """Pairs that the search must skip, such as an image's own captions.

    Args:
      query: int64 [pairs], the row of the query's vector.
      caption: int64 [pairs], the caption number in the index.
    """

    query: Int64Array
    caption: Int64Array


class _Candidates(NamedTuple):
    """Pairs that may reach a query's cutoff.

    Args:
      query: int64 [pairs], the row of the query's vector.
      caption: int64 [pairs], the caption number in the index.
      bound: float32 [pairs], an upper bound of the cosine.
    """

    query: Int64Array
    caption: Int64Array
    bound: Float32Array


_NO_CANDIDATES = _Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def find_pairs(
    queries: Float32Array,
    index: CaptionSet,
    excluded: ExcludedPairs,
    *,
    calibration: Calibration,
    threshold: np.float32,
    max_postings: int | None = None,
) -> CaptionPairs | None:
    """Finds, for each query, all pairs that reach the threshold, or else its nearest pairs.

    Args:
      queries: float32 [queries, dim], vectors of distinct captions.
      index: the set to search, with its projection.
      excluded: pairs to skip.
      calibration: the encoder's calibration.
      threshold: the lowest score of a match.
      max_postings: gives up if the candidates have more postings than this; None for no limit.

    Returns:
      The pairs, or None if the search gave up. Queries below the threshold have all pairs that tie
      for their highest score.
    """
    scan = _IndexScan(queries, index, calibration, threshold)
    blocks = [_NO_CANDIDATES]
    n_postings = 0
    for start in range(0, len(index.captions), INDEX_BLOCK):
        blocks.append(scan.find_candidates(start, excluded))
        n_postings += int(index.posting_counts[blocks[-1].caption].sum())
        if max_postings is not None and n_postings > max_postings:
            return None
    query, caption, bound = (np.concatenate(column) for column in zip(*blocks, strict=True))
    # Early blocks were compared with a lower cutoff than the scan arrived at in the end.
    kept = np.flatnonzero(bound >= scan.cutoff[query])
    kept = kept[scan.reach_cutoff(query[kept], caption[kept])]
    kept = kept[np.argsort(query[kept], kind="stable")]
    query = query[kept]
    caption = caption[kept]
    scores = _pair_scores(queries, index.vectors, query, caption, calibration)
    best = np.full(len(queries), -np.inf, np.float32)
    np.maximum.at(best, query, scores)
    kept = np.flatnonzero(scores >= np.minimum(threshold, best[query]))
    return CaptionPairs(query[kept], caption[kept], scores[kept])


class _IndexScan:
    """One pass over the index, block by block, which raises the queries' cutoffs as it goes.

    A query's cutoff is the cosine that a pair must reach to matter: the cosine of the threshold,
    or the highest cosine found so far, whichever is lower. Both are lowered by what rounding can
    change.

    Attributes:
      cutoff: float32 [queries]; infinite while a query has met no caption that it may match.
    """

    def __init__(
        self,
        queries: Float32Array,
        index: CaptionSet,
        calibration: Calibration,
        threshold: np.float32,
    ) -> None:
        assert index.projection is not None, "a set is projected when it is made to be searched"
        self._queries = queries
        self._index = index
        self._projection = index.projection
        self._projected = index.projection.project(queries)
        # How far a float32 product of two vectors of length 1 can be from the true product.
        rounding = 2 * (queries.shape[1] + 2) * _UNIT_ROUNDING
        lowest_score = np.array([threshold - 10.0**-_DECIMALS], np.float64)
        self._threshold_cosine = np.float32(calibration.cosines(lowest_score)[0] - rounding)
        # Pairs that tie in their rounded scores can differ in their products: by float32 rounding,
        # and by what rounding a score takes away. Calibration turns a step in score into a step of
        # at most 20 times the size in cosine; 40 leaves a margin.
        self._tie_margin = np.float32(2 * rounding + 40 * 10.0**-_DECIMALS)
        self._is_zero = ~queries.any(axis=1)
        self._best_product = np.full(len(queries), -np.inf, np.float32)
        self.cutoff = np.full(len(queries), np.inf, np.float32)
        self._rows = np.arange(len(queries))
        self._bounds = np.empty((len(queries), INDEX_BLOCK), np.float32)

    def find_candidates(self, start: int, excluded: ExcludedPairs) -> _Candidates:
        """Returns one block's candidate pairs above the current cutoff, with their bounds.

        Args:
          start: the caption number at which the block starts.
          excluded: pairs to skip.
        """
        bounds = self._block_bounds(start, excluded)
        peak = bounds.argmax(axis=1)
        highest = bounds[self._rows, peak]
        # For queries without a match so far, the full product of the most promising pair of the
        # block raises the cutoff, which rules out most other pairs of this and later blocks.
        is_open = (self._best_product < self._threshold_cosine) & (highest > self._best_product)
        rows = np.flatnonzero(is_open)
        products = gathered_products(
            self._queries, rows, self._index.vectors, start + peak[rows], np.float32
        )
        self._best_product[rows] = np.maximum(self._best_product[rows], products)
        has_product = np.isfinite(self._best_product)
        self.cutoff = np.where(has_product, self._current_cutoff(), np.float32(np.inf))
        query, column = _nonzero(bounds >= self.cutoff[:, None])
        return _Candidates(query, start + column, bounds[query, column])

    def reach_cutoff(self, query: Int64Array, caption: Int64Array) -> Int64Array:
        """Returns the positions of the pairs whose full float32 product reaches the cutoff.

        Args:
          query: int64 [pairs], the row of the query's vector.
          caption: int64 [pairs], the caption number in the index.
        """
        if self._projection.is_exact:
            return np.arange(len(query))
        products = gathered_products(self._queries, query, self._index.vectors, caption, np.float32)
        np.maximum.at(self._best_product, query, products)
        return np.flatnonzero(products >= self._current_cutoff()[query])

    def _current_cutoff(self) -> Float32Array:
        highest = self._best_product - self._tie_margin
        return np.asarray(np.minimum(self._threshold_cosine, highest))

    def _block_bounds(self, start: int, excluded: ExcludedPairs) -> Float32Array:
        """Returns upper bounds of cosines: float32 [queries, captions], -inf for pairs to skip."""
        stop = start + INDEX_BLOCK
        block = self._projection.coordinates[start:stop]
        # Only the last block can be shorter; all others use one buffer again.
        out = self._bounds if len(block) == INDEX_BLOCK else None
        bounds: Float32Array = np.matmul(self._projected, block.T, out=out)
        is_here = (excluded.caption >= start) & (excluded.caption < stop)
        bounds[excluded.query[is_here], excluded.caption[is_here] - start] = -np.inf
        bounds[self._is_zero] = -np.inf
        zero_captions = self._index.zero_vector_captions
        first, last = np.searchsorted(zero_captions, (start, stop))
        bounds[:, zero_captions[first:last] - start] = -np.inf
        bounds[:, len(self._index.captions) - start :] = -np.inf  # rows of padding
        return bounds


def _pair_scores(
    queries: Float32Array,
    vectors: Float32Array,
    query: Int64Array,
    caption: Int64Array,
    calibration: Calibration,
) -> Float32Array:
    """Returns the exact scores of pairs, float32 [pairs]; neither vector of a pair may be zeros."""
    cosines = gathered_products(queries, query, vectors, caption).clip(-1.0, 1.0)
    return np.asarray(np.round(calibration.scores(cosines), _DECIMALS), np.float32)


def _nonzero(mask: BoolArray) -> tuple[Int64Array, Int64Array]:
    """Returns the rows and columns of the True values, like ``np.nonzero``.

    It is faster if there are few of them, as in a block of bounds.

    Args:
      mask: bool [rows, columns]; the number of columns is a multiple of ``ROW_MULTIPLE``.
    """
    # Eight bools are viewed as one uint64, and eight of these comparisons as one again. So a run of
    # 64 values without any True is skipped at once.
    eights = mask.reshape(-1).view(np.uint64) != 0
    runs = np.flatnonzero(eights.view(np.uint64))
    run, offset = np.nonzero(mask.reshape(-1, ROW_MULTIPLE)[runs])
    rows, columns = np.divmod(runs[run] * ROW_MULTIPLE + offset, mask.shape[1])
    return rows, columns
