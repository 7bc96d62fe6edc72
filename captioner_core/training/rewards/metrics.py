"""Caption metrics that score many captions quickly, for use as rewards in training.

Captions are sequences of word ids below 2**20 - 1. Their n-grams are packed into integers, which
makes them cheap to look up. Every class takes the references of each image, so that a caption can
be scored as soon as it is sampled.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ORDERS = 4  # N-grams of 1 to 4 words.
_SIGMA = 6.0  # CIDEr-D's sigma, which sets how fast other lengths lose score.
_SCALE = 10.0  # CIDEr-D's factor.
_BITS = 20  # Bits of a word in a packed n-gram.
_RECALL_WEIGHT = 0.85  # METEOR's alpha.

References = Sequence[Sequence[Sequence[int]]]
"""Images, their reference captions, and the word ids of each caption."""


class Reward(ABC):
    """A metric that scores captions against the references of their images.

    Args:
      references: The reference captions of every image.
    """

    @abstractmethod
    def __init__(self, references: References) -> None: ...

    @abstractmethod
    def _score(self, image: int, caption: Sequence[int]) -> float:
        """Returns the score of a caption of the image with that row among the references."""

    def score(
        self, images: Sequence[int], captions: Sequence[Sequence[int]]
    ) -> npt.NDArray[np.float32]:
        """Returns the scores of captions.

        Args:
          images: The row of each caption's image among the references.
          captions: The word ids of each caption.

        Returns:
          float32 [captions].
        """
        scores = [self._score(*pair) for pair in zip(images, captions, strict=True)]
        return np.array(scores, np.float32)


@dataclass(frozen=True, slots=True)
class _NgramVector:
    """The TF-IDF vector of a caption's n-grams of one order.

    Args:
      weights: The weight of each packed n-gram.
      norm: The Euclidean norm of the weights.
    """

    weights: dict[int, float]
    norm: float

    def clipped_cosine(self, reference: _NgramVector) -> float:
        """Returns the cosine to a reference, whose weights bound those of this vector."""
        if not self.norm or not reference.norm:
            return 0.0
        return sum(
            min(weight, reference.weights[ngram]) * reference.weights[ngram]
            for ngram, weight in self.weights.items()
            if ngram in reference.weights
        ) / (self.norm * reference.norm)


@dataclass(frozen=True, slots=True)
class _CiderVectors:
    """The vectors of a caption that CIDEr-D compares.

    Args:
      orders: The vector of each order of n-grams.
      length: The length of the caption as pycocoevalcap counts it: the number of its bigrams.
    """

    orders: tuple[_NgramVector, ...]
    length: int


class CiderReward(Reward):
    """CIDEr-D, 0 to 10, as pycocoevalcap computes it.

    Vedantam et al. 2015 (https://arxiv.org/abs/1411.5726): TF-IDF vectors and their cosine in
    section 3; clipping, the penalty of other lengths and the factor of 10 in section 6. The
    document frequencies are those of the given references.
    """

    def __init__(self, references: References) -> None:
        counts = [[_count_ngrams(caption) for caption in captions] for captions in references]
        document_frequencies: Counter[int] = Counter()
        for captions in counts:
            ngrams = (orders for caption in captions for orders in caption)
            document_frequencies.update(set().union(*ngrams))
        # An n-gram that no reference contains counts as one that a single image contains.
        self._max_idf = math.log(max(len(references), 1))
        self._idf = {
            ngram: self._max_idf - math.log(count) for ngram, count in document_frequencies.items()
        }
        self._references = [[self._vectors(caption) for caption in captions] for captions in counts]

    def _vectors(self, counts: Sequence[Counter[int]]) -> _CiderVectors:
        vectors = []
        for order in counts:
            weights = {
                ngram: count * self._idf.get(ngram, self._max_idf) for ngram, count in order.items()
            }
            norm = math.sqrt(sum(weight * weight for weight in weights.values()))
            vectors.append(_NgramVector(weights, norm))
        return _CiderVectors(tuple(vectors), counts[1].total())

    def _score(self, image: int, caption: Sequence[int]) -> float:
        vectors = self._vectors(_count_ngrams(caption))
        references = self._references[image]
        total = 0.0
        for reference in references:
            similarity = sum(
                vector.clipped_cosine(other)
                for vector, other in zip(vectors.orders, reference.orders, strict=True)
            )
            gap = vectors.length - reference.length
            total += similarity / _ORDERS * math.exp(-(gap * gap) / (2 * _SIGMA * _SIGMA))
        return _SCALE * total / max(len(references), 1)


class BleuReward(Reward):
    """BLEU-4 of a single caption, 0 to 1. It rewards short captions, which CIDEr hardly does.

    Papineni et al. 2002 (https://aclanthology.org/P02-1040, section 2). Above unigrams, one is
    added to matches and totals, the smoothing of Lin and Och 2004
    (https://aclanthology.org/C04-1072).
    """

    def __init__(self, references: References) -> None:
        self._lengths = [[len(caption) for caption in captions] for captions in references]
        self._max_counts = [_max_counts(map(_count_ngrams, captions)) for captions in references]

    def _score(self, image: int, caption: Sequence[int]) -> float:
        log_precision = 0.0
        orders = zip(_count_ngrams(caption), self._max_counts[image], strict=True)
        for order, (counts, max_counts) in enumerate(orders):
            matches = (counts & max_counts).total()
            added = int(order > 0)
            if not matches + added:
                return 0.0  # Not a single word is right.
            log_precision += math.log((matches + added) / (counts.total() + added)) / _ORDERS
        length = len(caption)
        closest = min(self._lengths[image], key=lambda other: (abs(other - length), other))
        brevity_penalty = min(0.0, 1 - closest / length)
        return math.exp(log_precision + brevity_penalty)


class RecallReward(Reward):
    """The F-score of unigrams with METEOR's weight on recall, 0 to 1, of the best reference.

    Denkowski and Lavie 2014 (https://aclanthology.org/W14-3348, section 2.2). Only exact matches
    count, because stems and synonyms would need tables of their own.
    """

    def __init__(self, references: References) -> None:
        self._references = [[Counter(caption) for caption in captions] for captions in references]

    def _score(self, image: int, caption: Sequence[int]) -> float:
        counts = Counter(caption)
        best = 0.0
        for reference in self._references[image]:
            matches = (counts & reference).total()
            # With precision p = matches / caption and recall r = matches / reference, the F-score
            # p r / (alpha p + (1 - alpha) r) is matches divided by this weighted length.
            weighted_length = _RECALL_WEIGHT * reference.total() + (1 - _RECALL_WEIGHT) * len(
                caption
            )
            best = max(best, matches / weighted_length)
        return best


def _max_counts(counts: Iterable[list[Counter[int]]]) -> list[Counter[int]]:
    """Returns, for each order, the highest count of each n-gram in any of some captions."""
    highest: list[Counter[int]] = [Counter() for _ in range(_ORDERS)]
    for orders in counts:
        highest = [first | second for first, second in zip(highest, orders, strict=True)]
    return highest


def _count_ngrams(caption: Sequence[int]) -> list[Counter[int]]:
    """Returns how often a caption contains each packed n-gram, for n from 1 to 4."""
    # Since no word is packed as 0, n-grams of different orders never collide.
    words = [int(word) + 1 for word in caption]
    ngrams = words
    counts: list[Counter[int]] = []
    for order in range(1, _ORDERS + 1):
        counts.append(Counter(ngrams))
        ngrams = [(head << _BITS) | tail for head, tail in zip(ngrams, words[order:], strict=False)]
    return counts
