"""The captioner's network: an LSTM over words that attends over the cells of an image.

The LSTM runs over the words first and attention follows (Luong et al. 2015,
https://arxiv.org/abs/1508.04025, section 3). Attention uses several heads of scaled dot products
(Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2). The whole teacher-forced
sequence is therefore one call of the LSTM and a few matrix products. Whatever depends on the image
alone is computed once per image, and the image's captions in training, or its hypotheses in search,
share it.
"""

from __future__ import annotations

from typing import NamedTuple

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.process.tensorflow_setup import keras, tf

# The numbers of the dropout layers. Each derives its own seed from its number.
_DROP_POOLED = 0
_DROP_CELLS = 1
_DROP_EMBEDDING = 2
_DROP_OUTPUT = 3


class ImageState(NamedTuple):
    """The information that the decoder needs about a batch of images.

    Args:
      keys: float32 [batch, cells, units], the attention keys of the cells.
      values: float32 [batch, cells, units], the attention values of the cells.
      hidden: float32 [batch, units], the first hidden state of the LSTM.
      cell: float32 [batch, units], the first cell state of the LSTM.
    """

    keys: tf.Tensor
    values: tf.Tensor
    hidden: tf.Tensor
    cell: tf.Tensor


class DecoderStep(NamedTuple):
    """The result of advancing all hypotheses by one word.

    Args:
      scores: float32 [batch, beams, vocabulary], the logits or log-probabilities of the next word.
      hidden: float32 [batch, beams, units], the new hidden state of the LSTM.
      cell: float32 [batch, beams, units], the new cell state of the LSTM.
    """

    scores: tf.Tensor
    hidden: tf.Tensor
    cell: tf.Tensor


class Captioner(keras.Model):
    """An LSTM decoder with attention over image features.

    The output layer shares its weights with the word embeddings (Press and Wolf 2017,
    https://arxiv.org/abs/1608.05859).

    Args:
      config: The sizes of the network.
      seed: The seed of the initial weights.
      precision: ``float32``, or ``bfloat16`` to compute in bfloat16 while the weights and the
        logits stay float32.
    """

    def __init__(self, config: CaptionerConfig, seed: int = 0, precision: str = "float32") -> None:
        policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
        super().__init__(name="captioner", dtype=policy)
        self.config = config
        seeds = keras.random.SeedGenerator(seed)
        self._seeds = seeds

        def dense(units: int, name: str, activation: str | None = None) -> keras.layers.Dense:
            """Returns a dense layer with Glorot-uniform weights."""
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
        self._build_layers()

    def _build_layers(self) -> None:
        """Creates every weight now, so that a file can fill the network before its first use."""
        config = self.config
        self.embedding.build((None, None))
        self.lstm.build((None, None, config.embedding_dim))
        self.normalise.build((None, config.cell_dim))
        self.cell_features.build((None, config.cell_dim))
        for layer in (self.first_hidden, self.first_cell, self.keys, self.values, self.queries):
            layer.build((None, config.units))
        self.output_hidden.build((None, 2 * config.units))
        self.positions = self.add_weight(
            shape=(config.cell_count, config.units),
            initializer=keras.initializers.RandomNormal(0.0, 0.02, self._seeds),
            name="positions",
        )
        self.output_bias = self.add_weight(
            shape=(config.vocabulary_size,), initializer="zeros", name="output_bias"
        )
        self.built = True

    def named_weights(self) -> dict[str, keras.Variable]:
        """Returns every weight by its name in a model folder."""
        return {weight.path: weight for weight in self.trainable_variables}

    def _drop(self, tensor: tf.Tensor, layer: int, seed: tf.Tensor | None) -> tf.Tensor:
        """Returns the tensor after dropout, or the tensor itself without a seed.

        The dropped values depend on the seed alone, so that a repeated step drops the same values.
        """
        if seed is None or not self.config.dropout:
            return tensor
        seed = tf.random.experimental.stateless_fold_in(seed, layer)
        return tf.nn.experimental.stateless_dropout(tensor, self.config.dropout, seed)

    def encode(self, cells: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> ImageState:
        """Returns what the decoder needs to know of each image.

        Args:
          cells: float32 [batch, cells, cell_dim]; see ``attended_cells``.
          dropout_seed: int [2], the seed of the dropped values. None drops nothing.
        """
        cells = self._drop(self.normalise(cells), _DROP_CELLS, dropout_seed)
        projected = self.cell_features(cells)
        # The features of a cell do not tell where it lies, so each position adds a learned vector.
        projected += tf.cast(self.positions, projected.dtype)
        pooled = self._drop(tf.reduce_mean(projected, axis=1), _DROP_POOLED, dropout_seed)
        return ImageState(
            self.keys(projected),
            self.values(projected),
            self.first_hidden(pooled),
            self.first_cell(pooled),
        )

    def teacher_forced(
        self,
        state: ImageState,
        words: tf.Tensor,
        present: tf.Tensor,
        dropout_seed: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the logits of each next word, given the true words before it.

        Args:
          state: What ``encode`` returned for the images.
          words: int32 [batch, captions, steps]. PAD occurs only at the end of a caption.
          present: bool [batch, captions, steps], the steps whose logits are wanted. The product
            with the vocabulary is the largest of all, so it is not computed for padding.
          dropout_seed: int [2], the seed of the dropped values. None drops nothing.

        Returns:
          float32 [wanted steps, vocabulary].
        """
        batch, captions, steps = tf.unstack(tf.shape(words))
        embedded = self._drop(self.embedding(words), _DROP_EMBEDDING, dropout_seed)
        flat = tf.reshape(embedded, [batch * captions, steps, self.config.embedding_dim])
        first = [tf.repeat(part, captions, axis=0) for part in (state.hidden, state.cell)]
        hidden = tf.reshape(
            self.lstm(flat, initial_state=first), [batch, captions, steps, self.config.units]
        )
        context = self._attend(state, hidden)
        joined = tf.boolean_mask(tf.concat([hidden, context], axis=-1), present)
        return self._logits(joined, dropout_seed)

    def step(
        self, state: ImageState, words: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
    ) -> DecoderStep:
        """Advances all hypotheses by one word; the scores are log-probabilities.

        Args:
          state: What ``encode`` returned for the images.
          words: int32 [batch, beams], the last word of each hypothesis.
          hidden: float32 [batch, beams, units], the hidden state of the LSTM.
          cell: float32 [batch, beams, units], the cell state of the LSTM.
        """
        step = self.step_logits(state, words, hidden, cell)
        return step._replace(scores=tf.nn.log_softmax(step.scores))

    def step_logits(
        self, state: ImageState, words: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor
    ) -> DecoderStep:
        """Advances all hypotheses by one word like ``step``; the scores are logits."""
        batch, beams = tf.unstack(tf.shape(words))
        flat = tf.reshape(self.embedding(words), [batch * beams, self.config.embedding_dim])
        previous = [tf.reshape(part, [batch * beams, self.config.units]) for part in (hidden, cell)]
        _, states = self.lstm.cell(flat, previous, training=False)
        hidden, cell = (tf.reshape(part, [batch, beams, self.config.units]) for part in states)
        context = self._attend(state, hidden[:, :, tf.newaxis])[:, :, 0]
        return DecoderStep(self._logits(tf.concat([hidden, context], axis=-1), None), hidden, cell)

    def _logits(self, joined: tf.Tensor, dropout_seed: tf.Tensor | None) -> tf.Tensor:
        """Returns the logits of the next word.

        Args:
          joined: float [..., 2 * units], hidden state and context side by side.
          dropout_seed: int [2], or None.

        Returns:
          float32 [..., vocabulary].
        """
        output = self._drop(self.output_hidden(joined), _DROP_OUTPUT, dropout_seed)
        table = tf.cast(self.embedding.embeddings, output.dtype)
        # The gradient of einsum takes fifty times as long when the number of rows is not known.
        flat = tf.matmul(
            tf.reshape(output, [-1, self.config.embedding_dim]), table, transpose_b=True
        )
        shape = tf.concat([tf.shape(output)[:-1], [self.config.vocabulary_size]], axis=0)
        return tf.cast(tf.reshape(flat, shape), tf.float32) + self.output_bias

    def _attend(self, state: ImageState, hidden: tf.Tensor) -> tf.Tensor:
        """Returns the context of each hidden state: the mean of the cells that it attends to.

        Args:
          state: What ``encode`` returned for the images.
          hidden: float [batch, captions, steps, units].

        Returns:
          float [batch, captions, steps, units].
        """
        heads = self.config.heads
        width = self.config.units // heads

        def split_heads(tensor: tf.Tensor) -> tf.Tensor:
            """Returns [..., heads, width] of a tensor [..., units]."""
            return tf.reshape(tensor, tf.concat([tf.shape(tensor)[:-1], [heads, width]], axis=0))

        queries = split_heads(self.queries(hidden))
        scores = tf.einsum("bcthd,bghd->bcthg", queries, split_heads(state.keys))
        weights = tf.nn.softmax(tf.cast(scores, tf.float32) / width**0.5)
        context = tf.einsum(
            "bcthg,bghd->bcthd", tf.cast(weights, hidden.dtype), split_heads(state.values)
        )
        return tf.reshape(context, tf.shape(hidden))
