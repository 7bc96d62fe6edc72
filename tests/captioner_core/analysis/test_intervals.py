"""Bootstrap intervals hold the score, narrow with more images, and repeat."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu_scorer import BleuScorer

from captioner_core.analysis.intervals import bleu_interval, mean_interval


def test_the_interval_of_a_mean_is_that_of_statistics():
    values = np.random.default_rng(1).normal(5, 2, 400).tolist()
    low, high = mean_interval(values)
    # 1.96 standard errors on either side. The bounds of 1,000 samples vary by a tenth of one.
    error = np.std(values) / 400**0.5
    assert low == pytest.approx(np.mean(values) - 1.96 * error, abs=0.25 * error)
    assert high == pytest.approx(np.mean(values) + 1.96 * error, abs=0.25 * error)
    assert mean_interval(values) == (low, high)
    assert np.subtract(*mean_interval(values[:100])[::-1]) > high - low


def test_bleu_of_a_sample_is_that_of_pycocoevalcap():
    """If all images are the same, so is every sample, and the interval is BLEU itself."""
    pairs = [
        ("a dog runs over the green grass", ["a dog runs over grass", "the dog runs on the grass"]),
    ] * 5
    scorer = BleuScorer(n=4)
    for caption, references in pairs:
        scorer += (caption, references)
    bleu = scorer.compute_score(option="closest")[0][3]
    assert 0 < bleu < 1
    low, high = bleu_interval(scorer.ctest)
    assert low == pytest.approx(bleu, abs=1e-6)
    assert high == pytest.approx(bleu, abs=1e-6)


def test_captions_without_a_common_phrase_have_a_bleu_of_0():
    scorer = BleuScorer(n=4)
    for _ in range(3):
        scorer += ("a cat", ["the dog runs"])
    assert bleu_interval(scorer.ctest) == (0.0, 0.0)
