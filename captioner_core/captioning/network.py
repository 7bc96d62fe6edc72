"""The network: an LSTM over words that attends over the cells of the image's feature map.

The LSTM runs over the words first and attention follows (Luong et al. 2015,
https://arxiv.org/abs/1508.04025), with several heads of scaled dot products
(Vaswani et al. 2017, section 3.2). So the whole teacher-forced sequence is one call of the
LSTM and a few matrix products. What depends on the image alone is computed once an image and
shared by its captions in training and by its hypotheses in search.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.tables.schemas import GRID_CELLS

_DROP_FIRST, _DROP_CELLS, _DROP_EMBEDDING, _DROP_OUTPUT = range(4)


class ImageState(NamedTuple):
    """What the decoder needs to know of a batch of images.

    ``keys`` and ``values`` are float32 [batch, cells, units]; ``hidden`` and ``cell``, the
    first state of the LSTM, are float32 [batch, units].
    """

    keys: tf.Tensor
    values: tf.Tensor
    hidden: tf.Tensor
    cell: tf.Tensor


class Captioner(keras.Model):
    """LSTM decoder with attention over Xception features, output tied to the embeddings.

    Args:
      config: the sizes.
      seed: of the initial weights.
      precision: ``float32``, or ``bfloat16`` to compute in that while weights and logits stay float32.
    """

    def __init__(self, config: CaptionerConfig, seed: int = 0, precision: str = "float32") -> None:
        policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
        super().__init__(name="captioner", dtype=policy)
        self.config = config
        seeds = keras.random.SeedGenerator(seed)
        self._seeds = seeds

        def dense(units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
            kernel = keras.initializers.GlorotUniform(seeds)
            return keras.layers.Dense(
                units, activation=activation, kernel_initializer=kernel, name=name, dtype=policy
            )

        self.embedding = keras.layers.Embedding(
            config.vocabulary_size,
            config.embedding_dim,
            embeddings_initializer=keras.initializers.RandomUniform(-0.1, 0.1, seeds),
            name="embedding",
            dtype=policy,
        )

        self.lstm = keras.layers.LSTM(
            config.units,
            return_sequences=True,
            kernel_initializer=keras.initializers.GlorotUniform(seeds),
            recurrent_initializer=keras.initializers.Orthogonal(seed=seeds),
            name="lstm",
            dtype=policy,
        )
        self.first_hidden = dense(config.units, "first_hidden", "tanh")
        self.first_cell = dense(config.units, "first_cell")
        self.cell_features = dense(config.units, "cell_features", "relu")
        self.normalise = keras.layers.LayerNormalization(name="normalise", dtype=policy)
        self.keys = dense(config.units, "keys")
        self.values = dense(config.units, "values")
        self.queries = dense(config.units, "queries")
        self.output_hidden = dense(config.embedding_dim, "output_hidden", "tanh")
        self._build_all()

    def _build_all(self) -> None:
        """Makes every weight now, so that a model can be filled from a file before its first use."""
        config = self.config
        self.embedding.build((None, None))
        self.lstm.build((None, None, config.embedding_dim))
        self.normalise.build((None, config.cell_dim))
        self.cell_features.build((None, config.cell_dim))
        for layer in (self.first_hidden, self.first_cell, self.keys, self.values, self.queries):
            layer.build((None, config.units))
        self.output_hidden.build((None, 2 * config.units))
        self.positions = self.add_weight(
            shape=(config.cells, config.units),
            initializer=keras.initializers.RandomNormal(0.0, 0.02, self._seeds),
            name="positions",
        )
        self.output_bias = self.add_weight(
            shape=(config.vocabulary_size,), initializer="zeros", name="output_bias"
        )
        self.built = True

    def named_weights(self) -> dict[str, keras.Variable]:
        """Every weight by its name in a model folder."""
        return {weight.path: weight for weight in self.trainable_variables}

    def _drop(self, tensor: tf.Tensor, place: int, seed: tf.Tensor | None) -> tf.Tensor:
        """Dropout that depends on the seed alone, so that a step done again drops the same values."""
        if seed is None or not self.config.dropout:
            return tensor
        seed = tf.random.experimental.stateless_fold_in(seed, place)
        return tf.nn.experimental.stateless_dropout(tensor, self.config.dropout, seed)

    def encode(self, cells: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> ImageState:
        """What the decoder needs of each image.

        Args:
          cells: float32 [batch, cells, cell_dim]; see ``attended_cells``.
          dropout_seed: int32 [2], of the values dropped; no dropout where None.
        """
        cells = self._drop(self.normalise(cells), _DROP_CELLS, dropout_seed)
        projected = self.cell_features(cells)
        projected += tf.cast(
            self.positions, projected.dtype
        )  # where a cell lies is not in its features
        whole = self._drop(tf.reduce_mean(projected, axis=1), _DROP_FIRST, dropout_seed)
        return ImageState(
            self.keys(projected),
            self.values(projected),
            self.first_hidden(whole),
            self.first_cell(whole),
        )

    def teacher_forced(
        self,
        state: ImageState,
        words: tf.Tensor,
        present: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Logits of each next word, given the words before it.

        Args:
          state: of the images.
          words: int32 [batch, captions, steps]; PAD only at the end of a caption.
          present: bool [batch, captions, steps], the steps whose logits are wanted.
          dropout_seed: int32 [2], of the values dropped; no dropout where None.

        Returns:
          float32 [wanted steps, vocabulary]: the vocabulary is the widest product of all, so
          none is made for the end of short captions.
        """
        batch, captions, steps = tf.unstack(tf.shape(words))
        embedded = self._drop(self.embedding(words), _DROP_EMBEDDING, dropout_seed)
        flat = tf.reshape(embedded, [batch * captions, steps, self.config.embedding_dim])
        first = [tf.repeat(state.hidden, captions, axis=0), tf.repeat(state.cell, captions, axis=0)]
        hidden = tf.reshape(
            self.lstm(flat, initial_state=first), [batch, captions, steps, self.config.units]
        )
        joined = tf.boolean_mask(tf.concat([hidden, self._attend(state, hidden)], axis=-1), present)
        return self._logits(joined, dropout_seed)

    def step(
        self, state: ImageState, words: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """One step of all hypotheses.

        Args:
          state: of the images.
          words: int32 [batch, beams], the last word of each hypothesis.
          hidden: float32 [batch, beams, units].
          cell: float32 [batch, beams, units].

        Returns:
          Log-probabilities float32 [batch, beams, vocabulary], then the new hidden and cell.
        """
        logits, hidden, cell = self.step_logits(state, words, hidden, cell)
        return tf.nn.log_softmax(logits), hidden, cell

    def step_logits(
        self, state: ImageState, words: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """``step`` with logits in the place of log-probabilities."""
        batch, beams = tf.unstack(tf.shape(words))
        flat = tf.reshape(self.embedding(words), [batch * beams, self.config.embedding_dim])
        previous = [tf.reshape(part, [batch * beams, self.config.units]) for part in (hidden, cell)]
        _, states = self.lstm.cell(flat, previous, training=False)
        hidden, cell = (tf.reshape(part, [batch, beams, self.config.units]) for part in states)
        context = self._attend(state, hidden[:, :, tf.newaxis])[:, :, 0]
        return self._logits(tf.concat([hidden, context], axis=-1), None), hidden, cell

    def _logits(self, joined: tf.Tensor, dropout_seed: tf.Tensor | None) -> tf.Tensor:
        """float32 [..., vocabulary] of hidden state and context side by side."""
        output = self._drop(self.output_hidden(joined), _DROP_OUTPUT, dropout_seed)
        table = tf.cast(self.embedding.embeddings, output.dtype)
        # not einsum, whose gradient takes fifty times as long where the number of rows is not known
        flat = tf.matmul(
            tf.reshape(output, [-1, self.config.embedding_dim]), table, transpose_b=True
        )
        logits = tf.reshape(
            flat, tf.concat([tf.shape(output)[:-1], [self.config.vocabulary_size]], axis=0)
        )
        return tf.cast(logits, tf.float32) + self.output_bias

    def _attend(self, state: ImageState, hidden: tf.Tensor) -> tf.Tensor:
        """Context float32 [batch, captions, steps, units] for hidden states of that shape."""
        heads, width = self.config.heads, self.config.units // self.config.heads

        def split(tensor: tf.Tensor) -> tf.Tensor:
            return tf.reshape(tensor, tf.concat([tf.shape(tensor)[:-1], [heads, width]], axis=0))

        scores = tf.einsum("bcthd,bghd->bcthg", split(self.queries(hidden)), split(state.keys))
        weights = tf.nn.softmax(tf.cast(scores, tf.float32) / width**0.5)
        context = tf.einsum(
            "bcthg,bghd->bcthd", tf.cast(weights, hidden.dtype), split(state.values)
        )
        return tf.reshape(context, tf.shape(hidden))


def attended_cells(grid: npt.NDArray[Any], config: CaptionerConfig) -> npt.NDArray[Any]:
    """The cells that a model attends over.

    Args:
      grid: float [batch, 25 * cell_dim] or [batch, 25, cell_dim]; see ``Backbone.features``.
      config: of the model.

    Returns:
      float [batch, cells, cell_dim]: the grid's, or their average alone.
    """
    cells = grid.reshape(len(grid), GRID_CELLS, config.cell_dim)
    return (
        cells if config.attention == "grid" else cells.mean(axis=1, keepdims=True, dtype=np.float32)
    )
