"""Trains the learned encoder: captions and images in one space.

Two captions of one image, and the image, are pulled together; those of the other images of the
batch are pushed away (InfoNCE, van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, with
images as in Radford et al. 2021, https://arxiv.org/abs/2103.00020). A caption is a sum of word
vectors: each starts as a learned map of spaCy's vector, so that words never seen in training
have a place too, and is then free to move.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.saved_model import is_earlier_folder
from captioner_core.errors import CheckFailed
from captioner_core.io import outputs
from captioner_core.options import TrainEncoderOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.encoders.learned import CONFIG, FORMAT_VERSION, MODEL_CARD, WEIGHTS, WORDS
from captioner_core.text.encoders.spacy_vectors import load_vectors
from captioner_core.text.vocabulary import tokenize

FILES = (WEIGHTS, WORDS, MODEL_CARD, CONFIG)
KIND = "encoder"
_MOST_WORDS = 24  # of a caption, in training
_LEAST_CAPTIONS = 2  # that a word must stand in to have a vector of its own
_WORD_DROPOUT = 0.1
_FEATURE_DROPOUT = 0.3
_TEMPERATURE = 0.05  # to start from
_WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class JointData:
    """Captions and features of the training images.

    Args:
      captions: of each image, all as many as the first.
      features: float32 [views, images, 2048], unit rows times ``FEATURE_SCALE``.
      backbone: that made them.
    """

    captions: Sequence[Sequence[str]]
    features: npt.NDArray[np.float32]
    backbone: str


class JointModel:
    """The weights of both sides.

    Args:
      counts: how many captions each word stands in, most frequent first.
      captions: how many captions there are.
      options: sizes and seed.
    """

    def __init__(
        self, counts: Mapping[str, int], captions: int, options: TrainEncoderOptions
    ) -> None:
        vectors = load_vectors()
        start = keras.initializers.GlorotUniform(options.seed)
        self.words = tuple(counts)
        table = np.zeros(
            (len(counts) + 1, vectors.dim), np.float32
        )  # the last row stands for no word
        for row, word in enumerate(self.words):
            vector = vectors.unit_vector(word)
            table[row] = 0 if vector is None else vector
        self._spacy = tf.constant(table)
        rarity = [0.5 * math.log(captions / (count + 10)) - 1 for count in counts.values()]
        self._weights = tf.Variable(np.array([*rarity, -20.0], np.float32))
        self._map = tf.Variable(start((vectors.dim, options.dim)))
        self._free = tf.Variable(tf.zeros([len(counts) + 1, options.dim]))
        self._hidden = tf.Variable(start((2048, options.hidden)))
        self._hidden_bias = tf.Variable(tf.zeros([options.hidden]))
        self._output = tf.Variable(start((options.hidden, options.dim)))
        self._output_bias = tf.Variable(tf.zeros([options.dim]))
        self._log_scale = tf.Variable(math.log(1 / _TEMPERATURE))

    @property
    def variables(self) -> list[tf.Variable]:
        return [value for value in vars(self).values() if isinstance(value, tf.Variable)]

    def _texts(self, words: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Unit rows [batch, dim] of captions int32 [batch, words]."""
        kept = tf.random.stateless_uniform(tf.shape(words), seed) >= _WORD_DROPOUT
        weights = tf.nn.softplus(tf.gather(self._weights, words)) * tf.cast(kept, tf.float32)
        vectors = tf.gather(self._spacy, words) @ self._map + tf.gather(self._free, words)
        return tf.math.l2_normalize(
            tf.reduce_sum(vectors * weights[:, :, tf.newaxis], axis=1), axis=1
        )

    def _images(self, features: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Unit rows [batch, dim] of features [batch, 2048]."""
        seeds = [tf.random.experimental.stateless_fold_in(seed, place) for place in range(2)]
        dropped = tf.nn.experimental.stateless_dropout(features, _FEATURE_DROPOUT, seeds[0])
        hidden = tf.nn.relu(dropped @ self._hidden + self._hidden_bias)
        hidden = tf.nn.experimental.stateless_dropout(hidden, _FEATURE_DROPOUT, seeds[1])
        return tf.math.l2_normalize(hidden @ self._output + self._output_bias, axis=1)

    def loss(
        self, one: tf.Tensor, other: tf.Tensor, features: tf.Tensor, seed: tf.Tensor
    ) -> tf.Tensor:
        """Mean InfoNCE of two captions of each image and the image, in both directions."""
        seeds = [tf.random.experimental.stateless_fold_in(seed, place) for place in range(3)]
        first, second = self._texts(one, seeds[0]), self._texts(other, seeds[1])
        images = self._images(features, seeds[2])
        return (
            self._apart(first, second)
            + (self._apart(images, first) + self._apart(images, second)) / 2
        )

    def _apart(self, one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        logits = tf.matmul(one, other, transpose_b=True) * tf.exp(self._log_scale)
        wanted = tf.range(tf.shape(logits)[0])
        directions = (logits, tf.transpose(logits))
        losses = [tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, way) for way in directions]
        return tf.reduce_mean(tf.add_n(losses))

    def tensors(self) -> dict[str, npt.NDArray[np.float16]]:
        """The tables that ``Learned`` reads: each word's weight is multiplied into its vector."""
        weights = tf.nn.softplus(self._weights)
        words = (self._spacy @ self._map + self._free) * weights[:, tf.newaxis]
        # a word never seen weighs what the rarest ones do
        unseen = self._map * float(np.quantile(weights[:-1].numpy(), 0.9))
        named = {
            "words": words[:-1],
            "unseen": unseen,
            "image_hidden": self._hidden,
            "image_hidden_bias": self._hidden_bias,
            "image_output": self._output,
            "image_output_bias": self._output_bias,
        }
        return {name: np.asarray(tensor.numpy(), np.float16) for name, tensor in named.items()}


def count_words(captions: Sequence[Sequence[str]]) -> dict[str, int]:
    """In how many captions each word stands, the most frequent first, ties by spelling; rare ones left out."""
    counts = Counter(
        word for listed in captions for caption in listed for word in set(tokenize(caption))
    )
    kept = sorted(
        (word for word, count in counts.items() if count >= _LEAST_CAPTIONS),
        key=lambda w: (-counts[w], w),
    )
    return {word: counts[word] for word in kept}


def train_joint(
    data: JointData, options: TrainEncoderOptions
) -> tuple[JointModel, dict[str, int], list[float]]:
    """Fits both sides.

    Returns:
      The model, the words' counts, and the mean loss of each epoch.

    Raises:
      CheckFailed: the loss is not a number.
    """
    counts = count_words(data.captions)
    model = JointModel(counts, sum(map(len, data.captions)), options)
    rows = {word: row for row, word in enumerate(model.words)}
    words = [[_encoded(caption, rows) for caption in listed] for listed in data.captions]
    images = len(words)
    steps = max(1, images // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, options.epochs * steps)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=_WEIGHT_DECAY)
    optimizer.build(model.variables)

    @tf.function(reduce_retracing=True)
    def step(one: tf.Tensor, other: tf.Tensor, features: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = model.loss(one, other, features, seed)
        optimizer.apply(tape.gradient(loss, model.variables), model.variables)
        return loss

    history = []
    for epoch in range(options.epochs):
        random = np.random.default_rng([options.seed, epoch])
        order, total = random.permutation(images), 0.0
        for number in range(steps):
            batch = order[number * options.batch_size : (number + 1) * options.batch_size]
            pairs = np.array(
                [random.choice(len(words[image]), 2, replace=False) for image in batch]
            )
            one, other = (
                np.stack([words[i][p] for i, p in zip(batch, pairs[:, side], strict=True)])
                for side in (0, 1)
            )
            view = random.integers(len(data.features), size=len(batch))
            seed = np.array([options.seed, epoch * steps + number], np.int64)
            total += float(step(one, other, data.features[view, batch], seed))
        history.append(total / steps)
        if not math.isfinite(history[-1]):
            raise CheckFailed(
                f"loss is {history[-1]} in epoch {epoch + 1}; nothing was written, lower --learning-rate"
            )
    return model, counts, history


def _encoded(caption: str, rows: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """int32 [_MOST_WORDS]: the caption's known words, then the row that stands for none."""
    known = [rows[word] for word in tokenize(caption) if word in rows][:_MOST_WORDS]
    return np.array(known + [len(rows)] * (_MOST_WORDS - len(known)), np.int32)


def check_encoder_output(folder: str, inputs: outputs.Inputs | None = None) -> None:
    """Refuses, before any work, a folder in which no encoder may be written; changes nothing.

    Raises:
      CaptionerError: see ``outputs.check_output_folder``.
    """
    outputs.check_output_folder(folder, kind=KIND, inputs=inputs, adopt=_earlier_encoder)


def _earlier_encoder(folder: Path) -> set[str] | None:
    """Returns the files of an encoder that a version without markers made; None for any other folder."""
    is_earlier = is_earlier_folder(
        folder, FILES, CONFIG, ("format_version", "dim", "backbone", "calibration")
    )
    return set(FILES) if is_earlier else None


def save_encoder(
    folder: str,
    tensors: Mapping[str, npt.NDArray[np.float16]],
    counts: Mapping[str, int],
    captions: int,
    backbone: str,
    calibration: Calibration,
    card: str,
) -> None:
    """Writes an encoder's folder whole or not at all, replacing an encoder that is there.

    A process that is killed meanwhile leaves the old encoder, or a folder without config.json, which is
    no encoder. ``card`` is its model card.

    Raises:
      CaptionerError: the folder holds files that captioner did not make.
    """
    config = {
        "format_version": FORMAT_VERSION,
        "dim": int(tensors["words"].shape[1]),
        "backbone": backbone,
        "calibration": calibration.to_json(),
    }
    output = outputs.OutputFolder.claim(folder, kind=KIND, adopt=_earlier_encoder)
    np.savez_compressed(output.stage(WEIGHTS), allow_pickle=False, **tensors)
    listed: dict[str, Any] = {"captions": captions, "words": counts}
    output.stage(WORDS).write_text(
        json.dumps(listed, ensure_ascii=False, indent=0) + "\n", encoding="utf-8"
    )
    output.stage(CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    output.stage(MODEL_CARD).write_text(card, encoding="utf-8")
    output.publish(FILES, completion_file=CONFIG)
