"""CIDEr-D of many hypotheses at once, as a reward in training.

Vedantam et al. 2015 (https://arxiv.org/abs/1411.5726), in the form that pycocoevalcap computes.
The document frequencies are those of the references given, so a hypothesis can be scored as
soon as it is sampled; n-grams are packed into integers, which makes them cheap to look up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ORDERS = 4
_SIGMA = 6.0
_SCALE = 10.0
_BITS = 20  # of a word's id in a packed n-gram


@dataclass(frozen=True, slots=True)
class _Weighted:
    """An n-gram vector for each order, its norms, and the length that CIDEr-D compares."""

    vectors: tuple[dict[int, float], ...]
    norms: tuple[float, ...]
    length: int


class CiderReward:
    """Scores captions, given as word ids, against the references of their images.

    Args:
      references: for each image, its captions; each a sequence of word ids below 2**20 - 1.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[int]]]) -> None:
        counted = [[_counts(caption) for caption in listed] for listed in references]
        found: Counter[int] = Counter()
        for listed in counted:
            found.update(set().union(*(orders for caption in listed for orders in caption)))
        images = math.log(max(len(references), 1))
        self._unseen = images
        self._idf = {ngram: images - math.log(count) for ngram, count in found.items()}
        self._references = [[self._weighted(caption) for caption in listed] for listed in counted]

    def score(self, images: Sequence[int], captions: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """CIDEr-D, 0 to 10, of each caption.

        Args:
          images: places among the references that were given.
          captions: a caption for each, as word ids.

        Returns:
          float32 [len(captions)].
        """
        scores = [
            self._score(self._weighted(_counts(caption)), self._references[image])
            for image, caption in zip(images, captions, strict=True)
        ]
        return np.array(scores, np.float32)

    def _weighted(self, counts: Sequence[Counter[int]]) -> _Weighted:
        vectors = tuple(
            {ngram: count * self._idf.get(ngram, self._unseen) for ngram, count in order.items()} for order in counts
        )
        norms = tuple(math.sqrt(sum(weight * weight for weight in vector.values())) for vector in vectors)
        return _Weighted(vectors, norms, sum(counts[1].values()))

    def _score(self, hypothesis: _Weighted, references: Sequence[_Weighted]) -> float:
        total = 0.0
        for reference in references:
            similarity = 0.0
            for ours, theirs, norm, other in zip(
                hypothesis.vectors, reference.vectors, hypothesis.norms, reference.norms, strict=True
            ):
                if norm and other:
                    shared = sum(
                        min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in ours.items() if ngram in theirs
                    )
                    similarity += shared / (norm * other)
            gap = hypothesis.length - reference.length
            total += similarity / _ORDERS * math.exp(-(gap * gap) / (2 * _SIGMA * _SIGMA))
        return _SCALE * total / max(len(references), 1)


def _counts(caption: Sequence[int]) -> list[Counter[int]]:
    """How often each n-gram stands in a caption, for n = 1 to 4."""
    orders: list[Counter[int]] = []
    packed = [int(word) + 1 for word in caption]  # no word packs to 0, so orders never collide
    current = packed
    for order in range(_ORDERS):
        orders.append(Counter(current))
        current = [(head << _BITS) | tail for head, tail in zip(current, packed[order + 1 :], strict=False)]
    return orders
