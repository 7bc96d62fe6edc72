"""The reward is the metric: the same figures as pycocoevalcap's CIDEr-D."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from captioner_core.training.cider import CiderReward


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_is_pycocoevalcaps_cider(seed):
    chance = np.random.default_rng(seed)

    def caption():
        return chance.zipf(1.5, chance.integers(1, 14)).clip(max=40).tolist()

    references = [[caption() for _ in range(chance.integers(1, 6))] for _ in range(30)]
    hypotheses = [caption() if chance.random() < 0.5 else listed[0] for listed in references]

    def as_text(words):
        return " ".join(f"w{word}" for word in words)

    wanted = {n: [as_text(words) for words in listed] for n, listed in enumerate(references)}
    given = {n: [as_text(words)] for n, words in enumerate(hypotheses)}
    mean, each = Cider().compute_score(wanted, given)
    scores = CiderReward(references).score(range(30), hypotheses)
    np.testing.assert_allclose(scores, each, rtol=1e-5, atol=1e-6)
    assert scores.mean() == pytest.approx(mean, rel=1e-5)


def test_an_empty_caption_scores_nothing():
    assert CiderReward([[[1, 2, 3]], [[4, 5]]]).score([0], [[]]).tolist() == [0.0]
