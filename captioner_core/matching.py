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
_ENTRIES_AT_ONCE = 2_000_000  # that a block of queries may reach before it is halved: about 200 MB
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


@dataclass(frozen=True, slots=True)
class _Ranking:
    """For each group of captions the images that these reach, best first, each once with its best pair.

    All are alike in length: the group, the place of the image, the score, which of the group's
    captions made the best pair, and with which entry of the index.
    """

    group: Places
    image: Places
    score: Floats
    which: Places
    entry: Places

    def take(self, places: Places | slice) -> _Ranking:
        parts = (getattr(self, name)[places] for name in ("group", "image", "score", "which", "entry"))
        return _Ranking(*parts)


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
        self._shared = np.diff(self._starts)
        self._vectors = encoder.encode(self._distinct)
        self._unknown = np.flatnonzero(~self._vectors.any(axis=1))
        self._images: npt.NDArray[np.float32] | None = None
        if isinstance(encoder, JointEncoder) and encoder.backbone == self.facts.backbone:
            self._images = encoder.encode_images(self.facts.vectors)
        # how far a float32 product can be from the true one, for vectors of length 1
        self._rounding = 2 * (encoder.dim + 2) * _UNIT_ROUNDING
        # distinct captions that one image has and no other, in order of that image
        lowest, highest = (
            ufunc.reduceat(self._image, self._starts[:-1]) if len(starts) else self._image
            for ufunc in (np.minimum, np.maximum)
        )
        lone = np.flatnonzero(lowest == highest)
        self._lone_rows = lone[np.argsort(lowest[lone], kind="stable")]
        self._lone_images = lowest[self._lone_rows]

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
        number = {caption: place for place, caption in enumerate(asked)}
        wanted = [[number[caption] for caption in group[0].captions] for group in block]
        pairs = self._candidates(asked, self._hidden(block, wanted), threshold, bounded=len(block) > 1)
        if pairs is None:
            half = len(block) // 2
            yield from self._search_block(block[:half], threshold, top_k)
            yield from self._search_block(block[half:], threshold, top_k)
            return
        ranking = self._ranked(pairs, wanted)
        bounds = np.searchsorted(ranking.group, np.arange(len(block) + 1)).tolist()
        for place, group in enumerate(block):
            reached = ranking.take(slice(bounds[place], bounds[place + 1]))
            first = reached.take(slice(max(top_k, 1) + 1))  # one more, since the query's own image may be among them
            matched = int(np.count_nonzero(reached.score >= threshold))
            by_image = np.argsort(reached.image)
            images = reached.image[by_image]
            for query in group:
                own = _place_of(self._place.get(query.image_id, -1), images, by_image)
                count = matched - int(own is not None and own < matched)
                if not count and own is not None and (len(group) > 1 or len(block) > 1):
                    # what is nearest to all who ask may be this image's own; to it, something else is
                    yield from self._search_block([[query]], threshold, top_k)
                    continue
                others = first.take(np.flatnonzero(np.arange(len(first.image)) != (-1 if own is None else own)))
                yield self._answer(query, others, count, top_k)

    def _hidden(self, block: Sequence[Sequence[Query]], wanted: Sequence[Sequence[int]]) -> tuple[Places, Places]:
        """Captions asked and rows of the index that must not meet: what an image alone has, where it alone asks."""
        askers: dict[int, list[str]] = {}
        for group, numbers in zip(block, wanted, strict=True):
            for number in numbers:
                askers.setdefault(number, []).extend(query.image_id for query in group[:2])
        captions: list[Places] = []
        rows: list[Places] = []
        for caption, image_ids in askers.items():
            image = self._place.get(image_ids[0], -1) if len(image_ids) == 1 else -1
            first, last = np.searchsorted(self._lone_images, (image, image + 1))
            captions.append(np.full(last - first, caption))
            rows.append(self._lone_rows[first:last])
        return _joined(captions), _joined(rows)

    def _candidates(
        self, asked: Sequence[str], hidden: tuple[Places, Places], threshold: np.float32, *, bounded: bool
    ) -> _Pairs | None:
        """Every pair that scores the threshold or more, and for captions that have none the nearest ones.

        None where they are too many to hold and ``bounded``.
        """
        vectors = self.encoder.encode(asked)
        unknown = np.flatnonzero(~vectors.any(axis=1))
        lowest = np.array([threshold - 10.0**-_DECIMALS], np.float64)
        reaching = np.float32(self.encoder.calibration.cosines(lowest)[0] - self._rounding)
        # scores may tie though products differ, by float32's rounding and what rounding a score takes away
        slack = np.float32(2 * self._rounding + 40 * 10.0**-_DECIMALS)
        highest = np.full(len(asked), -np.inf, np.float32)
        ones, rows, held = [], [], 0
        for start in range(0, len(self._distinct), _INDEX_BLOCK):
            products = vectors @ self._vectors[start : start + _INDEX_BLOCK].T
            here = (hidden[1] >= start) & (hidden[1] < start + _INDEX_BLOCK)
            products[hidden[0][here], hidden[1][here] - start] = -np.inf
            products[unknown] = -np.inf
            products[:, self._within(self._unknown, start) - start] = -np.inf
            np.maximum(highest, products.max(axis=1), out=highest)
            least = np.where(np.isfinite(highest), np.minimum(reaching, highest - slack), np.float32(np.inf))
            one, other = np.nonzero(products >= least[:, None])
            held += int(self._shared[other + start].sum())
            if bounded and held > _ENTRIES_AT_ONCE:
                return None
            ones.append(one)
            rows.append(other + start)
        one, row = _joined(ones), _joined(rows)
        order = np.argsort(one, kind="stable")
        one, row = one[order], row[order]
        return _Pairs(one, row, self._scores(vectors, one, row))

    @staticmethod
    def _within(rows: Places, start: int) -> Places:
        """Those of some rising rows that a block of the index has."""
        first, last = np.searchsorted(rows, (start, start + _INDEX_BLOCK))
        return rows[first:last]

    def _scores(self, vectors: Floats, asked: Places, row: Places) -> Floats:
        """float32 [pairs], of pairs of known captions."""
        scores = np.empty(len(asked), np.float32)
        for start in range(0, len(asked), _SCORED_AT_ONCE):
            some = slice(start, start + _SCORED_AT_ONCE)
            one, other = vectors[asked[some]].astype(np.float64), self._vectors[row[some]].astype(np.float64)
            cosines = np.clip(np.einsum("nd,nd->n", one, other), -1.0, 1.0)
            scores[some] = np.round(self.encoder.calibration.scores(cosines), _DECIMALS)
        return scores

    def _ranked(self, pairs: _Pairs, wanted: Sequence[Sequence[int]]) -> _Ranking:
        """The images that each group's captions reach together."""
        group = np.repeat(np.arange(len(wanted)), [len(captions) for captions in wanted])
        which = np.array([place for captions in wanted for place in range(len(captions))], np.int64)
        caption = np.array([caption for captions in wanted for caption in captions], np.int64)
        first = np.searchsorted(pairs.asked, caption)
        of_member, pair = _spread(first, np.searchsorted(pairs.asked, caption, side="right"))
        rows = pairs.row[pair]
        of_pair, entry = _spread(self._starts[rows], self._starts[rows + 1])
        member = of_member[of_pair]
        score = pairs.score[pair][of_pair]
        found = _Ranking(group[member], self._image[entry], score, which[member], entry)
        # each image's best pair first, of equal ones that of the first caption asked, then the first entry
        found = found.take(np.lexsort((found.entry, found.which, -found.score, found.image, found.group)))
        again = (found.group[1:] == found.group[:-1]) & (found.image[1:] == found.image[:-1])
        found = found.take(np.flatnonzero(np.append(True, ~again)[: len(found.group)]))
        # places of images are in the order of their ids, so this settles ties by match_image_id
        return found.take(np.lexsort((found.image, -found.score, found.group)))

    def _answer(self, query: Query, best: _Ranking, count: int, top_k: int) -> tuple[list[MatchRow], MatchSummaryRow]:
        """Rows of a query from its ranking, of which the first ``count`` images are matches."""
        written = min(count, top_k)
        rows = [self._match(query, best, place) for place in range(written)]
        asked = int(best.which[0]) if len(best.which) else 0
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
            query_caption=query.captions[int(best.which[place])],
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


def _place_of(image: int, images: Places, places: Places) -> int | None:
    """Where an image stands, by the images in rising order and the place of each; None where it doesn't."""
    at = int(np.searchsorted(images, image))
    return int(places[at]) if at < len(images) and images[at] == image else None


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


def _spread(first: Places, last: Places) -> tuple[Places, Places]:
    """The numbers from each ``first`` up to its ``last``, one run after the other, and which run each is of.

    >>> _spread(np.array([5, 0]), np.array([7, 1]))
    (array([0, 0, 1]), array([5, 6, 0]))
    """
    length = last - first
    run = np.repeat(np.arange(len(first)), length)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length) + first[run]


def _joined(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
