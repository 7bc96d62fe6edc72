"""Beam search over a whole batch of images in one graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.vocabulary import END, PAD, START, UNKNOWN

# step(words [batch, beams], state) -> log-probabilities [batch, beams, vocabulary], state;
# every tensor of the state is [batch, beams, ...]
Step = Callable[[tf.Tensor, Any], tuple[tf.Tensor, Any]]

_IMPOSSIBLE = -1e9


class Hypotheses(NamedTuple):
    """The hypotheses of each image, best first.

    ``words`` is int32 [batch, beams, max_words + 1], END then PAD at its end; ``log_prob``
    is float32 [batch, beams], the natural log of the caption's probability, END included.
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
    """Finds likely captions of at least one word; never writes PAD, START or the unknown word.

    Hypotheses compete by log-probability while they grow. The finished ones are ranked by
    log_prob / length**length_penalty, length counting END. The search stops when every
    hypothesis has ended; one that reaches ``max_words`` words is ended there, at the cost
    that the model gives to END.

    Args:
      step: advances every hypothesis by a word.
      state: a structure of tensors [batch, beam_width, ...] to start from.
      batch: number of images.
      beam_width: hypotheses kept for each image.
      max_words: longest caption.
      length_penalty: 0 ranks by probability alone; higher favours longer captions.
    """
    words = tf.fill([batch, beam_width, max_words + 1], PAD)
    # one live hypothesis at first, or all beams would grow the same words
    log_prob = tf.tile([[0.0] + [_IMPOSSIBLE] * (beam_width - 1)], [batch, 1])
    last = tf.fill([batch, beam_width], START)
    ended = tf.zeros([batch, beam_width], tf.bool)

    def grow(
        place: tf.Tensor,
        words: tf.Tensor,
        log_prob: tf.Tensor,
        last: tf.Tensor,
        ended: tf.Tensor,
        state: Any,
    ) -> Any:
        next_log_prob, state = step(last, state)
        scores = log_prob[:, :, tf.newaxis] + _allowed(next_log_prob, ended, place, max_words)
        vocabulary = tf.shape(scores)[2]
        log_prob, chosen = tf.math.top_k(tf.reshape(scores, [batch, -1]), k=beam_width)
        parent, last = chosen // vocabulary, chosen % vocabulary
        words, ended, state = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, parent, axis=1, batch_dims=1), (words, ended, state)
        )
        column = tf.one_hot(place, max_words + 1, on_value=True, off_value=False)
        words = tf.where(column, last[:, :, tf.newaxis], words)
        return place + 1, words, log_prob, last, ended | tf.equal(last, END), state

    _, words, log_prob, *_ = tf.while_loop(
        lambda place, words, log_prob, last, ended, state: (
            (place <= max_words) & ~tf.reduce_all(ended)
        ),
        grow,
        (tf.constant(0), words, log_prob, last, ended, state),
    )
    return _ranked(words, log_prob, length_penalty)


def sample(
    step: Step, state: Any, *, batch: tf.Tensor, samples: int, max_words: int, seed: tf.Tensor
) -> tf.Tensor:
    """Captions drawn word by word from the model's own probabilities, by the same rules as ``beam_search``.

    Args:
      step: advances every sample by a word.
      state: a structure of tensors [batch, samples, ...] to start from.
      batch: number of images.
      samples: captions for each image.
      max_words: longest caption.
      seed: int [2]; the same one draws the same captions.

    Returns:
      int32 [batch, samples, max_words + 1], END then PAD at the end.
    """
    words = tf.fill([batch, samples, max_words + 1], PAD)
    last = tf.fill([batch, samples], START)
    ended = tf.zeros([batch, samples], tf.bool)

    def grow(
        place: tf.Tensor, words: tf.Tensor, last: tf.Tensor, ended: tf.Tensor, state: Any
    ) -> Any:
        log_prob, state = step(last, state)
        log_prob = _allowed(log_prob, ended, place, max_words)
        flat = tf.reshape(log_prob, [batch * samples, tf.shape(log_prob)[2]])
        step_seed = tf.random.experimental.stateless_fold_in(seed, place)
        last = tf.reshape(
            tf.random.stateless_categorical(flat, 1, step_seed, tf.int32), [batch, samples]
        )
        column = tf.one_hot(place, max_words + 1, on_value=True, off_value=False)
        words = tf.where(column, last[:, :, tf.newaxis], words)
        return place + 1, words, last, ended | tf.equal(last, END), state

    _, words, *_ = tf.while_loop(
        lambda place, words, last, ended, state: (place <= max_words) & ~tf.reduce_all(ended),
        grow,
        (tf.constant(0), words, last, ended, state),
    )
    return words


def forbidden_token_mask(vocabulary: tf.Tensor) -> tf.Tensor:
    """float32 [vocabulary]: what bars, once added to logits, the words that no caption ever holds."""
    word = tf.range(vocabulary)
    return tf.where((word == PAD) | (word == START) | (word == UNKNOWN), _IMPOSSIBLE, 0.0)


def _allowed(log_prob: tf.Tensor, ended: tf.Tensor, place: tf.Tensor, max_words: int) -> tf.Tensor:
    """Bars what must not be written: an ended hypothesis takes PAD alone, at no cost."""
    word = tf.range(tf.shape(log_prob)[2])
    banned = (forbidden_token_mask(tf.shape(log_prob)[2]) < 0) | ((word == END) & (place == 0))
    banned = tf.where(place == max_words, word != END, banned)
    growing = tf.where(banned, _IMPOSSIBLE, log_prob)
    resting = tf.where(word == PAD, 0.0, _IMPOSSIBLE)
    return tf.where(ended[:, :, tf.newaxis], resting, growing)


def _ranked(words: tf.Tensor, log_prob: tf.Tensor, length_penalty: float) -> Hypotheses:
    length = tf.reduce_sum(tf.cast(tf.not_equal(words, PAD), tf.float32), axis=2)
    normalised = log_prob / tf.maximum(length, 1.0) ** length_penalty
    # a beam that never came to life keeps its impossible score, whatever its length
    normalised = tf.where(log_prob < _IMPOSSIBLE / 2, _IMPOSSIBLE + log_prob, normalised)
    order = tf.argsort(normalised, axis=1, direction="DESCENDING", stable=True)
    return Hypotheses(
        tf.gather(words, order, batch_dims=1), tf.gather(log_prob, order, batch_dims=1)
    )
