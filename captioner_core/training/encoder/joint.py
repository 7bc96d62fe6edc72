"""Trains the model behind the learned encoder: captions and images in one space.

Two captions of an image, and the image, are drawn together; those of the other images in the batch
are pushed away. The loss is InfoNCE (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748,
section 2.3), in both directions as in Radford et al. 2021 (https://arxiv.org/abs/2103.00020,
section 2.3). From the second epoch on, a batch holds images that are hard to tell apart
(``similar_batches``). Captions in which a word is replaced, so that they say something else, are
pushed away from the original (``replaced_words``). The distances between captions follow those of a
teacher, if there is one (``teaching``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CheckFailed
from captioner_core.options import TrainEncoderOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.text.encoders.base import TextEncoder
from captioner_core.text.vocabulary import tokenize
from captioner_core.training.encoder.caption_groups import CaptionGroups, encode_groups
from captioner_core.training.encoder.image_model import ImageModel
from captioner_core.training.encoder.replaced_words import WordReplacer
from captioner_core.training.encoder.similar_batches import order_by_similarity
from captioner_core.training.encoder.teaching import TaughtBatch, Teacher
from captioner_core.training.encoder.text_model import TextModel

_INITIAL_TEMPERATURE = 0.05
_CHUNKS = 4  # Groups of similar images in a batch.
_CLUSTERS = 200
_REPLACED_COSINE = 0.65  # The cosine above which a caption is too near to one with another word.
_REPLACED_WEIGHT = 2.0
_TAUGHT_IMAGES = 256  # In a step, with two captions each.
_TEACHER_TEMPERATURE = 0.05
_TEACHER_WEIGHT = 2.0
_SELF = 1e3  # Taken from the similarity of a caption to itself, which teaches nothing.
_ENCODING_BATCH = 2048


@dataclass(frozen=True)
class JointData:
    """Captions and features to learn from.

    Args:
      captions: The captions of each image, at least two.
      features: float32 [views, pictures, FEATURE_DIM], unit rows times ``FEATURE_SCALE``: those
        of the first images, as many as there are pictures. The other images have captions alone.
      teacher: The encoder whose similarities of captions are imitated, if there is one.
    """

    captions: Sequence[Sequence[str]]
    features: npt.NDArray[np.float32]
    teacher: TextEncoder | None = None


class JointTraining(NamedTuple):
    """The outcome of a training.

    Args:
      tensors: The tables of words and of the layers over images, by name.
      counts: The number of captions that contain each word, most frequent first.
      losses: The mean loss of each epoch.
    """

    tensors: dict[str, npt.NDArray[np.float16]]
    counts: dict[str, int]
    losses: list[float]


def count_words(captions: Sequence[Sequence[str]], min_captions: int) -> dict[str, int]:
    """Returns the number of captions that contain each word, without rare words.

    The most frequent word comes first, and words of the same count are sorted by spelling.
    """
    counts = Counter(word for texts in captions for text in texts for word in set(tokenize(text)))
    frequent = {word: count for word, count in counts.items() if count >= min_captions}
    return dict(sorted(frequent.items(), key=lambda item: (-item[1], item[0])))


def train_joint(data: JointData, options: TrainEncoderOptions) -> JointTraining:
    """Fits both sides of the model.

    Raises:
      CheckFailed: The loss is not finite.
    """
    counts = count_words(data.captions, options.min_word_count)
    training = _Training(data, counts, options)
    losses = []
    for epoch in range(options.epochs):
        losses.append(training.run_epoch(epoch))
        if not math.isfinite(losses[-1]):
            raise CheckFailed(
                f"loss is {losses[-1]} in epoch {epoch + 1}; nothing was written, lower "
                "--learning-rate"
            )
    return JointTraining(training.tensors(), counts, losses)


class _Training:
    """The model, its optimizer, and the batches of its epochs."""

    def __init__(
        self, data: JointData, counts: dict[str, int], options: TrainEncoderOptions
    ) -> None:
        self._options = options
        self._features = data.features
        row_of = {word: row for row, word in enumerate(counts, start=1)}
        self._groups: CaptionGroups = encode_groups(data.captions, row_of)
        self._replacer = WordReplacer(row_of)
        self._text = TextModel(counts, len(self._groups.words), options)
        self._image = ImageModel(options)
        self._teacher = data.teacher and Teacher(
            data.teacher, data.captions, self._groups, options.seed
        )
        # One for telling captions apart, and one for imitating the teacher.
        self._log_scales = [
            tf.Variable(math.log(1 / _INITIAL_TEMPERATURE))
            for _ in range(2 if self._teacher else 1)
        ]
        self._variables = [*self._text.variables, *self._image.variables, *self._log_scales]
        self._steps = max(1, len(self._groups) // options.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(
            options.learning_rate, options.epochs * self._steps
        )
        self._optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4)
        self._optimizer.build(self._variables)
        self._step = tf.function(self._run_step, reduce_retracing=True)
        self._encode = tf.function(self._text.encode, reduce_retracing=True)

    def tensors(self) -> dict[str, npt.NDArray[np.float16]]:
        """Returns the tables that ``LearnedEncoder`` reads."""
        return self._text.tensors() | self._image.tensors()

    def run_epoch(self, epoch: int) -> float:
        """Passes over all images once, and returns the mean loss of the steps."""
        random = np.random.default_rng([self._options.seed, epoch])
        order = random.permutation(len(self._groups))
        if epoch:
            chunk = max(1, self._options.batch_size // _CHUNKS)
            order = order_by_similarity(
                self._mean_vectors(), clusters=_CLUSTERS, chunk=chunk, random=random
            )
        pictures = self._picture_batches(random)
        size = self._options.batch_size
        steps = max(1, len(order) // size)
        total = 0.0
        for number in range(steps):
            first, second = self._groups.draw_pairs(
                order[number * size : (number + 1) * size], random
            )
            replaced = self._replacer.replace(first, random)
            picture = next(pictures)
            views = random.integers(len(self._features), size=len(picture))
            features = self._features[views, picture]
            seed = np.array([self._options.seed, epoch * self._steps + number], np.int64)
            described = self._groups.draw_pairs(picture, random)
            taught = self._teacher.draw(_TAUGHT_IMAGES, random) if self._teacher else None
            total += float(self._step((first, second, replaced), features, described, taught, seed))
        return total / steps

    def _picture_batches(self, random: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
        """Yields batches of images with features, over and over again."""
        size = min(self._options.batch_size, self._features.shape[1])
        while True:
            order = random.permutation(self._features.shape[1])
            for start in range(0, len(order) - size + 1, size):
                yield order[start : start + size]

    def _mean_vectors(self) -> npt.NDArray[np.float32]:
        """Returns the mean of each image's first two captions: float32 unit rows [images, dim]."""
        starts = self._groups.starts[:-1]
        vectors = np.concatenate(
            [
                self._encode(self._groups.words[rows]).numpy()
                + self._encode(self._groups.words[rows + 1]).numpy()
                for rows in np.split(starts, range(_ENCODING_BATCH, len(starts), _ENCODING_BATCH))
            ]
        )
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def _run_step(
        self,
        texts: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        features: tf.Tensor,
        described: tuple[tf.Tensor, tf.Tensor],
        taught: TaughtBatch | None,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Changes the weights by one step and returns the loss.

        Args:
          texts: Two captions of each image of a batch, and the first with a word replaced; each
            int32 [images, words].
          features: float32 [pictures, FEATURE_DIM].
          described: Two captions of each picture, each int32 [pictures, words].
          taught: Captions and what the teacher makes of them, if there is one.
          seed: int64 [2], the seed of everything that is dropped.
        """
        with tf.GradientTape() as tape:
            loss = self._text_loss(*texts, seed) + self._image_loss(features, *described, seed)
            if taught is not None:
                loss += _TEACHER_WEIGHT * self._teacher_loss(*taught, seed)
        gradients = tape.gradient(loss, self._variables)
        self._optimizer.apply(list(map(tf.convert_to_tensor, gradients)), self._variables)
        return loss

    def _text_loss(
        self, first: tf.Tensor, second: tf.Tensor, replaced: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the mean loss of captions among themselves; see ``_run_step``."""
        words = tf.concat([first, second, replaced], axis=0)
        vectors, partners, others = tf.split(self._text.encode(words, seed), 3)
        is_replaced = tf.cast(tf.reduce_any(tf.not_equal(first, replaced), axis=1), tf.float32)
        cosines = tf.reduce_sum(vectors * others, axis=1)
        excess = tf.nn.relu(cosines - _REPLACED_COSINE) * is_replaced
        return self._info_nce(vectors, partners) + _REPLACED_WEIGHT * tf.reduce_mean(excess)

    def _teacher_loss(self, words: tf.Tensor, vectors: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns how far the similarities of captions are from the teacher's, in nats.

        The similarities of a caption to the others become probabilities; the loss is their mean
        divergence from the teacher's.

        Args:
          words: int32 [captions, words].
          vectors: float32 unit rows [captions, teacher's dim].
          seed: int64 [2], the seed of the dropped words.
        """
        own = self._text.encode(words, tf.random.experimental.stateless_fold_in(seed, 4))
        is_self = _SELF * tf.eye(tf.shape(words)[0])
        wanted = tf.matmul(vectors, vectors, transpose_b=True) / _TEACHER_TEMPERATURE - is_self
        given = tf.matmul(own, own, transpose_b=True) * tf.exp(self._log_scales[1]) - is_self
        difference = tf.nn.log_softmax(wanted) - tf.nn.log_softmax(given)
        return tf.reduce_mean(tf.reduce_sum(tf.nn.softmax(wanted) * difference, axis=1))

    def _image_loss(
        self, features: tf.Tensor, first: tf.Tensor, second: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Returns the mean loss between images and their captions; see ``_run_step``."""
        seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in (2, 3)]
        images = self._image.encode(features, seeds[0])
        texts = tf.split(self._text.encode(tf.concat([first, second], axis=0), seeds[1]), 2)
        return tf.add_n([self._info_nce(images, text) for text in texts]) / 2

    def _info_nce(self, rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Returns the mean loss of finding each row's partner among the others, and vice versa.

        Args:
          rows: float32 unit rows [batch, dim].
          others: float32 unit rows [batch, dim]; the partner of a row has the same number.
        """
        logits = tf.matmul(rows, others, transpose_b=True) * tf.exp(self._log_scales[0])
        partners = tf.range(tf.shape(logits)[0])
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(partners, direction)
            for direction in (logits, tf.transpose(logits))
        ]
        return tf.reduce_mean(tf.add_n(losses))
