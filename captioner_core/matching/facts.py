"""What features tables say of images: how alike they look, whether they are one file, where in joint space they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core.matching.caption_set import Floats, Int64Array, places_in
from captioner_core.matching.pairs import row_products

_ROWS_AT_ONCE = 4_096  # whose vectors are gathered: 64 MB of features


def _no_strings() -> pa.Array:
    return pa.array([], pa.string())


def _no_vectors() -> Floats:
    return np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class ImageVectors:
    """Vectors of images, in memory or mapped from a file.

    Args:
      image_keys: string [images], of the images whose vectors are known.
      image_sha256: string [images], digests of their bytes.
      vectors: float32 [images, 2048], features as unit rows.
      joint: float32 [images, dim], in the encoder's joint space, unit rows; of no row where it has none.
      digest_keys: string [digests], of the images the digest of whose bytes is known, with vectors or without.
      digests: string [digests], their digests.
    """

    image_keys: pa.Array = field(default_factory=_no_strings)
    image_sha256: pa.Array = field(default_factory=_no_strings)
    vectors: Floats = field(default_factory=_no_vectors)
    joint: Floats = field(default_factory=_no_vectors)
    digest_keys: pa.Array = field(default_factory=_no_strings)
    digests: pa.Array = field(default_factory=_no_strings)

    def places(self, image_keys: pa.Array) -> Int64Array:
        """Returns the row of each image's vectors, by which the scores below are asked for.

        The digest of an image's bytes decides where it is known, so a copy has the vectors of its
        original, and vectors of an earlier image of that name are not taken for those of a new one.

        Args:
          image_keys: string [asked].

        Returns:
          int64 [asked]; -1 where an image's vectors are not known.
        """
        digest_at = places_in(self.digest_keys, image_keys)
        is_known = digest_at >= 0
        by_key = places_in(self.image_keys, image_keys)
        wanted = self.digests.take(pa.array(digest_at, mask=~is_known))
        return np.where(is_known, places_in(self.image_sha256, wanted), by_key)

    def feature_scores(self, one: Int64Array, other: Int64Array) -> Floats:
        """float32 [pairs], the cosines of two images' features; NaN where one's are unknown."""
        return _cosines(self.vectors, one, self.vectors, other)

    def image_text_scores(self, images: Int64Array, captions: Floats) -> Floats:
        """float32 [pairs], the cosines of images and captions in the joint space; NaN where the image is not in it.

        Args:
          images: int64 [pairs].
          captions: float32 [pairs, dim], encoded.
        """
        places = images if len(self.joint) else np.full(len(images), -1, np.int64)
        return _cosines(self.joint, places, captions, np.arange(len(captions)))

    def duplicates(self, one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
        """Returns, for each pair of images, whether they are known to have the same bytes.

        Args:
          one: string [pairs], keys of images.
          other: string [pairs], keys of images.

        Returns:
          bool [pairs].
        """
        one_at = places_in(self.digest_keys, one)
        other_at = places_in(self.digest_keys, other)
        known = np.flatnonzero((one_at >= 0) & (other_at >= 0))
        same = np.zeros(len(one), bool)
        same[known] = self._digest_numbers[one_at[known]] == self._digest_numbers[other_at[known]]
        return same

    @cached_property
    def _digest_numbers(self) -> npt.NDArray[np.int32]:
        """int32 [digests], equal where two digests are."""
        return np.asarray(self.digests.dictionary_encode().indices.to_numpy(), np.int32)

    def combined_scores(
        self, one: Int64Array, captions: Floats, other: Int64Array, match_captions: Floats
    ) -> Floats:
        """float32 [pairs], how near two images are by caption and look together.

        Caption and image lie in one space; each side is taken for the mean direction of its two
        vectors, or for its caption's where the image is unknown, and the cosine of the two is the score.

        Args:
          one: int64 [pairs], the images that ask.
          captions: float32 [pairs, dim], their captions.
          other: int64 [pairs], the images that match.
          match_captions: float32 [pairs, dim], theirs.
        """
        scores = np.empty(len(one), np.float32)
        for start in range(0, len(one), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            left, right = (
                self._together(one[some], captions[some]),
                self._together(other[some], match_captions[some]),
            )
            scores[some] = np.round(row_products(left, right), 6)
        return scores

    def _together(self, places: Int64Array, captions: Floats) -> Floats:
        total = captions.astype(np.float64)
        known = np.flatnonzero(places >= 0)
        total[known] += self.joint[places[known]]
        return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


def _cosines(vectors: Floats, a: Int64Array, others: Floats, b: Int64Array) -> Floats:
    """float32 [pairs], of rows of two arrays; NaN where either place is -1."""
    scores = np.full(len(a), np.nan, np.float32)
    known = np.flatnonzero((a >= 0) & (b >= 0))
    for start in range(0, len(known), _ROWS_AT_ONCE):
        some = known[start : start + _ROWS_AT_ONCE]
        scores[some] = row_products(vectors[a[some]], others[b[some]])
    return scores
