"""Bootstrap intervals: how much a score would vary with other images of the same kind.

Efron 1979 (https://doi.org/10.1214/aos/1176344552). Images are drawn with replacement, as many as
there are, and the score of each such sample is computed; 95 % of them lie within the interval.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_SAMPLES = 1000
_LOWEST = 2.5  # percentiles
_HIGHEST = 97.5
_BLEU_ORDERS = 4

Interval = tuple[float, float]
"""The lowest and the highest plausible value of a score."""


def bootstrap_interval(
    statistics: npt.NDArray[np.float64],
    score: Callable[[npt.NDArray[np.float64]], float],
) -> Interval:
    """Returns the 95 % interval of a score that is a function of means over images.

    Args:
      statistics: float64 [images, values], what each image adds.
      score: returns the score for the means of the values, float64 [values].
    """
    random = np.random.default_rng(0)
    images = len(statistics)
    scores = []
    for _ in range(_SAMPLES):
        counts = np.bincount(random.integers(images, size=images), minlength=images)
        scores.append(score(counts @ statistics / images))
    low, high = np.percentile(scores, (_LOWEST, _HIGHEST))
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> Interval:
    """Returns the 95 % interval of the mean of one value for each image."""
    return bootstrap_interval(np.array(values)[:, np.newaxis], lambda means: float(means[0]))


def bleu_interval(sentences: Sequence[Mapping[str, Any]]) -> Interval:
    """Returns the 95 % interval of BLEU-4.

    Args:
      sentences: the counts of each caption as ``BleuScorer.ctest`` of pycocoevalcap holds them:
        ``correct`` and ``guess`` for n-grams of 1 to 4 words, ``testlen``, and ``reflen``, the
        lengths of the references.
    """
    rows = [
        [
            *sentence["correct"],
            *sentence["guess"],
            sentence["testlen"],
            _closest(sentence["reflen"], sentence["testlen"]),
        ]
        for sentence in sentences
    ]
    return bootstrap_interval(np.array(rows, np.float64), _bleu)


def _closest(lengths: Sequence[int], length: int) -> int:
    return min(lengths, key=lambda other: (abs(other - length), other))


def _bleu(means: npt.NDArray[np.float64]) -> float:
    """Returns BLEU-4, Papineni et al. 2002 (https://aclanthology.org/P02-1040, section 2.3)."""
    correct, guessed, (length, reference_length) = np.split(means, (_BLEU_ORDERS, 2 * _BLEU_ORDERS))
    if not correct.all():
        return 0.0
    brevity_penalty = min(0.0, 1 - reference_length / length)
    return float(np.exp(np.log(correct / guessed).mean() + brevity_penalty))
