"""Vectors in fewer dimensions whose product bounds the cosine from above, so that most pairs are never multiplied out.

A rotation leaves products as they are, and puts most of the length of most vectors into their first
coordinates. What the others can add is at most the product of their lengths (Cauchy and Schwarz). So
with that length as one more coordinate a short product is an upper bound, and only pairs whose
bound reaches what is looked for need the whole one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

ROWS_PADDED_TO = 64
"""Rows come in multiples of this, so that a block of bounds can be read eight bytes at a time."""
_SHARE = 0.9  # of the squared length that the first coordinates hold: fewer bound too loosely, more cost more
_COARSEST = 32
_LEAST_ROWS = 4_096  # for fewer it does not pay
_MOST_DIMENSIONS = 512  # to find a rotation of
_SAMPLE = 20_000
_AT_ONCE = 65_536


@dataclass(frozen=True)
class ProjectedVectors:
    """The first coordinates of vectors after a rotation, and the length of the others.

    Args:
      basis: float32 [dim, coarse_dim], orthonormal columns; of no column where vectors are their own outline.
      coarse: float32 [rows, coarse_dim + 1], or the vectors themselves; padded with zeros to a
        multiple of ``ROWS_PADDED_TO``.
    """

    basis: Floats
    coarse: Floats

    def of(self, vectors: Floats) -> Floats:
        """Vectors of the same space, to be multiplied with ``coarse``."""
        return _projected(vectors, self.basis)


def make_outline(vectors: Floats) -> ProjectedVectors:
    """The outline of float32 [rows, dim] vectors, each of length 1 or 0."""
    dim = vectors.shape[1]
    basis = np.zeros((dim, 0), np.float32)
    if len(vectors) >= _LEAST_ROWS and dim <= _MOST_DIMENSIONS:
        sample = vectors[:: -(-len(vectors) // _SAMPLE)].astype(np.float64)
        lengths, axes = np.linalg.eigh(sample.T @ sample)
        held = np.cumsum(lengths[::-1]) / max(lengths.sum(), 1e-12)
        wanted = -(-(int(np.searchsorted(held, _SHARE)) + 1) // _COARSEST) * _COARSEST
        if wanted <= dim * 5 // 8:
            basis = axes[:, ::-1][:, :wanted].astype(np.float32)
    width = basis.shape[1] + 1 if basis.shape[1] else dim
    coarse = np.zeros((-(-len(vectors) // ROWS_PADDED_TO) * ROWS_PADDED_TO, width), np.float32)
    for start in range(0, len(vectors), _AT_ONCE):
        some = vectors[start : start + _AT_ONCE]
        coarse[start : start + len(some)] = _projected(some, basis)
    return ProjectedVectors(basis, coarse)


def _projected(vectors: Floats, basis: Floats) -> Floats:
    """float32 [rows, coarse_dim + 1], or the vectors as they are where the basis has no column."""
    if not basis.shape[1]:
        return vectors
    wide = vectors.astype(np.float64)
    first = wide @ basis.astype(np.float64)
    rest = np.einsum("nd,nd->n", wide, wide) - np.einsum("nd,nd->n", first, first)
    # a basis rounded to float32 is orthonormal to some 1e-7 only, so what is left is taken a little longer
    length = np.sqrt(np.maximum(rest, 0) + 1e-6)
    return np.concatenate([first, length[:, None]], axis=1).astype(np.float32)
