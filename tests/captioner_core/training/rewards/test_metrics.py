"""CIDEr-D gives pycocoevalcap's scores; BLEU and recall give those computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pycocoevalcap.cider.cider import Cider

from captioner_core.training.rewards.metrics import BleuReward, CiderReward, RecallReward


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cider_equals_that_of_pycocoevalcap(seed):
    random = np.random.default_rng(seed)

    def caption():
        return random.zipf(1.5, random.integers(1, 14)).clip(max=40).tolist()

    references = [[caption() for _ in range(random.integers(1, 6))] for _ in range(30)]
    hypotheses = [
        caption() if random.random() < 0.5 else image_references[0]
        for image_references in references
    ]

    def as_text(words):
        return " ".join(f"w{word}" for word in words)

    texts_by_image = {
        n: [as_text(words) for words in image_references]
        for n, image_references in enumerate(references)
    }
    hypotheses_by_image = {n: [as_text(words)] for n, words in enumerate(hypotheses)}
    mean, per_image = Cider().compute_score(texts_by_image, hypotheses_by_image)
    scores = CiderReward(references).score(range(30), hypotheses)
    np.testing.assert_allclose(scores, per_image, rtol=1e-5, atol=1e-6)
    assert scores.mean() == pytest.approx(mean, rel=1e-5)


def test_an_empty_caption_scores_0():
    assert CiderReward([[[1, 2, 3]], [[4, 5]]]).score([0], [[]]).tolist() == [0.0]


REFERENCES = [[[1, 2, 3, 4, 5], [1, 2, 9, 9, 9, 9, 9, 9]]]


def test_bleu_of_a_sentence_equals_the_score_by_hand():
    """A reference scores 1.

    By hand: 3 of 4 words, 2 of 3 pairs, 1 of 2 triples, 0 of 1 quadruple, and one word too short.
    """
    reward = BleuReward(REFERENCES)
    assert reward.score([0], [[1, 2, 3, 4, 5]]) == pytest.approx(1)
    by_hand = (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * np.exp(1 - 5 / 4)
    assert reward.score([0], [[1, 2, 3, 7]]) == pytest.approx(by_hand)
    assert reward.score([0, 0], [[7, 7], [1, 1, 1]])[0] == 0
    assert reward.score([0], [[1, 1, 1, 1, 1]]) < reward.score([0], [[1, 2, 1, 2, 1]]), (
        "each word of a reference counts once"
    )


def test_recall_has_more_weight_than_precision():
    reward = RecallReward(REFERENCES)
    assert reward.score([0], [[5, 4, 3, 2, 1]]) == pytest.approx(1)
    precision = 2 / 4
    recall = 2 / 5
    by_hand = precision * recall / (0.85 * precision + 0.15 * recall)
    assert reward.score([0], [[4, 5, 7, 7]]) == pytest.approx(by_hand)
    assert reward.score([0], [[7]]) == 0
