"""Beam search and random sampling of captions, for a whole batch of images in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.vocabulary import END, PAD, START, UNKNOWN

# Step(last_words [batch, beams], state) returns log-probabilities [batch, beams, vocabulary] and
# the next state. Every tensor of the state has the shape [batch, beams, ...].
Step = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]]

# Added to a logit or used as a log-probability, it rules a word out. It is finite so that sums
# and differences of such scores never become NaN.
_IMPOSSIBLE = -1e9


class Hypotheses(NamedTuple):
    """The hypotheses of each image, best first.

    Args:
      words: int32 [batch, beams, max_words + 1], each caption followed by END and then PAD.
      log_prob: float32 [batch, beams], the natural log of the caption's probability, including
        the probability of END.
    """

    words: tf.Tensor
    log_prob: tf.Tensor


def beam_search(
    step: Step,
    state: Any,
    *,
    batch: tf.Tensor,
    beam_width: int,
    max_words: int,
    length_penalty: float = 0.0,
) -> Hypotheses:
    """Returns the most likely captions of each image that beam search finds.

    A caption has at least one word and never contains PAD, START or the unknown word.

    While hypotheses grow, they compete by log-probability. The finished hypotheses are ranked by
    log_prob / length**length_penalty, where the length includes END. This is the length
    normalisation of Wu et al. 2016 (https://arxiv.org/abs/1609.08144, section 7) without their
    constant 5 and without their coverage penalty.

    The search stops when every hypothesis has ended. A hypothesis that reaches ``max_words`` words
    is ended there and pays the log-probability that the model gives to END.

    Args:
      step: The function that advances every hypothesis by one word.
      state: The initial state, a structure of tensors [batch, beam_width, ...].
      batch: The number of images.
      beam_width: The number of hypotheses kept for each image.
      max_words: The length of the longest caption, in words.
      length_penalty: The exponent of the length. 0 ranks by probability alone; higher values
        favour longer captions.
    """
    words = tf.fill([batch, beam_width, max_words + 1], PAD)
    # Only the first hypothesis is alive at first; otherwise all beams would grow the same words.
    log_prob = tf.tile([[0.0] + [_IMPOSSIBLE] * (beam_width - 1)], [batch, 1])
    last_words = tf.fill([batch, beam_width], START)
    has_ended = tf.zeros([batch, beam_width], tf.bool)

    def grow(
        position: tf.Tensor,
        words: tf.Tensor,
        log_prob: tf.Tensor,
        last_words: tf.Tensor,
        has_ended: tf.Tensor,
        state: Any,
    ) -> Any:
        """Extends every hypothesis by one word and keeps the best ``beam_width`` of each image."""
        next_log_prob, state = step(last_words, state)
        next_log_prob = _mask_forbidden_words(next_log_prob, has_ended, position, max_words)
        scores = log_prob[:, :, tf.newaxis] + next_log_prob
        vocabulary_size = tf.shape(scores)[2]
        log_prob, chosen = tf.math.top_k(tf.reshape(scores, [batch, -1]), k=beam_width)
        parent = chosen // vocabulary_size
        last_words = chosen % vocabulary_size
        words, has_ended, state = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, parent, axis=1, batch_dims=1),
            (words, has_ended, state),
        )
        words = _write_words(words, last_words, position, max_words)
        has_ended |= tf.equal(last_words, END)
        return position + 1, words, log_prob, last_words, has_ended, state

    _, words, log_prob, *_ = tf.while_loop(
        lambda position, words, log_prob, last_words, has_ended, state: (
            (position <= max_words) & ~tf.reduce_all(has_ended)
        ),
        grow,
        (tf.constant(0), words, log_prob, last_words, has_ended, state),
    )
    return _rank(words, log_prob, length_penalty)


def sample_words(
    step: Step, state: Any, *, batch: tf.Tensor, samples: int, max_words: int, seed: tf.Tensor
) -> tf.Tensor:
    """Draws captions word by word from the model's own probabilities.

    The rules for captions are those of ``beam_search``.

    Args:
      step: The function that advances every sample by one word.
      state: The initial state, a structure of tensors [batch, samples, ...].
      batch: The number of images.
      samples: The number of captions drawn for each image.
      max_words: The length of the longest caption, in words.
      seed: int [2]. The same seed draws the same captions.

    Returns:
      int32 [batch, samples, max_words + 1], each caption followed by END and then PAD.
    """
    words = tf.fill([batch, samples, max_words + 1], PAD)
    last_words = tf.fill([batch, samples], START)
    has_ended = tf.zeros([batch, samples], tf.bool)

    def grow(
        position: tf.Tensor,
        words: tf.Tensor,
        last_words: tf.Tensor,
        has_ended: tf.Tensor,
        state: Any,
    ) -> Any:
        """Extends every sample by one word."""
        log_prob, state = step(last_words, state)
        log_prob = _mask_forbidden_words(log_prob, has_ended, position, max_words)
        flat = tf.reshape(log_prob, [batch * samples, tf.shape(log_prob)[2]])
        step_seed = tf.random.experimental.stateless_fold_in(seed, position)
        drawn = tf.random.stateless_categorical(flat, 1, step_seed, tf.int32)
        last_words = tf.reshape(drawn, [batch, samples])
        words = _write_words(words, last_words, position, max_words)
        return position + 1, words, last_words, has_ended | tf.equal(last_words, END), state

    _, words, *_ = tf.while_loop(
        lambda position, words, last_words, has_ended, state: (
            (position <= max_words) & ~tf.reduce_all(has_ended)
        ),
        grow,
        (tf.constant(0), words, last_words, has_ended, state),
    )
    return words


def forbidden_token_mask(vocabulary_size: tf.Tensor) -> tf.Tensor:
    """Returns a mask that rules out PAD, START and the unknown word when it is added to logits.

    The mask is float32 [vocabulary_size].
    """
    word = tf.range(vocabulary_size)
    return tf.where((word == PAD) | (word == START) | (word == UNKNOWN), _IMPOSSIBLE, 0.0)


def _mask_forbidden_words(
    log_prob: tf.Tensor, has_ended: tf.Tensor, position: tf.Tensor, max_words: int
) -> tf.Tensor:
    """Returns the log-probabilities with every word ruled out that may not come next.

    A caption may not end before its first word and must end after ``max_words`` words. A
    hypothesis that has ended can only be followed by PAD, which costs nothing.
    """
    vocabulary_size = tf.shape(log_prob)[2]
    word = tf.range(vocabulary_size)
    is_forbidden = (forbidden_token_mask(vocabulary_size) < 0) | ((word == END) & (position == 0))
    is_forbidden = tf.where(position == max_words, word != END, is_forbidden)
    if_growing = tf.where(is_forbidden, _IMPOSSIBLE, log_prob)
    if_ended = tf.where(word == PAD, 0.0, _IMPOSSIBLE)
    return tf.where(has_ended[:, :, tf.newaxis], if_ended, if_growing)


def _write_words(
    words: tf.Tensor, new_words: tf.Tensor, position: tf.Tensor, max_words: int
) -> tf.Tensor:
    """Returns the words with one new word of every hypothesis written at a position."""
    is_position = tf.one_hot(position, max_words + 1, on_value=True, off_value=False)
    return tf.where(is_position, new_words[:, :, tf.newaxis], words)


def _rank(words: tf.Tensor, log_prob: tf.Tensor, length_penalty: float) -> Hypotheses:
    length = tf.reduce_sum(tf.cast(tf.not_equal(words, PAD), tf.float32), axis=2)
    normalised = log_prob / tf.maximum(length, 1.0) ** length_penalty
    # A beam that never came alive must stay last. Division by its length could lift its score.
    normalised = tf.where(log_prob < _IMPOSSIBLE / 2, _IMPOSSIBLE + log_prob, normalised)
    order = tf.argsort(normalised, axis=1, direction="DESCENDING", stable=True)
    return Hypotheses(
        tf.gather(words, order, batch_dims=1), tf.gather(log_prob, order, batch_dims=1)
    )
