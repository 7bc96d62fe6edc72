"""What a set of captions answers to those who ask, in a form that answers of several sets merge in, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core.errors import CaptionerError
from captioner_core.matching.caption_set import CaptionSet, Int64Array, first_of_runs
from captioner_core.matching.facts import ImageVectors
from captioner_core.matching.pairs import Pairs, reaching_pairs
from captioner_core.matching.queries import Groups
from captioner_core.text.encoders.calibration import Calibration

_QUERY_BLOCK = 512  # captions asked at once
_ENTRIES_AT_ONCE = 2_000_000  # that a block of queries may reach before it is halved: about 200 MB

BEST = pa.schema(
    [
        ("asker", pa.int64()),
        ("reached", pa.bool_()),
        ("order", pa.float32()),
        ("image_key", pa.string()),
        ("score", pa.float32()),
        ("asked", pa.int64()),
        ("caption", pa.string()),
        ("generated", pa.bool_()),
    ]
)
"""The best images found for an asker: whether they reach the threshold, what ranks them, and the pair of captions."""
ORDER = [
    ("asker", "ascending"),
    ("reached", "descending"),
    ("order", "descending"),
    ("image_key", "ascending"),
]


@dataclass(frozen=True)
class SearchResults:
    """Answers to some groups of images, from some of the images that may be matched.

    Every image that may be matched has all its captions in one place, so answers from two places
    tell of different images, and merge by adding and sorting.

    Args:
      n_above: int64 [groups], how many images reach the threshold.
      own: bool [images], whether the image that asks is counted among them; in the order of ``Groups.image``.
      best: of the schema ``BEST``, the first ``depth`` of each asker. An asker is a group, or one image,
        which comes after all groups and asked for itself alone what is nearest to it.
    """

    n_above: Int64Array
    own: npt.NDArray[np.bool_]
    best: pa.Table

    def subtracted(self, groups: Groups) -> SearchResults:
        """What takes these images away from counts that they are part of and the image that asks is not."""
        own = np.bincount(groups.of_image, weights=self.own, minlength=len(groups)).astype(np.int64)
        return SearchResults(own - self.n_above, np.zeros_like(self.own), BEST.empty_table())


def empty_results(groups: Groups) -> SearchResults:
    """What nothing answers."""
    n_above, own = np.zeros(len(groups), np.int64), np.zeros(len(groups.image), bool)
    return SearchResults(n_above, own, BEST.empty_table())


def merge_results(some: Sequence[SearchResults], depth: int) -> SearchResults:
    """Answers from several places as one.

    Args:
      some: answers to the same groups; at least one.
      depth: rows kept for each asker.
    """
    n_above = np.asarray(np.sum([one.n_above for one in some], axis=0, dtype=np.int64))
    own = np.logical_or.reduce([one.own for one in some])
    found = [one.best for one in some if len(one.best)]
    best = (
        _first_rows(pa.concat_tables(found), depth)
        if len(found) > 1
        else (found or [BEST.empty_table()])[0]
    )
    return SearchResults(n_above, own, best)


def candidate_count(top_k: int) -> int:
    """The ``depth`` that ``top_k`` matches need: one more, since the image that asks may be among them."""
    return max(top_k, 1) + 1


@dataclass(frozen=True)
class Search:
    """What decides an answer, beside captions.

    Args:
      calibration: of the encoder.
      threshold: least score of a match.
      depth: rows kept for each asker, by ``candidate_count``.
      combined: facts with the images' places in the joint space, where these rank too.
    """

    calibration: Calibration
    threshold: np.float32
    depth: int
    combined: ImageVectors | None = None

    def answers(
        self, asking: CaptionSet, groups: Groups, index: CaptionSet, among: range | None = None
    ) -> SearchResults:
        """What a set answers to groups of another's images.

        Args:
          asking: whose images ask.
          groups: of its images; each apart where ``combined``.
          index: the set searched.
          among: the groups that ask; all where not given.

        Raises:
          CaptionerError: the two sets were encoded by different encoders.
        """
        if asking.encoder != index.encoder:
            raise CaptionerError(
                f"captions encoded by {asking.encoder!r} are asked of an index encoded by {index.encoder!r}; "
                "vectors of two encoders don't compare, encode both with one"
            )
        every = range(len(groups))
        return _Answering(self, asking, groups, index).all(every if among is None else among)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """For each group of captions the images that these reach, best first, each once with its best pair.

    All are alike in length: the group, the image, the score, the caption asked of the best pair, and its entry of
    the index.
    """

    group: Int64Array
    image: Int64Array
    score: npt.NDArray[np.float32]
    asked: Int64Array
    entry: Int64Array

    def take(self, places: Int64Array | slice) -> _Ranking:
        parts = (
            getattr(self, name)[places] for name in ("group", "image", "score", "asked", "entry")
        )
        return _Ranking(*parts)


class _Answering:
    """One set that asks another."""

    def __init__(
        self, search: Search, asking: CaptionSet, groups: Groups, index: CaptionSet
    ) -> None:
        self._search, self._asking, self._groups, self._index = search, asking, groups, index
        self._own = index.places(asking.image_keys)
        self._n_above = np.zeros(len(groups), np.int64)
        self._own_counted = np.zeros(len(groups.image), bool)
        self._best: list[pa.Table] = []

    def all(self, among: range) -> SearchResults:
        alone: list[int] = []
        for block in self._groups.blocks(among, _QUERY_BLOCK):
            alone += self._answer(np.array(block))
        for start in range(0, len(alone), _QUERY_BLOCK):
            self._answer_alone(np.array(alone[start : start + _QUERY_BLOCK]))
        best = pa.concat_tables(self._best) if self._best else BEST.empty_table()
        return SearchResults(self._n_above, self._own_counted, best)

    def _answer(self, block: Int64Array) -> list[int]:
        """Answers some groups; returns members (places in ``Groups.image``) that must ask alone what is nearest."""
        groups = self._groups
        of_caption, at = expand_ranges(
            groups.caption_starts[block], groups.caption_starts[block + 1]
        )
        asked, number = np.unique(groups.caption[at], return_inverse=True)
        of_member, member = expand_ranges(
            groups.image_starts[block], groups.image_starts[block + 1]
        )
        pairs = self._pairs(
            asked, self._hidden(block, len(asked), of_caption, number), bounded=len(block) > 1
        )
        if pairs is None:
            half = len(block) // 2
            return self._answer(block[:half]) + self._answer(block[half:])
        ranking = self._ranked(pairs, of_caption, number, asked)
        bounds = np.searchsorted(ranking.group, np.arange(len(block) + 1))
        reached = ranking.score >= self._search.threshold
        above = np.bincount(ranking.group[reached], minlength=len(block))
        own = self._own[groups.image[member]]
        place = _find(ranking.group, ranking.image, of_member, own, len(self._index.image_keys))
        ranked = place >= 0
        counted = ranked & np.append(reached, False)[place]
        self._n_above[block] = above
        self._own_counted[member] = counted
        self._keep(ranking, block[ranking.group], reached, bounds)
        # what is nearest to all who ask may be an image's own; to that image, something else is
        sharing = (np.diff(groups.image_starts)[block][of_member] > 1) | (len(block) > 1)
        return list(member[ranked & (above[of_member] - counted == 0) & sharing].tolist())

    def _answer_alone(self, members: Int64Array) -> None:
        """Adds to the best rows what is nearest to some images, each of which asks for itself."""
        groups = self._groups
        of_group = groups.of_image[members]
        of_caption, at = expand_ranges(
            groups.caption_starts[of_group], groups.caption_starts[of_group + 1]
        )
        own = self._own[groups.image[members]][of_caption]
        hidden, row = self._lone_rows(own)
        pairs = self._pairs(groups.caption[at], (hidden, row), bounded=False)
        assert pairs is not None, "only bounded blocks are given up"
        ranking = self._ranked(pairs, of_caption, np.arange(len(at)), groups.caption[at])
        mine = self._own[groups.image[members]][ranking.group]
        ranking = ranking.take(np.flatnonzero(ranking.image != mine))
        bounds = np.searchsorted(ranking.group, np.arange(len(members) + 1))
        first = ranking.take(bounds[:-1][bounds[1:] > bounds[:-1]])
        askers = len(groups) + members[first.group]
        self._keep(first, askers, np.zeros(len(first.group), bool), np.arange(len(first.group) + 1))

    def _pairs(
        self, asked: Int64Array, hidden: tuple[Int64Array, Int64Array], *, bounded: bool
    ) -> Pairs | None:
        return reaching_pairs(
            self._asking.vectors[asked],
            self._index,
            hidden,
            calibration=self._search.calibration,
            threshold=self._search.threshold,
            most_entries=_ENTRIES_AT_ONCE if bounded else None,
        )

    def _hidden(
        self, block: Int64Array, n_asked: int, of_caption: Int64Array, number: Int64Array
    ) -> tuple[Int64Array, Int64Array]:
        """Captions asked and rows of the index that must not meet: what an image alone has, where it alone asks."""
        first = self._groups.image_starts[block]
        size = self._groups.image_starts[block + 1] - first
        askers = np.bincount(number, weights=size[of_caption], minlength=n_asked)
        image = np.full(n_asked, -1, np.int64)
        image[number] = self._own[self._groups.image[first[of_caption]]]
        image[askers != 1] = -1
        return self._lone_rows(image)

    def _lone_rows(self, image: Int64Array) -> tuple[Int64Array, Int64Array]:
        """For each caption asked, by number, the captions that one image of the index alone has; none for image -1."""
        rows, images = self._index.lone
        of_caption, place = expand_ranges(
            np.searchsorted(images, image), np.searchsorted(images, image, side="right")
        )
        return of_caption, rows[place]

    def _ranked(
        self, pairs: Pairs, group: Int64Array, number: Int64Array, asked: Int64Array
    ) -> _Ranking:
        """The images that each group's captions reach together.

        Args:
          pairs: of captions asked, by number.
          group: of each caption of each group.
          number: that the pairs know it by.
          asked: the caption that each number stands for.
        """
        starts, images = self._index.starts, self._index.image
        of_caption, pair = expand_ranges(
            np.searchsorted(pairs.asked, number), np.searchsorted(pairs.asked, number, "right")
        )
        row = pairs.row[pair]
        of_pair, entry = expand_ranges(starts[row], starts[row + 1])
        of_caption = of_caption[of_pair]
        score = pairs.score[pair][of_pair]
        found = _Ranking(group[of_caption], images[entry], score, asked[number[of_caption]], entry)
        # each image's best pair first, of equal ones that of the first caption asked, then the first entry
        found = found.take(
            np.lexsort((found.entry, found.asked, -found.score, found.image, found.group))
        )
        found = found.take(first_of_runs(found.group, found.image))
        # images are numbered in the order of their keys, so this settles ties by match_image_id
        return found.take(np.lexsort((found.image, -found.score, found.group)))

    def _keep(
        self,
        ranking: _Ranking,
        askers: Int64Array,
        reached: npt.NDArray[np.bool_],
        bounds: Int64Array,
    ) -> None:
        """Adds the first rows of each asker to the best."""
        depth = self._search.depth
        order = ranking.score
        if self._search.combined is None:
            _, first = expand_ranges(bounds[:-1], np.minimum(bounds[1:], bounds[:-1] + depth))
        else:
            first = np.arange(len(ranking.group))
            order = self._combined(ranking, askers, reached)
        index, rows = self._index, ranking.take(first)
        table = pa.table(
            [
                pa.array(askers[first]),
                pa.array(reached[first]),
                pa.array(order[first]),
                index.image_keys.take(pa.array(rows.image)),
                pa.array(rows.score),
                pa.array(rows.asked),
                index.captions.take(pa.array(index.caption[rows.entry])),
                pa.array(index.generated[rows.entry]),
            ],
            schema=BEST,
        )
        self._best.append(table if self._search.combined is None else _first_rows(table, depth))

    def _combined(
        self, ranking: _Ranking, askers: Int64Array, reached: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """What ranks those that reach the threshold: captions and images together in the joint space."""
        facts, groups = self._search.combined, self._groups
        assert facts is not None, "asked for only where combined"
        order = ranking.score.copy()
        rows = np.flatnonzero(reached)
        asks = self._asking.image_keys.take(
            pa.array(groups.image[groups.image_starts[askers[rows]]])
        )
        order[rows] = facts.combined_scores(
            facts.places(asks),
            self._asking.vectors[ranking.asked[rows]],
            facts.places(self._index.image_keys.take(pa.array(ranking.image[rows]))),
            self._index.vectors[self._index.caption[ranking.entry[rows]]],
        )
        return order


def _first_rows(best: pa.Table, depth: int) -> pa.Table:
    """The first rows of each asker, in their order."""
    best = best.sort_by(ORDER).combine_chunks()
    asker = best.column("asker").to_numpy()
    place = np.arange(len(asker)) - np.searchsorted(asker, asker)
    return best.filter(pa.array(place < depth))


def _find(
    group: Int64Array, image: Int64Array, groups: Int64Array, images: Int64Array, n_images: int
) -> Int64Array:
    """int64, where each of some pairs of group and image stands among others; -1 where it doesn't, or no image is."""
    if not len(group):
        return np.full(len(groups), -1, np.int64)
    key = group * n_images + image
    order = np.argsort(key)
    wanted = groups * n_images + images
    at = np.minimum(np.searchsorted(key, wanted, sorter=order), len(key) - 1)
    return np.where((images >= 0) & (key[order[at]] == wanted), order[at], -1)


def expand_ranges(first: Int64Array, last: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The numbers from each ``first`` up to its ``last``, one run after the other, and which run each is of.

    >>> spread(np.array([5, 0]), np.array([7, 1]))
    (array([0, 0, 1]), array([5, 6, 0]))
    """
    length = last - first
    run = np.repeat(np.arange(len(first)), length)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length) + first[run]
