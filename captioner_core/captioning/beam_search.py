"""Beam search and random sampling of captions, for a whole batch of images in one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.vocabulary import END, PAD, START, UNKNOWN

Step = Callable[..., Sequence[tf.Tensor]]
"""``step(last_words, *state)`` advances all hypotheses by one word.

It takes the last words [batch, beams] and the tensors [batch, beams, ...] of the state. It returns
the log-probabilities [batch, beams, vocabulary] and, after them, the tensors of the next state.
"""

# Added to a logit or used as a log-probability, it rules a word out. It is finite so that sums
# and differences of such scores never become NaN.
_IMPOSSIBLE = -1e9


class HypothesisTensors(NamedTuple):
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
    state: tuple[tf.Tensor, ...],
    *,
    batch: tf.Tensor,
    beam_width: int,
    max_words: int,
    length_penalty: float = 0.0,
) -> HypothesisTensors:
    """Returns the most likely captions of each image that beam search finds.

    A caption has at least one word and never contains PAD, START or the unknown word.

    While hypotheses grow, they compete by log-probability. The finished hypotheses are ranked by
    log_prob / length**length_penalty, where the length includes END. This is the length
    normalisation of Wu et al. 2016 (https://arxiv.org/abs/1609.08144, section 7) without their
    constant 5 and without their coverage penalty.

    The search stops when every hypothesis has ended. A hypothesis that reaches ``max_words`` words
    is ended there and pays the log-probability that the model gives to END.

    >>> likely = [[START, 4], [4, 5], [5, END]]  # Word 4 comes first, then word 5.
    >>> table = tf.tensor_scatter_nd_update(tf.fill([6, 6], 0.02), likely, [0.9, 0.9, 0.9])
    >>> def step(last_words):
    ...     return [tf.math.log(tf.gather(table, last_words))]
    >>> found = beam_search(step, (), batch=1, beam_width=2, max_words=4)
    >>> found.words[0, 0].numpy().tolist() == [4, 5, END, PAD, PAD]
    True

    Args:
      step: The function that advances every hypothesis by one word.
      state: The initial state, tensors [batch, beam_width, ...].
      batch: The number of images.
      beam_width: The number of hypotheses kept for each image.
      max_words: The length of the longest caption, in words.
      length_penalty: The exponent of the length. 0 ranks by probability alone; higher values
        favour longer captions.
    """

    def keep_best(grown: _Growing, next_log_prob: tf.Tensor) -> _Growing:
        """Keeps the best ``beam_width`` of all extended hypotheses of each image."""
        scores = grown.log_prob[:, :, tf.newaxis] + next_log_prob
        vocabulary_size = tf.shape(scores)[2]
        log_prob, chosen = tf.math.top_k(tf.reshape(scores, [batch, -1]), k=beam_width)
        parent = chosen // vocabulary_size
        words, has_ended, state = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, parent, axis=1, batch_dims=1),
            (grown.words, grown.has_ended, grown.state),
        )
        return grown._replace(
            words=words,
            log_prob=log_prob,
            last_words=chosen % vocabulary_size,
            has_ended=has_ended,
            state=state,
        )

    # Only the first hypothesis is alive at first; otherwise all beams would grow the same words.
    log_prob = tf.tile([[0.0] + [_IMPOSSIBLE] * (beam_width - 1)], [batch, 1])
    found = _grow(step, keep_best, state, log_prob, max_words)
    return _rank(found.words, found.log_prob, length_penalty)


def sample_words(
    step: Step,
    state: tuple[tf.Tensor, ...],
    *,
    batch: tf.Tensor,
    samples: int,
    max_words: int,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Draws captions word by word from the model's own probabilities.

    The rules for captions are those of ``beam_search``.

    Args:
      step: The function that advances every sample by one word.
      state: The initial state, tensors [batch, samples, ...].
      batch: The number of images.
      samples: The number of captions drawn for each image.
      max_words: The length of the longest caption, in words.
      seed: int [2]. The same seed draws the same captions.

    Returns:
      int32 [batch, samples, max_words + 1], each caption followed by END and then PAD.
    """

    def draw(grown: _Growing, log_prob: tf.Tensor) -> _Growing:
        """Draws the next word of every sample."""
        flat = tf.reshape(log_prob, [batch * samples, tf.shape(log_prob)[2]])
        step_seed = tf.random.experimental.stateless_fold_in(seed, grown.position)
        drawn = tf.random.stateless_categorical(flat, 1, step_seed, tf.int32)
        return grown._replace(last_words=tf.reshape(drawn, [batch, samples]))

    return _grow(step, draw, state, tf.zeros([batch, samples]), max_words).words


def forbidden_token_mask(vocabulary_size: tf.Tensor) -> tf.Tensor:
    """Returns a mask that rules out PAD, START and the unknown word when it is added to logits.

    The mask is float32 [vocabulary_size].
    """
    word = tf.range(vocabulary_size)
    return tf.where((word == PAD) | (word == START) | (word == UNKNOWN), _IMPOSSIBLE, 0.0)


class _Growing(NamedTuple):
    """The hypotheses of each image while they grow.

    Args:
      position: int32, the number of words so far.
      words: int32 [batch, beams, max_words + 1].
      log_prob: float32 [batch, beams].
      last_words: int32 [batch, beams].
      has_ended: bool [batch, beams].
      state: The state of the step.
    """

    position: tf.Tensor
    words: tf.Tensor
    log_prob: tf.Tensor
    last_words: tf.Tensor
    has_ended: tf.Tensor
    state: tuple[tf.Tensor, ...]


def _grow(
    step: Step,
    choose: Callable[[_Growing, tf.Tensor], _Growing],
    state: tuple[tf.Tensor, ...],
    log_prob: tf.Tensor,
    max_words: int,
) -> _Growing:
    """Grows hypotheses word by word until all have ended.

    Args:
      step: The function that advances every hypothesis by one word.
      choose: Sets ``last_words`` to the next words, given the log-probabilities of all words that
        may come next. It may reorder the hypotheses.
      state: The initial state of the step.
      log_prob: float32 [batch, beams], the log-probability of each hypothesis at first.
      max_words: The length of the longest caption, in words.
    """

    def extend(grown: _Growing) -> tuple[_Growing]:
        """Extends every hypothesis by one word."""
        next_log_prob, *state = step(grown.last_words, *grown.state)
        allowed = _mask_forbidden_words(next_log_prob, grown.has_ended, grown.position, max_words)
        chosen = choose(grown._replace(state=tuple(state)), allowed)
        extended = chosen._replace(
            position=chosen.position + 1,
            words=_write_words(chosen.words, chosen.last_words, chosen.position, max_words),
            has_ended=chosen.has_ended | tf.equal(chosen.last_words, END),
        )
        return (extended,)

    first = _Growing(
        position=tf.constant(0),
        words=tf.fill(tf.concat([tf.shape(log_prob), [max_words + 1]], axis=0), PAD),
        log_prob=log_prob,
        last_words=tf.fill(tf.shape(log_prob), START),
        has_ended=tf.zeros_like(log_prob, tf.bool),
        state=state,
    )
    (last,) = tf.while_loop(
        lambda grown: (grown.position <= max_words) & ~tf.reduce_all(grown.has_ended),
        extend,
        (first,),
    )
    return last


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


def _rank(words: tf.Tensor, log_prob: tf.Tensor, length_penalty: float) -> HypothesisTensors:
    length = tf.reduce_sum(tf.cast(tf.not_equal(words, PAD), tf.float32), axis=2)
    normalised = log_prob / tf.maximum(length, 1.0) ** length_penalty
    # A beam that never came alive must stay last. Division by its length could lift its score.
    normalised = tf.where(log_prob < _IMPOSSIBLE / 2, _IMPOSSIBLE + log_prob, normalised)
    order = tf.argsort(normalised, axis=1, direction="DESCENDING", stable=True)
    return HypothesisTensors(
        tf.gather(words, order, batch_dims=1), tf.gather(log_prob, order, batch_dims=1)
    )
