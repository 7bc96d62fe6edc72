"""What features tables know of images: vectors to compare, and digests that reveal duplicates."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core.matching.exact_search.arrays import (
    BoolArray,
    Float32Array,
    Int64Array,
    gathered_products,
    positions_in,
)

_BLOCK_ROWS = 4_096
"""Pairs whose vectors are averaged at a time."""


def _no_strings() -> pa.Array:
    return pa.array([], pa.string())


def _no_vectors() -> Float32Array:
    return np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class ImageVectors:
    """Vectors and digests of images, in memory or mapped from a file.

    Images without vectors can still match by their captions. All scores below are then NaN, except
    the combined score.

    Args:
      image_keys: string [images], the images whose vectors are known.
      image_sha256: string [images], the SHA-256 digests of their bytes.
      vectors: float32 [images, 2048], features as unit rows.
      joint: float32 [images, dim], the images' unit vectors in the space of the captions. It has no
        rows if the encoder puts no images there.
      digest_keys: string [digests], the images whose digest is known, with or without vectors.
      digests: string [digests], their digests.
    """

    image_keys: pa.Array = field(default_factory=_no_strings)
    image_sha256: pa.Array = field(default_factory=_no_strings)
    vectors: Float32Array = field(default_factory=_no_vectors)
    joint: Float32Array = field(default_factory=_no_vectors)
    digest_keys: pa.Array = field(default_factory=_no_strings)
    digests: pa.Array = field(default_factory=_no_strings)

    def find_rows(self, image_keys: pa.Array) -> Int64Array:
        """Returns the row of each image's vectors, for the methods below.

        If the digest of an image is known, the vectors are looked up by the digest. So a copy has
        the vectors of its original, and a new image does not get the vectors of an earlier one
        that had the same name.

        Args:
          image_keys: string [wanted].

        Returns:
          int64 [wanted]; -1 if an image's vectors are not known.
        """
        digest_rows = positions_in(self.digest_keys, image_keys)
        has_digest = digest_rows >= 0
        digests = self.digests.take(pa.array(digest_rows, mask=~has_digest))
        by_digest = positions_in(self.image_sha256, digests)
        return np.where(has_digest, by_digest, positions_in(self.image_keys, image_keys))

    def feature_scores(self, queries: Int64Array, matches: Int64Array) -> Float32Array:
        """Returns the cosines of the features of pairs of images.

        Args:
          queries: int64 [pairs], rows by ``find_rows``.
          matches: int64 [pairs], rows by ``find_rows``.

        Returns:
          float32 [pairs]; NaN if either image's features are not known.
        """
        return _cosines(self.vectors, queries, self.vectors, matches)

    def image_text_scores(self, images: Int64Array, captions: Float32Array) -> Float32Array:
        """Returns the cosines of pairs of an image and a caption, in the space that both share.

        Args:
          images: int64 [pairs], rows by ``find_rows``.
          captions: float32 [pairs, dim], encoded captions.

        Returns:
          float32 [pairs]; NaN if the image's vector is not known.
        """
        rows = images if len(self.joint) else np.full(len(images), -1, np.int64)
        return _cosines(self.joint, rows, captions, np.arange(len(captions)))

    def duplicates(self, queries: pa.Array, matches: pa.Array) -> BoolArray:
        """Returns, for each pair of images, whether they are known to have the same bytes.

        Args:
          queries: string [pairs], image keys.
          matches: string [pairs], image keys.

        Returns:
          bool [pairs].
        """
        query_rows = positions_in(self.digest_keys, queries)
        match_rows = positions_in(self.digest_keys, matches)
        known = np.flatnonzero((query_rows >= 0) & (match_rows >= 0))
        numbers = self._digest_numbers
        is_same = np.zeros(len(queries), bool)
        is_same[known] = numbers[query_rows[known]] == numbers[match_rows[known]]
        return is_same

    @cached_property
    def _digest_numbers(self) -> npt.NDArray[np.int32]:
        """int32 [digests], equal for equal digests, since numbers compare faster than strings."""
        return np.asarray(self.digests.dictionary_encode().indices.to_numpy(), np.int32)

    def combined_scores(
        self,
        queries: Int64Array,
        query_captions: Float32Array,
        matches: Int64Array,
        match_captions: Float32Array,
    ) -> Float32Array:
        """Returns how similar pairs of images are by caption and appearance together.

        The score is the cosine of two means, one for each image. Each is the mean of the unit
        vectors of the image and its caption, or the caption's vector alone if the image's is not
        known.

        Args:
          queries: int64 [pairs], rows by ``find_rows``.
          query_captions: float32 [pairs, dim], their encoded captions.
          matches: int64 [pairs], rows by ``find_rows``.
          match_captions: float32 [pairs, dim], their encoded captions.

        Returns:
          float32 [pairs].
        """
        scores = np.empty(len(queries), np.float32)
        for start in range(0, len(queries), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            query_means = self._mean_vectors(queries[block], query_captions[block])
            match_means = self._mean_vectors(matches[block], match_captions[block])
            cosines = np.einsum("nd,nd->n", query_means, match_means).clip(-1.0, 1.0)
            scores[block] = np.round(cosines, 6)
        return scores

    def _mean_vectors(self, images: Int64Array, captions: Float32Array) -> npt.NDArray[np.float64]:
        """Returns the directions of the means of images and captions: float64 [rows, dim]."""
        totals = captions.astype(np.float64)
        known = np.flatnonzero(images >= 0)
        totals[known] += self.joint[images[known]]
        return np.asarray(totals / np.maximum(np.linalg.norm(totals, axis=1, keepdims=True), 1e-12))


def _cosines(
    left: Float32Array, left_rows: Int64Array, right: Float32Array, right_rows: Int64Array
) -> Float32Array:
    """Returns the cosines of pairs of unit rows: float32 [pairs], NaN if either row is -1."""
    scores = np.full(len(left_rows), np.nan, np.float32)
    known = np.flatnonzero((left_rows >= 0) & (right_rows >= 0))
    products = gathered_products(left, left_rows[known], right, right_rows[known])
    scores[known] = products.clip(-1.0, 1.0)
    return scores
