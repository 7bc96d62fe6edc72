"""Array types and small array functions that the search modules share."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]

BLOCK_ROWS = 4_096
"""Rows gathered at a time by ``gathered_products``: at most 64 MB for float64 features."""


def positions_in(values: pa.Array, wanted: pa.Array) -> Int64Array:
    """Returns the position in ``values`` of each wanted value, or -1 if it is not there.

    Args:
      values: distinct values. If a value occurs twice, its first position is found.
      wanted: the values to look up, of the same type.

    Returns:
      int64 [wanted].
    """
    positions = pc.fill_null(pc.index_in(wanted, value_set=values), -1)
    return np.asarray(positions.to_numpy(zero_copy_only=False), np.int64)


def run_starts(*columns: npt.NDArray[np.generic]) -> Int64Array:
    """Returns the position of the first row of each run of equal rows.

    Args:
      *columns: arrays of the same length; a row is the values at one position of all of them.

    >>> run_starts(np.array([3, 3, 5, 5]), np.array([0, 0, 0, 1]))
    array([0, 2, 3])
    """
    is_repeated = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.flatnonzero(np.append(True, ~is_repeated)[: len(columns[0])])


def rank_in_run(values: Int64Array) -> Int64Array:
    """Returns each value's position within its run of equal values, counted from 0.

    Args:
      values: int64, in ascending order.

    >>> rank_in_run(np.array([3, 3, 3, 5]))
    array([0, 1, 2, 0])
    """
    return np.arange(len(values)) - np.searchsorted(values, values)


def expand_ranges(starts: Int64Array, stops: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Returns all numbers of several ranges, and the range that each number belongs to.

    Args:
      starts: int64 [ranges], the first number of each range.
      stops: int64 [ranges], one more than the last number of each range.

    Returns:
      int64 [numbers], the position of the range; and int64 [numbers], the numbers themselves.

    >>> expand_ranges(np.array([5, 0]), np.array([7, 1]))
    (array([0, 0, 1]), array([5, 6, 0]))
    """
    lengths = stops - starts
    ranges = np.repeat(np.arange(len(starts)), lengths)
    offsets = np.cumsum(lengths) - lengths
    return ranges, np.arange(len(ranges)) - np.repeat(offsets, lengths) + starts[ranges]


def gathered_products(
    left: Float32Array,
    left_rows: Int64Array,
    right: Float32Array,
    right_rows: Int64Array,
    dtype: npt.DTypeLike = np.float64,
) -> npt.NDArray[Any]:
    """Returns dot products between selected rows of two arrays.

    Args:
      left: float32 [rows, dim].
      left_rows: int64 [pairs], the row of ``left`` of each pair.
      right: float32 [rows, dim].
      right_rows: int64 [pairs], the row of ``right`` of each pair.
      dtype: the type to compute in.

    Returns:
      Array [pairs] of this type.
    """
    products = np.empty(len(left_rows), dtype)
    for start in range(0, len(left_rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        products[block] = np.einsum(
            "nd,nd->n",
            left[left_rows[block]].astype(dtype, copy=False),
            right[right_rows[block]].astype(dtype, copy=False),
        )
    return products
