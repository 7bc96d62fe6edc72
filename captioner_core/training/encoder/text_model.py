"""The side of the learned encoder that puts captions into the space.

A caption is a weighted sum of word vectors. Each vector is a learned map of spaCy's vector, which
gives words a vector even if training never sees them, plus a learned vector of the word's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from captioner_core.options import TrainEncoderOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.text.encoders.spacy_vectors import load_vectors
from captioner_core.training.encoder.caption_groups import NO_WORD

_WORD_DROPOUT = 0.1
_NO_WORD_WEIGHT = -20.0  # Its softplus is nearly 0.
_UNSEEN_QUANTILE = 0.9


class TextModel:
    """The weights of the side of captions.

    Args:
      counts: The number of captions that contain each word, most frequent first.
      captions: The number of captions.
      options: The sizes and the seed.
    """

    def __init__(
        self, counts: Mapping[str, int], captions: int, options: TrainEncoderOptions
    ) -> None:
        spacy_vectors = load_vectors()
        glorot = keras.initializers.GlorotUniform(keras.random.SeedGenerator(options.seed))
        # Row NO_WORD stands for no word.
        table = np.zeros((1 + len(counts), spacy_vectors.dim), np.float32)
        for row, word in enumerate(counts, start=1):
            vector = spacy_vectors.unit_vector(word)
            table[row] = 0 if vector is None else vector
        self._spacy_vectors = tf.constant(table)
        rarity = [0.5 * math.log(captions / (count + 10)) - 1 for count in counts.values()]
        self._word_weights = tf.Variable(np.array([_NO_WORD_WEIGHT, *rarity], np.float32))
        self._spacy_map = tf.Variable(glorot((spacy_vectors.dim, options.dim)))
        self._own_vectors = tf.Variable(tf.zeros([len(table), options.dim]))

    @property
    def variables(self) -> list[tf.Variable]:
        """The weights, in a fixed order."""
        return [value for value in vars(self).values() if isinstance(value, tf.Variable)]

    def encode(self, words: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Returns captions in the space, float32 unit rows [batch, dim].

        Args:
          words: int32 [batch, words], rows of words, with ``NO_WORD`` behind the last one.
          seed: int64 [2], the seed of the dropped words. None drops nothing.
        """
        is_kept = tf.not_equal(words, NO_WORD)
        if seed is not None:
            chance = tf.random.stateless_uniform(tf.shape(words), seed)
            is_kept = tf.logical_and(is_kept, chance >= _WORD_DROPOUT)
        weights = tf.nn.softplus(tf.gather(self._word_weights, words))
        weights *= tf.cast(is_kept, tf.float32)
        vectors = tf.gather(self._spacy_vectors, words) @ self._spacy_map
        vectors += tf.gather(self._own_vectors, words)
        return tf.math.l2_normalize(tf.reduce_sum(vectors * weights[:, :, tf.newaxis], 1), axis=1)

    def tensors(self) -> dict[str, npt.NDArray[np.float16]]:
        """Returns the tables that ``LearnedEncoder`` reads.

        The weight of each word is multiplied into its vector.
        """
        weights = tf.nn.softplus(self._word_weights)[1:]
        words = (self._spacy_vectors @ self._spacy_map + self._own_vectors)[1:]
        # A word that training never saw weighs as much as rare words do.
        unseen_weight = float(np.quantile(weights.numpy(), _UNSEEN_QUANTILE))
        tables = {
            "words": words * weights[:, tf.newaxis],
            "unseen": self._spacy_map * unseen_weight,
        }
        return {name: np.asarray(tensor, np.float16) for name, tensor in tables.items()}
