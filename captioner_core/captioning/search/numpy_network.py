"""The captioner's network in NumPy, arranged for search on a processor.

It computes what ``Captioner`` and ``Ensemble`` compute. The members of an ensemble are stacked in
the first dimension of every array. A row is a hypothesis, and only hypotheses that still grow are
rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.saved_model import LoadedModel

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

MAX_TABLE_BYTES = 1 << 28
"""Largest size of the table of the LSTM's input for each word, 31 MB for the package's model."""
_MAX_EXPONENT = 80.0  # The exponential of a larger float32 may overflow.
_NORMALISE_EPSILON = 1e-3  # The epsilon of the Keras layer.


class LstmState(NamedTuple):
    """The state of the LSTM.

    Args:
      hidden: float32 [members, rows, units].
      cell: float32 [members, rows, units].
    """

    hidden: Float32
    cell: Float32


class EncodedImages(NamedTuple):
    """The inputs of the decoder for a batch of images.

    Args:
      keys: float32 [members, batch, heads, cells, width], the attention keys of the cells.
      values: float32 [members, batch, heads, cells, width], the attention values of the cells.
      state: The first state of the LSTM, with one row for each image.
    """

    keys: Float32
    values: Float32
    state: LstmState


class Rows(NamedTuple):
    """The hypotheses that grow by one word.

    Args:
      image: int64 [rows], the image of each hypothesis.
      slot: int64 [rows], the number of the hypothesis among those of its image.
      parent: int64 [rows], the row of the state before that the hypothesis continues.
      last_word: int64 [rows], the last word of the hypothesis.
    """

    image: Int64
    slot: Int64
    parent: Int64
    last_word: Int64


class NumpyNetwork:
    """The weights of a captioner.

    Args:
      model: The captioner.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.config = model.config
        tensors = _StackedTensors(model)
        self._positions = tensors["captioner/positions"]
        self._cell_kernel, self._cell_bias = _merge_cell_layers(tensors)
        self._first_hidden = tensors.layer("first_hidden")
        self._first_cell = tensors.layer("first_cell")
        self._keys = tensors.layer("keys")
        self._values = tensors.layer("values")
        queries = tensors.layer("queries")
        # The scale of attention, 1 / sqrt(width of a head), becomes part of the queries.
        scale = np.float32((self.config.heads / self.config.units) ** 0.5)
        self._queries = _Layer(queries.kernel * scale, queries.bias * scale)
        self._output_hidden = tensors.layer("output_hidden")
        self._load_lstm(tensors)
        self._load_vocabulary(tensors)

    def _load_lstm(self, tensors: _StackedTensors) -> None:
        """Arranges the gates as input, forget, output, candidate; Keras has the output last.

        A sigmoid is computed as (tanh(x / 2) + 1) / 2, so that one call computes all gates.
        """

        def arrange(weights: Float32) -> Float32:
            """Returns weights whose last dimension has the gates in the new order."""
            entry, forget, candidate, output = np.split(weights, 4, axis=-1)
            return np.concatenate([entry / 2, forget / 2, output / 2, candidate], axis=-1)

        self._embeddings = tensors["embedding/embeddings"]
        self._input = _Layer(
            arrange(tensors["lstm/lstm_cell/kernel"]),
            arrange(tensors["lstm/lstm_cell/bias"][:, np.newaxis]),
        )
        self._recurrent = arrange(tensors["lstm/lstm_cell/recurrent_kernel"])
        table_bytes = 4 * self._embeddings.shape[1] * self._recurrent[:, 0].size
        is_small = table_bytes <= MAX_TABLE_BYTES
        self._gate_table = self._input.apply(self._embeddings) if is_small else None

    def _load_vocabulary(self, tensors: _StackedTensors) -> None:
        """Appends the output bias to the embeddings, as the weights of an input that is 1."""
        bias = tensors["captioner/output_bias"][:, np.newaxis]
        embeddings = tensors["embedding/embeddings"].swapaxes(1, 2)
        self._vocabulary = np.concatenate([embeddings, bias], axis=1)
        # All inputs of this layer lie between -1 and 1.
        largest_logit = np.abs(self._vocabulary).sum(axis=1).max()
        self._may_overflow = bool(largest_logit > _MAX_EXPONENT)

    def encode(self, cells: npt.NDArray[Any]) -> EncodedImages:
        """Returns what the decoder needs to know of each image.

        Args:
          cells: float [batch, cells, cell_dim]; see ``attended_cells``.
        """
        batch, count, cell_dim = cells.shape
        config = self.config
        centred = cells.reshape(batch * count, cell_dim).astype(np.float32)
        centred -= centred.mean(axis=1, keepdims=True)
        variance = np.vecdot(centred, centred)[:, np.newaxis] / cell_dim
        projected = centred @ self._cell_kernel
        projected /= np.sqrt(variance + np.float32(_NORMALISE_EPSILON))
        projected += self._cell_bias
        np.maximum(projected, 0, out=projected)
        by_member = projected.reshape(batch, count, config.members, config.units)
        features = by_member.transpose(2, 0, 1, 3) + self._positions[:, np.newaxis]
        pooled = features.mean(axis=2)
        hidden = np.tanh(self._first_hidden.apply(pooled))
        return EncodedImages(
            self._split_heads(self._keys, features),
            self._split_heads(self._values, features),
            LstmState(hidden, self._first_cell.apply(pooled)),
        )

    def _split_heads(self, layer: _Layer, features: Float32) -> Float32:
        """Returns a layer's outputs for all cells, float32 [members, batch, heads, cells, width].

        Args:
          layer: The layer.
          features: float32 [members, batch, cells, units].
        """
        members, batch, count, units = features.shape
        output = layer.apply(features.reshape(members, batch * count, units))
        heads = self.config.heads
        split = output.reshape(members, batch, count, heads, units // heads)
        return np.ascontiguousarray(split.transpose(0, 1, 3, 2, 4))

    def advance(
        self, images: EncodedImages, before: LstmState, rows: Rows
    ) -> tuple[Float32, LstmState]:
        """Advances hypotheses by one word.

        Args:
          images: What ``encode`` returned.
          before: The state of the LSTM before the hypotheses' last words.
          rows: The hypotheses.

        Returns:
          The mean of the members' probabilities of the next word, float32 [rows, vocabulary], and
          the new state of the LSTM.
        """
        units = self.config.units
        # Hidden state and context lie side by side, as the output layer needs them.
        joined = np.empty((self.config.members, len(rows.image), 2 * units), np.float32)
        hidden = joined[:, :, :units]
        cell = self._advance_lstm(before, rows, hidden)
        joined[:, :, units:] = self._attend(images, hidden, rows)
        return self._probabilities(joined), LstmState(hidden, cell)

    def _advance_lstm(self, before: LstmState, rows: Rows, hidden: Float32) -> Float32:
        """Writes the new hidden state into ``hidden``, and returns the new cell state."""
        units = self.config.units
        # Several hypotheses continue the same one, whose product is computed once.
        used, position = np.unique(rows.parent, return_inverse=True)
        products = before.hidden.take(used, axis=1) @ self._recurrent
        gates = products.take(position, axis=1)
        gates += self._word_gates(rows.last_word)
        np.tanh(gates, out=gates)
        sigmoids = gates[:, :, : 3 * units]
        sigmoids += 1
        sigmoids *= np.float32(0.5)
        entry, forget, output, candidate = np.split(gates, 4, axis=-1)
        cell = before.cell.take(rows.parent, axis=1)
        cell *= forget
        candidate *= entry
        cell += candidate
        np.tanh(cell, out=hidden)
        hidden *= output
        return cell

    def _word_gates(self, words: Int64) -> Float32:
        """Returns the part of the gates that depends on the last word alone."""
        if self._gate_table is not None:
            return self._gate_table.take(words, axis=1)
        return self._input.apply(self._embeddings.take(words, axis=1))

    def _attend(self, images: EncodedImages, hidden: Float32, rows: Rows) -> Float32:
        """Returns the context of each hypothesis, float32 [members, rows, units].

        The context is the mean of the cells that the hypothesis attends to.
        """
        members, batch, heads, count, width = images.keys.shape
        slots = int(rows.slot.max()) + 1
        queries = np.zeros((members, batch, slots, heads * width), np.float32)
        queries[:, rows.image, rows.slot] = self._queries.apply(hidden)
        by_head = queries.reshape(members, batch, slots, heads, width).transpose(0, 1, 3, 4, 2)
        # With the cells in the first dimension, each step of the softmax runs over long vectors.
        weights = np.empty((count, members, batch, heads, slots), np.float32)
        np.matmul(images.keys, by_head, out=weights.transpose(1, 2, 3, 0, 4))
        weights -= weights.max(axis=0)
        np.exp(weights, out=weights)
        weights /= weights.sum(axis=0)
        context = np.empty((members, batch, slots, heads, width), np.float32)
        np.matmul(
            weights.transpose(1, 2, 3, 4, 0), images.values, out=context.transpose(0, 1, 3, 2, 4)
        )
        return context.reshape(members, batch, slots, heads * width)[:, rows.image, rows.slot]

    def _probabilities(self, joined: Float32) -> Float32:
        """Returns the mean of the members' probabilities, float32 [rows, vocabulary].

        Args:
          joined: float32 [members, rows, 2 * units], hidden state and context side by side.
        """
        members, rows, _ = joined.shape
        inputs = np.ones((members, rows, self.config.embedding_dim + 1), np.float32)
        np.tanh(self._output_hidden.apply(joined), out=inputs[:, :, :-1])
        ones = np.ones(self._vocabulary.shape[2], np.float32)
        mean = np.empty((rows, len(ones)), np.float32)
        scratch = np.empty_like(mean)
        for number, vocabulary in enumerate(self._vocabulary):
            shares = scratch if number else mean
            np.matmul(inputs[number], vocabulary, out=shares)
            if self._may_overflow:
                shares -= shares.max(axis=1, keepdims=True)
            np.exp(shares, out=shares)
            # A product with ones is the fastest sum.
            shares *= 1 / (members * (shares @ ones)[:, np.newaxis])
            if number:
                mean += shares
        return mean


class _Layer(NamedTuple):
    """A dense layer of all members.

    Args:
      kernel: float32 [members, inputs, outputs].
      bias: float32 [members, 1, outputs].
    """

    kernel: Float32
    bias: Float32

    def apply(self, inputs: Float32) -> Float32:
        """Returns the outputs for inputs [members, rows, inputs]."""
        outputs = inputs @ self.kernel
        outputs += self.bias
        return outputs


class _StackedTensors:
    """The tensors of a model by name, those of all members stacked in the first dimension."""

    def __init__(self, model: LoadedModel) -> None:
        self._tensors = model.tensors
        self._members = model.config.members

    def __getitem__(self, name: str) -> Float32:
        if self._members == 1:
            return self._tensors[name][np.newaxis].astype(np.float32)
        tensors = [self._tensors[f"{number}/{name}"] for number in range(self._members)]
        return np.stack(tensors).astype(np.float32)

    def layer(self, name: str) -> _Layer:
        """Returns a dense layer."""
        return _Layer(self[f"{name}/kernel"], self[f"{name}/bias"][:, np.newaxis])


def _merge_cell_layers(tensors: _StackedTensors) -> tuple[Float32, Float32]:
    """Returns kernel and bias of the first layer of all members, which have the same inputs.

    The scale and the shift of the normalisation before it become part of the layer.

    Args:
      tensors: The tensors of the model.

    Returns:
      float32 [cell_dim, members * units] and float32 [members * units].
    """
    kernel, bias = tensors.layer("cell_features")
    gamma = tensors["normalise/gamma"][:, :, np.newaxis]
    beta = tensors["normalise/beta"][:, np.newaxis]
    return np.concatenate(gamma * kernel, axis=1), np.concatenate(beta @ kernel + bias, axis=1)[0]
