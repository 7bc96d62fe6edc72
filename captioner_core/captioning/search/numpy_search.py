"""Beam search in NumPy, for processors. The rules for captions are those of ``beam_search``."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from captioner_core.captioning.saved_model import LoadedModel
from captioner_core.captioning.search.base import Hypotheses
from captioner_core.captioning.search.numpy_network import Float32, Int64, NumpyNetwork, Rows
from captioner_core.process.processors import count_processors
from captioner_core.text.vocabulary import END, PAD, START, UNKNOWN

_MIN_PROBABILITY = np.float32(1e-37)  # The logarithm of 0 is not finite.
_FORBIDDEN = -1.0  # Stands for the probability of a word that may not come next.
_IMPOSSIBLE = -1e9  # The log-probability of a hypothesis that does not exist.
_GROUP_SIZE = 20  # The words of a group, the best of which counts for the cutoff.
# The cutoff is a little lower than the score that it is made from, whose rounding may differ.
_CUTOFF_MARGIN = np.float32(1e-3)
_MIN_IMAGES_PER_THREAD = 8  # With fewer images, the matrices are too small to be worth it.
# The setting of the BLAS library that ``NumpySearch`` changes belongs to the whole process.
_BLAS_LOCK = threading.Lock()


class NumpySearch:
    """Beam search over batches of images, with the network in NumPy.

    Args:
      network: The network.
      beam_width: The number of hypotheses kept.
    """

    def __init__(self, network: NumpyNetwork, beam_width: int) -> None:
        self._network = network
        self._beam_width = beam_width
        self._blas = ThreadpoolController().select(user_api="blas")

    @classmethod
    def from_model(cls, model: LoadedModel, beam_width: int) -> NumpySearch:
        """Returns a search with the weights of a model; see ``load_search``."""
        return cls(NumpyNetwork(model), beam_width)

    def find(self, cells: npt.NDArray[Any]) -> Hypotheses:
        """Returns the hypotheses of each image; see ``CaptionSearch.find``."""
        if not len(cells):
            shape = (0, self._beam_width, self._network.config.max_words + 1)
            return Hypotheses(np.empty(shape, np.int32), np.empty(shape[:2], np.float32))
        threads = max(1, min(count_processors(), len(cells) // _MIN_IMAGES_PER_THREAD))
        # Each thread searches for its own images. Threads of the BLAS library itself would speed up
        # only the matrix products, and would wait for each other at every one of them.
        with _BLAS_LOCK, self._blas.limit(limits=1), ThreadPoolExecutor(threads) as pool:
            found = list(pool.map(self._find, np.array_split(cells, threads)))
        return Hypotheses(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def _find(self, cells: npt.NDArray[Any]) -> Hypotheses:
        """Returns the hypotheses of some of the images."""
        config = self._network.config
        batch = len(cells)
        images = self._network.encode(cells)
        state = images.state
        beams = _Beams(
            image=np.arange(batch),
            log_prob=np.zeros(batch, np.float32),
            words=np.full((batch, config.max_words + 1), PAD, np.int32),
            has_ended=np.zeros(batch, bool),
        )
        parent = np.arange(batch)
        last_word = np.full(batch, START)
        for position in range(config.max_words + 1):
            growing = np.flatnonzero(~beams.has_ended)
            if not len(growing):
                break
            slot = _number_within(beams.image)[growing]
            rows = Rows(beams.image[growing], slot, parent, last_word)
            probabilities, state = self._network.advance(images, state, rows)
            _forbid_words(probabilities, position, config.max_words)
            candidates = _find_candidates(beams, growing, probabilities, self._beam_width)
            chosen = _choose_best(beams, candidates, self._beam_width)
            beams = _extend(beams, chosen, position)
            parent = np.searchsorted(growing, chosen.beam[~beams.has_ended])
            last_word = chosen.word[~beams.has_ended]
        return _rank(beams, batch, self._beam_width, config.length_penalty)


class _Beams(NamedTuple):
    """The hypotheses of all images, sorted by image and, within it, best first.

    Args:
      image: int64 [beams].
      log_prob: float32 [beams].
      words: int32 [beams, max_words + 1].
      has_ended: bool [beams].
    """

    image: Int64
    log_prob: Float32
    words: npt.NDArray[np.int32]
    has_ended: npt.NDArray[np.bool_]


class _Candidates(NamedTuple):
    """Hypotheses with one more word, or, if they have ended, with PAD.

    Args:
      beam: int64 [candidates], the hypothesis that each extends.
      word: int64 [candidates].
      log_prob: float32 [candidates].
    """

    beam: Int64
    word: Int64
    log_prob: Float32


def _forbid_words(probabilities: Float32, position: int, max_words: int) -> None:
    """Overwrites the probabilities of words that may not come next.

    Args:
      probabilities: float32 [rows, vocabulary].
      position: The number of words so far.
      max_words: The length of the longest caption, in words.
    """
    if position == max_words:
        ending = probabilities[:, END].copy()
        probabilities[:] = _FORBIDDEN
        probabilities[:, END] = ending
        return
    probabilities[:, [PAD, START, UNKNOWN]] = _FORBIDDEN
    if position == 0:
        probabilities[:, END] = _FORBIDDEN


def _find_candidates(
    beams: _Beams, growing: Int64, probabilities: Float32, beam_width: int
) -> _Candidates:
    """Returns the candidates that may be among the best of their image.

    Args:
      beams: All hypotheses.
      growing: int64 [rows], those that have not ended.
      probabilities: float32 [rows, vocabulary], those of the next word of each.
      beam_width: The number of candidates that the search keeps of each image.
    """
    log_prob = beams.log_prob[growing]
    cutoffs = _find_cutoffs(beams, growing, probabilities, beam_width)
    margins = cutoffs[beams.image[growing]] - log_prob - _CUTOFF_MARGIN
    least = np.exp(np.minimum(margins, 0))
    # Such small probabilities all count as the same one.
    least[least <= _MIN_PROBABILITY] = 0
    # Indices of a flat array are found several times as fast as those of two dimensions.
    flat = np.flatnonzero((probabilities >= least[:, np.newaxis]).reshape(-1))
    row, word = np.divmod(flat, probabilities.shape[1])
    likely = np.maximum(probabilities.reshape(-1)[flat], _MIN_PROBABILITY)
    ended = np.flatnonzero(beams.has_ended)
    return _Candidates(
        np.concatenate([growing[row], ended]),
        np.concatenate([word, np.full(len(ended), PAD)]),
        np.concatenate([np.log(likely) + log_prob[row], beams.log_prob[ended]]),
    )


def _find_cutoffs(
    beams: _Beams, growing: Int64, probabilities: Float32, beam_width: int
) -> Float32:
    """Returns a log-probability that the best candidates of each image reach, float32 [batch].

    The best word of each of several groups of words is a candidate. So the ``beam_width`` best of
    these words are a lower bound of the best candidates. It needs one pass over the probabilities,
    while a partial sort of all of them takes several times as long.

    Args:
      beams: All hypotheses.
      growing: int64 [rows], those that have not ended.
      probabilities: float32 [rows, vocabulary], those of the next word of each.
      beam_width: The number of candidates that the search keeps of each image.
    """
    rows, vocabulary = probabilities.shape
    group_count = vocabulary // _GROUP_SIZE
    grouped = probabilities[:, : _GROUP_SIZE * group_count]
    largest = np.concatenate(
        [
            grouped.reshape(rows, _GROUP_SIZE, group_count).max(axis=1),
            probabilities[:, _GROUP_SIZE * group_count :],
        ],
        axis=1,
    )
    scores = np.log(np.maximum(largest, _MIN_PROBABILITY)) + beams.log_prob[growing, np.newaxis]
    scores[largest < 0] = -np.inf
    slot = _number_within(beams.image)
    batch = int(beams.image[-1]) + 1
    table = np.full((batch, beam_width, scores.shape[1]), -np.inf, np.float32)
    table[beams.image, slot, 0] = beams.log_prob
    table[beams.image[growing], slot[growing]] = scores
    return np.partition(table.reshape(batch, -1), -beam_width, axis=1)[:, -beam_width]


def _choose_best(beams: _Beams, candidates: _Candidates, beam_width: int) -> _Candidates:
    """Returns the best candidates of each image, in the order of ``_Beams``.

    Of equally likely candidates, the one with the earlier hypothesis and the smaller word wins.
    """
    image = beams.image[candidates.beam]
    order = np.lexsort((candidates.word, candidates.beam, -candidates.log_prob, image))
    kept = order[_number_within(image[order]) < beam_width]
    return _Candidates(candidates.beam[kept], candidates.word[kept], candidates.log_prob[kept])


def _extend(beams: _Beams, chosen: _Candidates, position: int) -> _Beams:
    """Returns the hypotheses with a new word at a position."""
    words = beams.words[chosen.beam]
    words[:, position] = chosen.word
    has_ended = (chosen.word == END) | (chosen.word == PAD)
    return _Beams(beams.image[chosen.beam], chosen.log_prob, words, has_ended)


def _rank(beams: _Beams, batch: int, beam_width: int, length_penalty: float) -> Hypotheses:
    """Returns the ended hypotheses of each image, ranked as ``beam_search`` ranks them."""
    length = (beams.words != PAD).sum(axis=1)
    normalised = beams.log_prob / length**length_penalty
    order = np.lexsort((-normalised, beams.image))
    image = beams.image[order]
    rank = _number_within(image)
    words = np.full((batch, beam_width, beams.words.shape[1]), PAD, np.int32)
    words[:, :, 0] = END
    log_prob = np.full((batch, beam_width), _IMPOSSIBLE, np.float32)
    words[image, rank] = beams.words[order]
    log_prob[image, rank] = beams.log_prob[order]
    return Hypotheses(words, log_prob)


def _number_within(image: Int64) -> Int64:
    """Returns the number of each hypothesis among those of its image.

    >>> _number_within(np.array([0, 0, 0, 2, 2])).tolist()
    [0, 1, 2, 0, 1]

    Args:
      image: int64 [hypotheses], the image of each, in ascending order.
    """
    return np.arange(len(image)) - np.searchsorted(image, image)
