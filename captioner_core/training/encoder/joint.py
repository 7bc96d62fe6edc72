"""The model behind the learned encoder: captions and images in one space.

Two captions of an image, and the image, are drawn together; those of the other images in the batch
are pushed away. The loss is InfoNCE (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748,
section 2.3), in both directions between captions and images as in Radford et al. 2021
(https://arxiv.org/abs/2103.00020, section 2.3).

A caption is a weighted sum of word vectors. Each vector is a learned map of spaCy's vector, which
gives words a vector even if training never sees them, plus a learned vector of the word's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CheckFailed
from captioner_core.options import TrainEncoderOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.tables.schemas import FEATURE_DIM
from captioner_core.text.encoders.spacy_vectors import load_vectors
from captioner_core.text.vocabulary import tokenize

_MAX_WORDS = 24  # Words of a caption that training uses.
_MIN_CAPTIONS = 2  # Captions that must contain a word before it gets a vector of its own.
_WORD_DROPOUT = 0.1
_FEATURE_DROPOUT = 0.3
_INITIAL_TEMPERATURE = 0.05
_NO_WORD_WEIGHT = -20.0  # Its softplus is nearly 0.
_UNSEEN_QUANTILE = 0.9


@dataclass(frozen=True)
class JointData:
    """Captions and features of the training images.

    Args:
      captions: The captions of each image, at least two.
      features: float32 [views, images, FEATURE_DIM], unit rows times ``FEATURE_SCALE``.
      backbone: The name of the backbone that made the features.
    """

    captions: Sequence[Sequence[str]]
    features: npt.NDArray[np.float32]
    backbone: str


class JointTraining(NamedTuple):
    """The outcome of a training.

    Args:
      model: The trained model.
      counts: The number of captions that contain each word, most frequent first.
      losses: The mean loss of each epoch.
    """

    model: JointModel
    counts: dict[str, int]
    losses: list[float]


class JointModel:
    """The weights of both sides, captions and images.

    Args:
      counts: The number of captions that contain each word, most frequent first.
      captions: The number of captions.
      options: The sizes and the seed.
    """

    def __init__(
        self, counts: Mapping[str, int], captions: int, options: TrainEncoderOptions
    ) -> None:
        vectors = load_vectors()
        glorot = keras.initializers.GlorotUniform(options.seed)
        self.words = tuple(counts)
        # The last row of the table stands for no word.
        table = np.zeros((len(counts) + 1, vectors.dim), np.float32)
        for row, word in enumerate(self.words):
            vector = vectors.unit_vector(word)
            table[row] = 0 if vector is None else vector
        self._spacy_vectors = tf.constant(table)
        rarity = [0.5 * math.log(captions / (count + 10)) - 1 for count in counts.values()]
        self._word_weights = tf.Variable(np.array([*rarity, _NO_WORD_WEIGHT], np.float32))
        self._spacy_map = tf.Variable(glorot((vectors.dim, options.dim)))
        self._own_vectors = tf.Variable(tf.zeros([len(counts) + 1, options.dim]))
        self._hidden = tf.Variable(glorot((FEATURE_DIM, options.hidden)))
        self._hidden_bias = tf.Variable(tf.zeros([options.hidden]))
        self._output = tf.Variable(glorot((options.hidden, options.dim)))
        self._output_bias = tf.Variable(tf.zeros([options.dim]))
        self._log_scale = tf.Variable(math.log(1 / _INITIAL_TEMPERATURE))

    @property
    def variables(self) -> list[tf.Variable]:
        """The weights, in a fixed order."""
        return [value for value in vars(self).values() if isinstance(value, tf.Variable)]

    def loss(
        self, first: tf.Tensor, second: tf.Tensor, features: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the mean InfoNCE loss between two captions of each image and the image.

        Args:
          first: int32 [batch, words], a caption of each image.
          second: int32 [batch, words], another caption of each image.
          features: float32 [batch, FEATURE_DIM].
          seed: int64 [2], the seed of the dropped words and features.
        """
        seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in range(3)]
        first_texts = self._encode_texts(first, seeds[0])
        second_texts = self._encode_texts(second, seeds[1])
        images = self._encode_images(features, seeds[2])
        image_loss = self._info_nce(images, first_texts) + self._info_nce(images, second_texts)
        return self._info_nce(first_texts, second_texts) + image_loss / 2

    def _encode_texts(self, words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns captions in the space, float32 unit rows [batch, dim].

        Args:
          words: int32 [batch, words].
          seed: int64 [2], the seed of the dropped words.
        """
        is_kept = tf.random.stateless_uniform(tf.shape(words), seed) >= _WORD_DROPOUT
        weights = tf.nn.softplus(tf.gather(self._word_weights, words))
        weights *= tf.cast(is_kept, tf.float32)
        vectors = tf.gather(self._spacy_vectors, words) @ self._spacy_map
        vectors += tf.gather(self._own_vectors, words)
        total = tf.reduce_sum(vectors * weights[:, :, tf.newaxis], axis=1)
        return tf.math.l2_normalize(total, axis=1)

    def _encode_images(self, features: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns images in the space, float32 unit rows [batch, dim].

        Args:
          features: float32 [batch, FEATURE_DIM].
          seed: int64 [2], the seed of the dropped features.
        """
        seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in range(2)]
        dropped = tf.nn.experimental.stateless_dropout(features, _FEATURE_DROPOUT, seeds[0])
        hidden = tf.nn.relu(dropped @ self._hidden + self._hidden_bias)
        hidden = tf.nn.experimental.stateless_dropout(hidden, _FEATURE_DROPOUT, seeds[1])
        return tf.math.l2_normalize(hidden @ self._output + self._output_bias, axis=1)

    def _info_nce(self, rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of finding each row's partner among the others, and vice versa.

        Args:
          rows: float32 unit rows [batch, dim].
          others: float32 unit rows [batch, dim]; the partner of a row has the same number.
        """
        logits = tf.matmul(rows, others, transpose_b=True) * tf.exp(self._log_scale)
        partners = tf.range(tf.shape(logits)[0])
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(partners, direction)
            for direction in (logits, tf.transpose(logits))
        ]
        return tf.reduce_mean(tf.add_n(losses))

    def tensors(self) -> dict[str, npt.NDArray[np.float16]]:
        """Returns the tables that ``LearnedEncoder`` reads.

        The weight of each word is multiplied into its vector.
        """
        weights = tf.nn.softplus(self._word_weights)
        words = self._spacy_vectors @ self._spacy_map + self._own_vectors
        words *= weights[:, tf.newaxis]
        # A word that training never saw weighs as much as rare words do.
        unseen_weight = float(np.quantile(weights[:-1].numpy(), _UNSEEN_QUANTILE))
        tables = {
            "words": words[:-1],
            "unseen": self._spacy_map * unseen_weight,
            "image_hidden": self._hidden,
            "image_hidden_bias": self._hidden_bias,
            "image_output": self._output,
            "image_output_bias": self._output_bias,
        }
        return {name: np.asarray(tensor.numpy(), np.float16) for name, tensor in tables.items()}


def count_words(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """Returns the number of captions that contain each word, without rare words.

    The most frequent word comes first, and words of the same count are sorted by spelling.
    """
    counts = Counter(word for texts in captions for text in texts for word in set(tokenize(text)))
    frequent = {word: count for word, count in counts.items() if count >= _MIN_CAPTIONS}
    return dict(sorted(frequent.items(), key=lambda item: (-item[1], item[0])))


def train_joint(data: JointData, options: TrainEncoderOptions) -> JointTraining:
    """Fits both sides of the model.

    Raises:
      CheckFailed: The loss is not finite.
    """
    counts = count_words(data.captions)
    model = JointModel(counts, sum(map(len, data.captions)), options)
    rows = {word: row for row, word in enumerate(model.words)}
    words = [[_encode_caption(text, rows) for text in texts] for texts in data.captions]
    steps = max(1, len(words) // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4)
    optimizer.build(model.variables)

    @tf.function(reduce_retracing=True)
    def step(
        first: tf.Tensor, second: tf.Tensor, features: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Changes the weights by one step and returns the loss."""
        with tf.GradientTape() as tape:
            loss = model.loss(first, second, features, seed)
        optimizer.apply(tape.gradient(loss, model.variables), model.variables)
        return loss

    losses = []
    for epoch in range(options.epochs):
        random = np.random.default_rng([options.seed, epoch])
        order = random.permutation(len(words))
        total = 0.0
        for number in range(steps):
            images = order[number * options.batch_size : (number + 1) * options.batch_size]
            first, second = _choose_captions(words, images, random)
            views = random.integers(len(data.features), size=len(images))
            seed = np.array([options.seed, epoch * steps + number], np.int64)
            total += float(step(first, second, data.features[views, images], seed))
        losses.append(total / steps)
        if not math.isfinite(losses[-1]):
            raise CheckFailed(
                f"loss is {losses[-1]} in epoch {epoch + 1}; nothing was written, lower "
                "--learning-rate"
            )
    return JointTraining(model, counts, losses)


def _choose_captions(
    words: Sequence[Sequence[npt.NDArray[np.int32]]],
    images: npt.NDArray[np.int64],
    random: np.random.Generator,
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Returns two different captions of each image, each int32 [images, words]."""
    pairs = [random.choice(len(words[image]), 2, replace=False) for image in images]
    first = [words[image][pair[0]] for image, pair in zip(images, pairs, strict=True)]
    second = [words[image][pair[1]] for image, pair in zip(images, pairs, strict=True)]
    return np.stack(first), np.stack(second)


def _encode_caption(caption: str, rows: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """Returns int32 [_MAX_WORDS]: the rows of the known words, then the row of no word."""
    known = [rows[word] for word in tokenize(caption) if word in rows][:_MAX_WORDS]
    padding = [len(rows)] * (_MAX_WORDS - len(known))
    return np.array(known + padding, np.int32)
