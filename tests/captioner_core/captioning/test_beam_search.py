"""Beam search over a toy alphabet, compared with all possible captions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import tensorflow as tf

from captioner_core.captioning.beam_search import beam_search, forbidden_token_mask, sample_words
from captioner_core.text.vocabulary import END, PAD, START, UNKNOWN

WORDS = 6  # four special ones, 4 and 5
MAX_WORDS = 4


@pytest.fixture
def table():
    """Returns log-probabilities [images, last word, next word] of a first-order toy model."""
    logits = tf.random.stateless_normal([3, WORDS, WORDS], seed=[1, 2]) * 2
    return tf.nn.log_softmax(logits).numpy()


def search(table, width, length_penalty=0.0, images=None):
    """Searches captions of the toy model; returns words and log-probabilities of all beams."""
    table = tf.constant(table if images is None else table[images])

    def step(words, state):
        return tf.gather(table, words, batch_dims=1), state

    state = (tf.zeros([table.shape[0], width, 1]),)
    found = beam_search(
        step,
        state,
        batch=table.shape[0],
        beam_width=width,
        max_words=MAX_WORDS,
        length_penalty=length_penalty,
    )
    return found.words.numpy(), found.log_prob.numpy()


def log_prob(table, words):
    """Returns the log-probability of a caption of the toy model."""
    path = [START, *words, END]
    return sum(table[a, b] for a, b in itertools.pairwise(path))


def every_caption():
    """Yields every caption that the toy model can produce."""
    for length in range(1, MAX_WORDS + 1):
        yield from itertools.product((4, 5), repeat=length)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_caption(table, length_penalty):
    words, scores = search(table, 40, length_penalty)
    for image in range(3):
        best = max(
            every_caption(),
            key=lambda w: log_prob(table[image], w) / (len(w) + 1) ** length_penalty,
        )
        found = words[image, 0]
        assert found[: len(best) + 1].tolist() == [*best, END]
        assert (found[len(best) + 1 :] == PAD).all()
        assert scores[image, 0] == pytest.approx(log_prob(table[image], best), abs=1e-5)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_every_hypothesis_is_a_caption_with_its_own_probability(table, width):
    words, scores = search(table, width)
    for image, beam in itertools.product(range(3), range(width)):
        row = words[image, beam].tolist()
        caption = row[: row.index(END)]
        assert 1 <= len(caption) <= MAX_WORDS
        assert set(caption) <= {4, 5}
        assert scores[image, beam] == pytest.approx(log_prob(table[image], caption), abs=1e-5)


def test_a_beam_of_width_1_is_greedy(table):
    words, _ = search(table, 1)
    for image in range(3):
        greedy: list[int] = []
        last = START
        while len(greedy) < MAX_WORDS:
            allowed = [4, 5] if not greedy else [END, 4, 5]
            last = max(allowed, key=lambda word: table[image, last, word])
            if last == END:
                break
            greedy.append(last)
        assert words[image, 0][: len(greedy) + 1].tolist() == [*greedy, END]


def test_the_captions_of_an_image_do_not_depend_on_other_images(table):
    together, _ = search(table, 3)
    for image in range(3):
        separate, _ = search(table, 3, images=[image])
        np.testing.assert_array_equal(separate[0], together[image])


def test_words_are_drawn_with_the_probabilities_of_training():
    """Otherwise the probability of a bad caption would go to words that are never drawn."""
    logits = tf.constant([5.0, 4.0, 1.0, 6.0, 1.5, 0.5, 0.0])

    def step(words):
        shape = [*words.shape, len(logits)]
        return [tf.broadcast_to(tf.nn.log_softmax(logits), shape)]

    seed = tf.constant([0, 1], tf.int64)
    drawn = sample_words(
        step, (), batch=tf.constant(1), samples=20_000, max_words=3, seed=seed
    ).numpy()[0]
    expected = tf.nn.softmax(logits + forbidden_token_mask(tf.constant(len(logits)))).numpy()
    assert expected[[PAD, START, UNKNOWN]].max() == 0
    second = drawn[drawn[:, 0] != PAD, 1]  # END can't be the first word, so the second tells
    np.testing.assert_allclose(
        np.bincount(second, minlength=len(logits)) / len(second), expected, atol=0.02
    )
    ends = (drawn == END).sum(axis=1)
    assert (ends == 1).all()
    again = sample_words(
        step, (), batch=tf.constant(1), samples=20_000, max_words=3, seed=seed
    ).numpy()[0]
    np.testing.assert_array_equal(again, drawn)
