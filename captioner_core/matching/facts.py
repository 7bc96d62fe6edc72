"""What features tables say of images: how alike they look, whether they are one file, where in joint space they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core.matching.caption_set import Floats, Places, places_in
from captioner_core.matching.pairs import row_products

_ROWS_AT_ONCE = 4_096  # whose vectors are gathered: 64 MB of features


def _no_vectors() -> Floats:
    return np.zeros((0, 0), np.float32)


@dataclass(frozen=True)
class ImageFacts:
    """Vectors of images, in memory or mapped from a file.

    Args:
      image_ids: string [images].
      sha256: string [images], of their bytes.
      vectors: float32 [images, 2048], features as unit rows.
      joint: float32 [images, dim], in the encoder's joint space, unit rows; of no row where it has none.
    """

    image_ids: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    sha256: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    vectors: Floats = field(default_factory=_no_vectors)
    joint: Floats = field(default_factory=_no_vectors)

    def places(self, image_ids: pa.Array) -> Places:
        """int64, where each image stands here; -1 where it is unknown. The scores below are asked for by these."""
        return places_in(self.image_ids, image_ids)

    def feature_scores(self, one: Places, other: Places) -> Floats:
        """float32 [pairs], the cosines of two images' features; NaN where one's are unknown."""
        return _cosines(self.vectors, one, self.vectors, other)

    def image_text_scores(self, images: Places, captions: Floats) -> Floats:
        """float32 [pairs], the cosines of images and captions in the joint space; NaN where the image is not in it.

        Args:
          images: int64 [pairs].
          captions: float32 [pairs, dim], encoded.
        """
        places = images if len(self.joint) else np.full(len(images), -1, np.int64)
        return _cosines(self.joint, places, captions, np.arange(len(captions)))

    def duplicates(self, one: Places, other: Places) -> npt.NDArray[np.bool_]:
        """bool [pairs], whether two images are known to have the same bytes."""
        known = np.flatnonzero((one >= 0) & (other >= 0))
        same = np.zeros(len(one), bool)
        same[known] = self._digests[one[known]] == self._digests[other[known]]
        return same

    @cached_property
    def _digests(self) -> npt.NDArray[np.int32]:
        """A number for each image, equal where the digests of their bytes are."""
        return np.asarray(self.sha256.dictionary_encode().indices.to_numpy(), np.int32)

    def combined_scores(self, one: Places, captions: Floats, other: Places, match_captions: Floats) -> Floats:
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
            left, right = self._together(one[some], captions[some]), self._together(other[some], match_captions[some])
            scores[some] = np.round(row_products(left, right), 6)
        return scores

    def _together(self, places: Places, captions: Floats) -> Floats:
        total = captions.astype(np.float64)
        known = np.flatnonzero(places >= 0)
        total[known] += self.joint[places[known]]
        return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))


def _cosines(vectors: Floats, a: Places, others: Floats, b: Places) -> Floats:
    """float32 [pairs], of rows of two arrays; NaN where either place is -1."""
    scores = np.full(len(a), np.nan, np.float32)
    known = np.flatnonzero((a >= 0) & (b >= 0))
    for start in range(0, len(known), _ROWS_AT_ONCE):
        some = known[start : start + _ROWS_AT_ONCE]
        scores[some] = row_products(vectors[a[some]], others[b[some]])
    return scores
