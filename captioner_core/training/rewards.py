"""Scores of many hypotheses at once, as rewards in training.

Captions are sequences of word ids; their n-grams are packed into integers, which makes them
cheap to look up. All classes take for each image its references, each a sequence of word ids
below 2**20 - 1; a caption can be scored as soon as it is sampled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ORDERS = 4
_SIGMA = 6.0
_SCALE = 10.0
_BITS = 20  # of a word's id in a packed n-gram
_RECALL_WEIGHT = 0.85  # METEOR's alpha

References = Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class _Weighted:
    """An n-gram vector for each order, its norms, and the length that CIDEr-D compares."""

    vectors: tuple[dict[int, float], ...]
    norms: tuple[float, ...]
    length: int


class Reward(ABC):
    """Scores captions against the references of their images."""

    @abstractmethod
    def __init__(self, references: References) -> None: ...

    @abstractmethod
    def _score(self, image: int, caption: Sequence[int]) -> float: ...

    def score(
        self, images: Sequence[int], captions: Sequence[Sequence[int]]
    ) -> npt.NDArray[np.float32]:
        """float32 [len(captions)], of captions of the images at those places among the references."""
        return np.array(
            [self._score(*pair) for pair in zip(images, captions, strict=True)], np.float32
        )


class CiderReward(Reward):
    """CIDEr-D, 0 to 10: Vedantam et al. 2015 (https://arxiv.org/abs/1411.5726), as pycocoevalcap computes it.

    The document frequencies are those of the references given.
    """

    def __init__(self, references: References) -> None:
        counted = [[_counts(caption) for caption in listed] for listed in references]
        found: Counter[int] = Counter()
        for listed in counted:
            found.update(set().union(*(orders for caption in listed for orders in caption)))
        images = math.log(max(len(references), 1))
        self._unseen = images
        self._idf = {ngram: images - math.log(count) for ngram, count in found.items()}
        self._references = [[self._weighted(caption) for caption in listed] for listed in counted]

    def _weighted(self, counts: Sequence[Counter[int]]) -> _Weighted:
        vectors = tuple(
            {ngram: count * self._idf.get(ngram, self._unseen) for ngram, count in order.items()}
            for order in counts
        )
        norms = tuple(
            math.sqrt(sum(weight * weight for weight in vector.values())) for vector in vectors
        )
        return _Weighted(vectors, norms, sum(counts[1].values()))

    def _score(self, image: int, caption: Sequence[int]) -> float:
        hypothesis, references, total = (
            self._weighted(_counts(caption)),
            self._references[image],
            0.0,
        )
        for reference in references:
            similarity = 0.0
            for ours, theirs, norm, other in zip(
                hypothesis.vectors,
                reference.vectors,
                hypothesis.norms,
                reference.norms,
                strict=True,
            ):
                if norm and other:
                    shared = sum(
                        min(weight, theirs[ngram]) * theirs[ngram]
                        for ngram, weight in ours.items()
                        if ngram in theirs
                    )
                    similarity += shared / (norm * other)
            gap = hypothesis.length - reference.length
            total += similarity / _ORDERS * math.exp(-(gap * gap) / (2 * _SIGMA * _SIGMA))
        return _SCALE * total / max(len(references), 1)


class BleuReward(Reward):
    """BLEU-4 of a sentence, 0 to 1, with one added to matches and totals above unigrams.

    Papineni et al. 2002 (https://aclanthology.org/P02-1040); the smoothing is that of Lin and Och
    2004 (https://aclanthology.org/C04-1072). Short captions pay, which CIDEr alone hardly asks of them.
    """

    def __init__(self, references: References) -> None:
        self._lengths = [[len(caption) for caption in listed] for listed in references]
        self._most = [_union(map(_counts, listed)) for listed in references]

    def _score(self, image: int, caption: Sequence[int]) -> float:
        precision = 0.0
        for order, (counts, most) in enumerate(
            zip(_counts(caption), self._most[image], strict=True)
        ):
            matches, added = (counts & most).total(), int(order > 0)
            if not matches + added:
                return 0.0  # not a word right
            precision += math.log((matches + added) / (counts.total() + added)) / _ORDERS
        length = len(caption)
        closest = min(self._lengths[image], key=lambda other: (abs(other - length), other))
        return math.exp(precision + min(0.0, 1 - closest / length))


class RecallReward(Reward):
    """The F of unigrams with METEOR's weight on recall, 0 to 1, against the best reference.

    Denkowski and Lavie 2014 (https://aclanthology.org/W14-3348), of whose matches it has the exact
    ones alone: the others need tables of stems and synonyms.
    """

    def __init__(self, references: References) -> None:
        self._references = [[Counter(caption) for caption in listed] for listed in references]

    def _score(self, image: int, caption: Sequence[int]) -> float:
        counts, best = Counter(caption), 0.0
        for reference in self._references[image]:
            matches = (counts & reference).total()
            # p r / (alpha p + (1 - alpha) r), with the matches cancelled
            shared = _RECALL_WEIGHT * reference.total() + (1 - _RECALL_WEIGHT) * len(caption)
            best = max(best, matches / shared)
        return best


def _union(counted: Iterable[list[Counter[int]]]) -> list[Counter[int]]:
    """The most that any of some captions has of each n-gram."""
    most: list[Counter[int]] = [Counter() for _ in range(_ORDERS)]
    for orders in counted:
        most = [before | order for before, order in zip(most, orders, strict=True)]
    return most


def _counts(caption: Sequence[int]) -> list[Counter[int]]:
    """How often each n-gram stands in a caption, for n = 1 to 4."""
    orders: list[Counter[int]] = []
    packed = [int(word) + 1 for word in caption]  # no word packs to 0, so orders never collide
    current = packed
    for order in range(_ORDERS):
        orders.append(Counter(current))
        current = [
            (head << _BITS) | tail for head, tail in zip(current, packed[order + 1 :], strict=False)
        ]
    return orders
