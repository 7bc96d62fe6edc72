"""Short vectors whose dot product bounds the cosine of the full vectors from above.

Computing all cosines between two large sets is what an exact search spends its time on. Here most
pairs are ruled out by a cheaper upper bound:

1. A rotation does not change dot products. Rotated to its principal axes, a set of word-based
   vectors has most of its length in the first coordinates.
2. What the other coordinates add to a product is at most the product of their lengths, by the
   Cauchy-Schwarz inequality.

So each vector is stored as its first rotated coordinates plus one more: the length of the rest. The
product of two such short vectors is an upper bound of the full product.
"""

from dataclasses import dataclass

import numpy as np

from captioner_core.matching.exact_search.arrays import Float32Array

ROW_MULTIPLE = 64
"""The number of rows is padded to a multiple of this, so that a comparison of a block of bounds can
be read 64 results at a time."""
_LENGTH_SHARE = 0.9
"""Share of the squared length to keep. Less makes the bounds loose, more makes them expensive."""
DIMENSION_STEP = 32
"""The number of kept coordinates is rounded up to a multiple of this."""
MIN_ROWS = 4_096
"""Smaller sets are not projected, since finding the rotation would cost more than it saves."""
_MAX_DIM = 512
"""Wider vectors are not projected, since the eigenvalue problem grows with the cube of this."""
_SAMPLE_ROWS = 20_000
_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class ProjectedVectors:
    """The first coordinates of rotated vectors, and the length of the remaining coordinates.

    If projecting does not pay, ``basis`` has no columns and ``coordinates`` are the vectors
    themselves. Their product is then the cosine itself, which is the tightest bound.

    Args:
      basis: float32 [dim, kept_dim], with orthonormal columns.
      coordinates: float32 [rows, kept_dim + 1], or float32 [rows, dim] without a projection. Rows
        of zeros pad them to a multiple of ``ROW_MULTIPLE``.
    """

    basis: Float32Array
    coordinates: Float32Array

    @property
    def is_exact(self) -> bool:
        """Whether products of the coordinates are cosines, not only upper bounds."""
        return self.basis.size == 0

    def project(self, vectors: Float32Array) -> Float32Array:
        """Returns vectors of the same space in the form of ``coordinates``, without padding."""
        return _project(vectors, self.basis)


def project_vectors(vectors: Float32Array) -> ProjectedVectors:
    """Chooses a projection for a set of vectors and applies it.

    Args:
      vectors: float32 [rows, dim], each of length 1 or 0.
    """
    basis = _principal_axes(vectors)
    width = basis.shape[1] + 1 if basis.shape[1] else vectors.shape[1]
    padded_rows = -(-len(vectors) // ROW_MULTIPLE) * ROW_MULTIPLE
    coordinates = np.zeros((padded_rows, width), np.float32)
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        coordinates[start : start + len(block)] = _project(block, basis)
    return ProjectedVectors(basis, coordinates)


def _principal_axes(vectors: Float32Array) -> Float32Array:
    """Returns the axes that hold most of the vectors' length: float32 [dim, kept_dim].

    There are no columns if a projection would not make the search faster.
    """
    dim = vectors.shape[1]
    no_axes = np.zeros((dim, 0), np.float32)
    if len(vectors) < MIN_ROWS or dim > _MAX_DIM:
        return no_axes
    step = -(-len(vectors) // _SAMPLE_ROWS)
    sample = vectors[::step].astype(np.float64)
    # eigh returns the squared lengths along the axes in ascending order
    squared_lengths, axes = np.linalg.eigh(sample.T @ sample)
    shares = np.cumsum(squared_lengths[::-1]) / max(squared_lengths.sum(), 1e-12)
    kept = int(np.searchsorted(shares, _LENGTH_SHARE)) + 1
    kept = -(-kept // DIMENSION_STEP) * DIMENSION_STEP
    if kept > dim * 5 // 8:
        return no_axes
    return axes[:, ::-1][:, :kept].astype(np.float32)


def _project(vectors: Float32Array, basis: Float32Array) -> Float32Array:
    """Returns float32 [rows, kept_dim + 1], or the vectors themselves if the basis is empty."""
    if not basis.shape[1]:
        return vectors
    precise = vectors.astype(np.float64)
    first = precise @ basis.astype(np.float64)
    rest_squared = np.einsum("nd,nd->n", precise, precise) - np.einsum("nd,nd->n", first, first)
    # The float32 basis is orthonormal only up to about 1e-7, so the length of the rest is rounded
    # up.
    rest_length = np.sqrt(np.maximum(rest_squared, 0) + 1e-6)
    return np.concatenate([first, rest_length[:, None]], axis=1).astype(np.float32)
