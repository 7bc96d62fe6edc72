"""Self-critical training: rewards rank captions as intended, and the model improves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from captioner_core.text.vocabulary import END, PAD, START, Vocabulary
from captioner_core.training.rewards.self_critical import (
    CaptionReward,
    compute_advantages,
    prepend_start,
)
from captioner_core.training.train import train
from tests.training_runs import history, options

CAPTIONS = [
    ["a red dog runs", "the dog"],
    ["two cats sleep", "cats on a mat"],
    ["a boat"],
]


def test_a_reference_has_a_higher_reward_than_that_of_another_image():
    vocabulary = Vocabulary.from_captions(text for texts in CAPTIONS for text in texts)
    words = np.stack(
        [vocabulary.encode(text, 6)[1:] for text in ("a red dog runs", "two cats sleep")]
    )[np.newaxis]
    reward = CaptionReward(CAPTIONS, vocabulary).score(np.array([0]), words)
    assert reward.shape == (1, 2)
    assert reward[0, 0] > 2 > reward[0, 1]


def test_a_caption_that_breaks_off_has_a_lower_reward():
    """If END were no word, a caption that breaks off after a good n-gram would score as well."""
    vocabulary = Vocabulary.from_captions(text for texts in CAPTIONS for text in texts)
    complete = vocabulary.encode("two cats sleep", 6)[1:]
    broken = vocabulary.encode("two cats sleep on a", 6)[1:]
    reward = CaptionReward(CAPTIONS, vocabulary).score(
        np.array([1]), np.stack([complete, broken])[np.newaxis]
    )
    assert reward[0, 0] > reward[0, 1]


def test_unknown_words_of_references_lower_the_reward():
    small = Vocabulary.from_captions(["a dog"])
    words = np.array([[[*small.encode("a dog", 4)[1:3], END, PAD]]])
    with_others = CaptionReward([["a dog leaps"], ["x"]], small).score(np.array([0]), words)
    without = CaptionReward([["a dog"], ["x"]], small).score(np.array([0]), words)
    assert with_others < without


def test_advantages_are_relative_to_the_other_samples():
    np.testing.assert_allclose(compute_advantages(np.array([[1.0, 2.0, 6.0]])), [[-3.0, -1.5, 4.5]])
    assert prepend_start(np.array([[[5, END]]], np.int32)).tolist() == [[[START, 5, END]]]


@pytest.mark.timeout(300)
def test_training_raises_the_reward(source, tmp_path):
    given = options(source, tmp_path / "model", epochs=12)
    train(dataclasses.replace(given, reinforce_epochs=25, reinforce_rate=2e-3))
    epochs = history(tmp_path / "model")[12:]
    assert len(epochs) == 25
    assert all(epoch["train_loss"] is None for epoch in epochs)
    assert np.mean([epoch["reward"] for epoch in epochs[-3:]]) > 1.2 * epochs[0]["reward"]
    assert epochs[-1]["dev_reward"] >= epochs[0]["dev_reward"]
