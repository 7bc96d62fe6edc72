"""Exact cosine search between captions, answered for images.

An image may have several captions, on either side: the score of two images is the
highest over their caption pairs. Each distinct caption is encoded and searched once,
however many images share it.

The search multiplies float32 blocks and keeps what could reach the threshold; those pairs alone
are scored as float64, calibrated and rounded to six decimals. So scores, their order and
every comparison with the threshold are the same however queries and index are cut into
blocks: the last bits of a matrix product depend on its shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.schemas import MATCHED, NO_MATCH, MatchRow, MatchSummaryRow
from captioner_core.text_encoders.base import JointEncoder, TextEncoder

_QUERY_BLOCK = 512  # distinct captions asked at once
_INDEX_BLOCK = 32_768  # distinct captions searched at once: with the above, 64 MB of products
_PAIRS_AT_ONCE = 4_000_000  # kept for a block before it is halved: about 100 MB
_SCORED_AT_ONCE = 16_384  # pairs whose vectors are gathered: 64 MB at 256 dimensions
_DECIMALS = 6
_UNIT_ROUNDING = 2.0**-24  # of float32

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]


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
      backbone: that made the vectors.
    """

    place: dict[str, int] = field(default_factory=dict)
    vectors: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    sha256: Sequence[str] = ()
    backbone: str = ""

    def compare(self, one: str, other: str) -> tuple[float, bool]:
        """Cosine of two images' features (NaN where unknown), and whether their bytes are the same."""
        a, b = self.place.get(one), self.place.get(other)
        if a is None or b is None:
            return float("nan"), False
        cosine = np.dot(self.vectors[a].astype(np.float64), self.vectors[b].astype(np.float64))
        return float(np.clip(cosine, -1.0, 1.0)), self.sha256[a] == self.sha256[b]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Captions asked (by number, rising), distinct captions of the index, and the scores of the two."""

    asked: Places
    row: Places
    score: Floats

    def of(self, number: int) -> slice:
        """Where the pairs of one caption are."""
        first, last = np.searchsorted(self.asked, (number, number + 1))
        return slice(int(first), int(last))


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Images that some captions reach, best first, each once with its best pair.

    All are alike in length: places of images, their scores, which of the captions asked made the
    best pair, and with which entry of the index.
    """

    image: Places
    score: Floats
    asked: Places
    entry: Places

    def take(self, places: Places) -> _Ranking:
        return _Ranking(self.image[places], self.score[places], self.asked[places], self.entry[places])

    def others(self, image: int | None, most: int) -> tuple[_Ranking, int]:
        """The first ``most`` that are not one image, and how many are not."""
        other = np.flatnonzero(self.image != (-1 if image is None else image))
        return self.take(other[:most]), len(other)


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
        self.encoder = encoder
        self.facts = facts or ImageFacts()
        # by caption, then image: so an entry's number decides which of equal pairs is found first
        order = sorted(range(len(captions)), key=lambda i: (captions[i], image_ids[i], sources[i]))
        self._sources = [sources[i] for i in order]
        self.image_ids = sorted(set(image_ids))
        self._place = {image_id: place for place, image_id in enumerate(self.image_ids)}
        self._image = np.array([self._place[image_ids[i]] for i in order], np.int64)
        listed = [captions[i] for i in order]
        starts = [i for i, caption in enumerate(listed) if i == 0 or caption != listed[i - 1]]
        self._distinct = [listed[i] for i in starts]
        self._starts = np.array([*starts, len(listed)], np.int64)
        self._vectors = encoder.encode(self._distinct)
        self._known: npt.NDArray[np.bool_] = np.asarray(self._vectors.any(axis=1))
        self._images: npt.NDArray[np.float32] | None = None
        if isinstance(encoder, JointEncoder) and encoder.backbone == self.facts.backbone:
            self._images = encoder.encode_images(self.facts.vectors)
        # how far a float32 product can be from the true one, for vectors of length 1
        self._rounding = 2 * (encoder.dim + 2) * _UNIT_ROUNDING

    def __len__(self) -> int:
        return len(self.image_ids)

    def search(
        self, queries: Sequence[Query], *, threshold: float, top_k: int
    ) -> Iterator[tuple[list[MatchRow], MatchSummaryRow]]:
        """The matches and the summary of each query image, those with the same captions together.

        Args:
          queries: the images asked for.
          threshold: least score of a match.
          top_k: most matches written for an image.
        """
        alike: dict[tuple[str, ...], list[Query]] = {}
        for query in queries:
            alike.setdefault(query.captions, []).append(query)
        for block in _blocks(list(alike.values())):
            yield from self._search_block(block, np.float32(threshold), top_k)

    def _search_block(
        self, block: Sequence[Sequence[Query]], threshold: np.float32, top_k: int
    ) -> Iterator[tuple[list[MatchRow], MatchSummaryRow]]:
        """Answers some groups of queries that have the same captions."""
        asked = sorted({caption for group in block for caption in group[0].captions})
        pairs = self._reaching(self.encoder.encode(asked), threshold, bounded=len(block) > 1)
        if pairs is None:
            half = len(block) // 2
            yield from self._search_block(block[:half], threshold, top_k)
            yield from self._search_block(block[half:], threshold, top_k)
            return
        number = {caption: place for place, caption in enumerate(asked)}
        unmatched = []
        for group in block:
            ranking = self._ranked(pairs, [number[caption] for caption in group[0].captions])
            for query in group:
                best, count = ranking.others(self._place.get(query.image_id), max(top_k, 1))
                if count:
                    yield self._answer(query, best, count, top_k)
                else:
                    unmatched.append(query)
        for start in range(0, len(unmatched), _QUERY_BLOCK):
            some = unmatched[start : start + _QUERY_BLOCK]
            for query, nearest in zip(some, self._nearest(some), strict=True):
                yield self._answer(query, nearest, 0, top_k)

    def _products(self, vectors: Floats) -> Iterator[tuple[int, Floats]]:
        """Blocks of the index: the first row, and float32 [len(vectors), rows]; −inf where a side has no known word."""
        unknown = ~vectors.any(axis=1)
        for start in range(0, len(self._distinct), _INDEX_BLOCK):
            stop = start + _INDEX_BLOCK
            products = vectors @ self._vectors[start:stop].T
            products[unknown] = -np.inf
            products[:, ~self._known[start:stop]] = -np.inf
            yield start, products

    def _reaching(self, vectors: Floats, threshold: np.float32, *, bounded: bool) -> _Pairs | None:
        """The pairs that score the threshold or more; None where they are too many to hold and ``bounded``."""
        lowest = np.array([threshold - 10.0**-_DECIMALS], np.float64)
        least = np.float32(self.encoder.calibration.cosines(lowest)[0] - self._rounding)
        asked, rows, held = [], [], 0
        for start, products in self._products(vectors):
            one, other = np.nonzero(products >= least)
            held += len(one)
            if bounded and held > _PAIRS_AT_ONCE:
                return None
            asked.append(one)
            rows.append(other + start)
        every, row = _joined(asked), _joined(rows)
        score = self._scores(vectors, every, row)
        kept = np.flatnonzero(score >= threshold)
        kept = kept[np.argsort(every[kept], kind="stable")]
        return _Pairs(every[kept], row[kept], score[kept])

    def _scores(self, vectors: Floats, asked: Places, row: Places) -> Floats:
        """float32 [pairs], of pairs of known captions."""
        scores = np.empty(len(asked), np.float32)
        for start in range(0, len(asked), _SCORED_AT_ONCE):
            some = slice(start, start + _SCORED_AT_ONCE)
            one, other = vectors[asked[some]].astype(np.float64), self._vectors[row[some]].astype(np.float64)
            cosines = np.clip(np.einsum("nd,nd->n", one, other), -1.0, 1.0)
            scores[some] = np.round(self.encoder.calibration.scores(cosines), _DECIMALS)
        return scores

    def _ranked(self, pairs: _Pairs, captions: Sequence[int]) -> _Ranking:
        """The images that the captions of these numbers reach together."""
        slices = [pairs.of(caption) for caption in captions]
        row, score = (_joined([values[part] for part in slices]) for values in (pairs.row, pairs.score))
        which = np.repeat(np.arange(len(captions)), [part.stop - part.start for part in slices])
        first, each = self._starts[row], self._starts[row + 1] - self._starts[row]
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        entry = np.repeat(first, each) + within
        found = _Ranking(self._image[entry], np.repeat(score, each), np.repeat(which, each), entry)
        # each image's best pair first, of equal ones that of the first caption asked, then the first entry
        found = found.take(np.lexsort((found.entry, found.asked, -found.score, found.image)))
        found = found.take(np.flatnonzero(np.diff(found.image, prepend=-1)))
        # places of images are in the order of their ids, so this settles ties by match_image_id
        return found.take(np.lexsort((found.image, -found.score)))

    def _nearest(self, queries: Sequence[Query]) -> list[_Ranking]:
        """The one nearest other image of each query, whatever its score; none where nothing is comparable."""
        owner = np.repeat(np.arange(len(queries)), [len(query.captions) for query in queries])
        vectors = self.encoder.encode([caption for query in queries for caption in query.captions])
        own = [self._rows_of_alone(query.image_id) for query in queries]
        # scores may tie though products differ by float32's rounding, or by what rounding a score takes away
        slack = np.float32(2 * self._rounding + 40 * 10.0**-_DECIMALS)
        highest = np.full(len(queries), -np.inf, np.float32)
        asked, rows = [], []
        for start, products in self._products(vectors):
            for place, query_rows in enumerate(own):
                inside = query_rows[(query_rows >= start) & (query_rows < start + products.shape[1])] - start
                if len(inside):
                    products[np.ix_(owner == place, inside)] = -np.inf
            np.maximum.at(highest, owner, products.max(axis=1, initial=-np.inf))
            least = np.where(np.isfinite(highest), highest - slack, np.inf)
            one, other = np.nonzero(products >= least[owner][:, None])
            asked.append(one)
            rows.append(other + start)
        every, row = _joined(asked), _joined(rows)
        order = np.argsort(every, kind="stable")
        pairs = _Pairs(every[order], row[order], self._scores(vectors, every, row)[order])
        rankings = []
        for place, query in enumerate(queries):
            ranking = self._ranked(pairs, np.flatnonzero(owner == place).tolist())
            rankings.append(ranking.others(self._place.get(query.image_id), 1)[0])
        return rankings

    def _rows_of_alone(self, image_id: str) -> Places:
        """The distinct captions that an image has and no other."""
        image = self._place.get(image_id)
        if image is None:
            return np.empty(0, np.int64)
        rows = np.unique(np.searchsorted(self._starts, np.flatnonzero(self._image == image), side="right") - 1)
        alone = [bool((self._image[self._starts[row] : self._starts[row + 1]] == image).all()) for row in rows]
        return rows[np.array(alone, bool)] if len(rows) else rows

    def _answer(self, query: Query, best: _Ranking, count: int, top_k: int) -> tuple[list[MatchRow], MatchSummaryRow]:
        """Rows of a query; ``best`` also holds the nearest image where none is matched."""
        written = min(count, top_k)
        rows = [self._match(query, best, place) for place in range(written)]
        asked = int(best.asked[0]) if len(best.asked) else 0
        summary = MatchSummaryRow(
            query_image_id=query.image_id,
            query_caption=query.captions[asked],
            status=MATCHED if count else NO_MATCH,
            n_above_threshold=count,
            n_written=written,
            best_score=float(best.score[0]) if len(best.score) else float("nan"),
            best_match_image_id=self.image_ids[best.image[0]] if len(best.image) else None,
        )
        return rows, summary

    def _match(self, query: Query, best: _Ranking, place: int) -> MatchRow:
        match, entry = self.image_ids[best.image[place]], int(best.entry[place])
        row = int(np.searchsorted(self._starts, entry, side="right")) - 1
        feature_score, is_duplicate = self.facts.compare(query.image_id, match)
        return MatchRow(
            query_image_id=query.image_id,
            query_caption=query.captions[int(best.asked[place])],
            rank=place + 1,
            match_image_id=match,
            match_caption=self._distinct[row],
            match_source=self._sources[entry],
            score=float(best.score[place]),
            feature_score=feature_score,
            image_text_score=self._image_text_score(query.image_id, row),
            is_duplicate=is_duplicate,
            encoder=self.encoder.name,
        )

    def _image_text_score(self, image_id: str, row: int) -> float:
        """Cosine of an image and a caption in the encoder's joint space; NaN where either is not in it."""
        place = self.facts.place.get(image_id)
        if place is None or self._images is None:
            return float("nan")
        cosine = np.dot(self._images[place].astype(np.float64), self._vectors[row].astype(np.float64))
        return float(np.clip(cosine, -1.0, 1.0))


def _blocks(groups: Sequence[Sequence[Query]]) -> Iterator[list[Sequence[Query]]]:
    """Groups in runs of at most ``_QUERY_BLOCK`` captions, or of one group."""
    block: list[Sequence[Query]] = []
    captions = 0
    for group in groups:
        if block and captions + len(group[0].captions) > _QUERY_BLOCK:
            yield block
            block, captions = [], 0
        block.append(group)
        captions += len(group[0].captions)
    if block:
        yield block


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
