"""What features tables say of images: how alike they look, whether they are one file, where in joint space they are."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def feature_scores(self, one: pa.Array, other: pa.Array) -> Floats:
        """float32 [pairs], the cosines of two images' features; NaN where one's are unknown."""
        return _cosines(self.vectors, self._places(one), self.vectors, self._places(other))

    def image_text_scores(self, image_ids: pa.Array, captions: Floats) -> Floats:
        """float32 [pairs], the cosines of images and captions in the joint space; NaN where the image is not in it.

        Args:
          image_ids: string [pairs].
          captions: float32 [pairs, dim], encoded.
        """
        places = self._places(image_ids) if len(self.joint) else np.full(len(image_ids), -1, np.int64)
        return _cosines(self.joint, places, captions, np.arange(len(captions)))

    def duplicates(self, one: pa.Array, other: pa.Array) -> npt.NDArray[np.bool_]:
        """bool [pairs], whether two images are known to have the same bytes."""
        a, b = self._places(one), self._places(other)
        known = np.flatnonzero((a >= 0) & (b >= 0))
        same = np.zeros(len(a), bool)
        # as numbers, since strings are compared one by one
        codes = self.sha256.dictionary_encode().indices.to_numpy() if len(known) else np.empty(0, np.int32)
        same[known] = codes[a[known]] == codes[b[known]]
        return same

    def combined_scores(self, one: pa.Array, captions: Floats, other: pa.Array, match_captions: Floats) -> Floats:
        """float32 [pairs], how near two images are by caption and look together.

        Caption and image lie in one space; each side is taken for the mean direction of its two
        vectors, or for its caption's where the image is unknown, and the cosine of the two is the score.

        Args:
          one: string [pairs], the images that ask.
          captions: float32 [pairs, dim], their captions.
          other: string [pairs], the images that match.
          match_captions: float32 [pairs, dim], theirs.
        """
        a, b = self._places(one), self._places(other)
        scores = np.empty(len(a), np.float32)
        for start in range(0, len(a), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            left, right = self._together(a[some], captions[some]), self._together(b[some], match_captions[some])
            scores[some] = np.round(row_products(left, right), 6)
        return scores

    def _together(self, places: Places, captions: Floats) -> Floats:
        total = captions.astype(np.float64)
        known = np.flatnonzero(places >= 0)
        total[known] += self.joint[places[known]]
        return np.asarray(total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12))

    def _places(self, image_ids: pa.Array) -> Places:
        return places_in(self.image_ids, image_ids)


def _cosines(vectors: Floats, a: Places, others: Floats, b: Places) -> Floats:
    """float32 [pairs], of rows of two arrays; NaN where either place is -1."""
    scores = np.full(len(a), np.nan, np.float32)
    known = np.flatnonzero((a >= 0) & (b >= 0))
    for start in range(0, len(known), _ROWS_AT_ONCE):
        some = known[start : start + _ROWS_AT_ONCE]
        scores[some] = row_products(vectors[a[some]], others[b[some]])
    return scores
