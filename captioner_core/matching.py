"""Exact cosine search between captions, answered for images.

An image may have several captions, on either side: the score of two images is the
highest over their caption pairs. Scores are float64 products rounded to six decimals, so
that they, their order and every comparison with the threshold are the same however queries
and index are cut into blocks: the last bits of a matrix product depend on its shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from captioner_core.schemas import MATCHED, NO_MATCH, MatchRow, MatchSummaryRow
from captioner_core.text_encoders.base import TextEncoder

_BLOCK_SCORES = 8_000_000  # scores held at once: 64 MB as float64
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Query:
    """An image and its captions, in the order in which ties are decided."""

    image_id: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class ImageFacts:
    """What the features tables say of images: vectors as unit rows, and sha256 of the bytes.

    Args:
      place: image_id to its row.
      vectors: float32 [n, dim], unit rows.
      sha256: of each row's image.
    """

    place: dict[str, int] = field(default_factory=dict)
    vectors: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    sha256: Sequence[str] = ()

    def compare(self, one: str, other: str) -> tuple[float, bool]:
        """Cosine of two images' features (NaN where unknown), and whether their bytes are the same."""
        a, b = self.place.get(one), self.place.get(other)
        if a is None or b is None:
            return float("nan"), False
        cosine = np.dot(self.vectors[a].astype(np.float64), self.vectors[b].astype(np.float64))
        return float(np.clip(cosine, -1.0, 1.0)), self.sha256[a] == self.sha256[b]


class CaptionIndex:
    """Captions to search, grouped by image.

    Args:
      image_ids: of each caption, in any order.
      captions: the captions.
      sources: ``generated`` or ``human``, of each caption.
      encoder: puts captions into the space of the cosine.
      facts: of the images on both sides, for ``feature_score`` and ``is_duplicate``.
    """

    def __init__(
        self,
        image_ids: Sequence[str],
        captions: Sequence[str],
        sources: Sequence[str],
        encoder: TextEncoder,
        facts: ImageFacts | None = None,
    ) -> None:
        # by image, then caption: so which of equal pairs is found first depends on the data alone
        order = sorted(range(len(captions)), key=lambda i: (image_ids[i], captions[i], sources[i]))
        self.encoder = encoder
        self.facts = facts or ImageFacts()
        self._captions = [captions[i] for i in order]
        self._sources = [sources[i] for i in order]
        ids = [image_ids[i] for i in order]
        self._starts = np.array([i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]], dtype=np.int64)
        self.image_ids = [ids[i] for i in self._starts]
        self._place = {image_id: place for place, image_id in enumerate(self.image_ids)}
        distinct = sorted(set(self._captions))
        rows = {caption: row for row, caption in enumerate(distinct)}
        vectors = encoder.encode(distinct)
        self._known: npt.NDArray[np.bool_] = np.asarray(vectors.any(axis=1))
        self._vectors = vectors.astype(np.float64).T
        self._row = np.array([rows[caption] for caption in self._captions], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.image_ids)

    def search(
        self, queries: Sequence[Query], *, threshold: float, top_k: int
    ) -> Iterator[tuple[list[MatchRow], MatchSummaryRow]]:
        """The matches and the summary of each query image, in order.

        Args:
          queries: the images asked for.
          threshold: least score of a match.
          top_k: most matches written for an image.
        """
        limit = np.float32(threshold)
        for block in self._blocks(queries):
            vectors = self.encoder.encode([caption for query in block for caption in query.captions])
            scores = self._caption_scores(vectors)
            first = 0
            for query in block:
                own = scores[first : first + len(query.captions), self._row]
                first += len(query.captions)
                yield self._answer(query, own, limit, top_k)

    def _blocks(self, queries: Sequence[Query]) -> Iterator[Sequence[Query]]:
        """Queries in runs whose scores fit the memory set aside for them."""
        captions = max((len(query.captions) for query in queries), default=1)
        size = max(1, _BLOCK_SCORES // (max(1, len(self._known)) * captions))
        for start in range(0, len(queries), size):
            yield queries[start : start + size]

    def _answer(
        self, query: Query, caption_scores: npt.NDArray[np.float32], threshold: np.float32, top_k: int
    ) -> tuple[list[MatchRow], MatchSummaryRow]:
        scores, pairs = self._image_scores(caption_scores)
        comparable = np.isfinite(scores)
        itself = self._place.get(query.image_id)
        if itself is not None:
            comparable[itself] = False
        above = np.flatnonzero(comparable & (scores >= threshold))
        # images lie in order of their ids, so a stable sort settles ties by match_image_id
        best = above[np.argsort(-scores[above], kind="stable")][:top_k]
        rows = [self._match(query, rank, place, scores, pairs) for rank, place in enumerate(best.tolist(), start=1)]
        return rows, self._summary(query, rows, scores, pairs, comparable, len(above))

    def _caption_scores(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [len(vectors), distinct captions]; −inf where a side has no known word."""
        product = np.clip(vectors.astype(np.float64) @ self._vectors, -1.0, 1.0)
        scores = np.round(product, _DECIMALS).astype(np.float32)
        scores[~vectors.any(axis=1), :] = -np.inf
        scores[:, ~self._known] = -np.inf
        return scores

    def _image_scores(
        self, caption_scores: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """For each image of the index its best score, −inf where no caption is comparable, and its best pair.

        A pair is ``query caption * number of captions + caption``; of equal pairs the first counts.
        """
        best = np.full(len(self), -np.inf, np.float32)
        pairs = np.zeros(len(self), np.int64)
        if not len(self):
            return best, pairs
        width = np.diff(np.append(self._starts, len(self._captions)))
        for asked, row in enumerate(caption_scores):
            highest = np.maximum.reduceat(row, self._starts)
            better = highest > best
            place = np.where(row == np.repeat(highest, width), np.arange(len(row)), len(row))
            pairs[better] = asked * len(row) + np.minimum.reduceat(place, self._starts)[better]
            best[better] = highest[better]
        return best, pairs

    def _match(
        self, query: Query, rank: int, place: int, scores: npt.NDArray[np.float32], pairs: npt.NDArray[np.int64]
    ) -> MatchRow:
        asked, caption = divmod(int(pairs[place]), len(self._captions))
        feature_score, is_duplicate = self.facts.compare(query.image_id, self.image_ids[place])
        return MatchRow(
            query_image_id=query.image_id,
            query_caption=query.captions[asked],
            rank=rank,
            match_image_id=self.image_ids[place],
            match_caption=self._captions[caption],
            match_source=self._sources[caption],
            score=float(scores[place]),
            feature_score=feature_score,
            image_text_score=float("nan"),
            is_duplicate=is_duplicate,
            encoder=self.encoder.name,
        )

    def _summary(
        self,
        query: Query,
        rows: Sequence[MatchRow],
        scores: npt.NDArray[np.float32],
        pairs: npt.NDArray[np.int64],
        comparable: npt.NDArray[np.bool_],
        n_above: int,
    ) -> MatchSummaryRow:
        best = int(np.argmax(np.where(comparable, scores, -np.inf))) if comparable.any() else None
        asked = 0 if best is None else int(pairs[best]) // len(self._captions)
        return MatchSummaryRow(
            query_image_id=query.image_id,
            query_caption=query.captions[asked],
            status=MATCHED if n_above else NO_MATCH,
            n_above_threshold=n_above,
            n_written=len(rows),
            best_score=float("nan") if best is None else float(scores[best]),
            best_match_image_id=None if best is None else self.image_ids[best],
        )
