"""The encoder ``minilm``: the sentence transformer all-MiniLM-L6-v2.

It is an optional extra, with weights of 90 MB.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.encoders.calibration import shipped_calibration
from captioner_core.weights import assets

_BATCH_SIZE = 64
_EPSILON = 1e-12


class MiniLm:
    """A BERT of six layers whose last states are averaged.

    Wang et al. 2020 (https://arxiv.org/abs/2002.10957).

    Raises:
      CaptionerError: its weights are not in the cache, or the extra ``minilm`` is not installed.
    """

    name = "minilm"

    def __init__(self) -> None:
        try:
            from safetensors.numpy import load_file
            from tokenizers import Tokenizer
        except ImportError as error:
            raise CaptionerError(
                f"encoder 'minilm' needs {error.name}; install captioner with the extra 'minilm'"
            ) from error
        folder = assets.minilm()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.dim = int(config["hidden_size"])
        self._n_heads = int(config["num_attention_heads"])
        self._n_layers = int(config["num_hidden_layers"])
        self._norm_epsilon = float(config["layer_norm_eps"])
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(128)
        self._tokenizer.no_padding()
        weights = folder / "model.safetensors"
        self._tensors = {
            name: tf.constant(value) for name, value in load_file(weights).items() if value.ndim
        }
        self._forward = tf.function(
            self._sentence_vectors, input_signature=[tf.TensorSpec([None, None], tf.int32)]
        )
        self.calibration = shipped_calibration(self.name)
        self.fingerprint = f"{self.name}/{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the vectors of texts; see ``TextEncoder.encode``.

        Rows of different batches agree to float32 rounding, not to the last bit.
        """
        encoded = np.zeros((len(texts), self.dim), np.float32)
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        by_length = sorted(
            (number for number, text in enumerate(texts) if text.strip()),
            key=lambda number: len(tokens[number]),
        )
        for start in range(0, len(by_length), _BATCH_SIZE):
            batch = by_length[start : start + _BATCH_SIZE]
            # Texts of one length need no padding, and without padding there is nothing to mask.
            for _, run in groupby(batch, key=lambda number: len(tokens[number])):
                rows = list(run)
                ids = np.array([tokens[number] for number in rows], np.int32)
                encoded[rows] = self._forward(ids).numpy()
        return encoded

    def _sentence_vectors(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns unit rows, float32 [batch, dim], for token ids, int32 [batch, tokens]."""
        table = "embeddings.{}_embeddings.weight".format
        positions = self._tensors[table("position")][: tf.shape(tokens)[1]]
        words = tf.gather(self._tensors[table("word")], tokens)
        states = words + positions + self._tensors[table("token_type")][0]
        states = self._layer_norm(states, "embeddings.LayerNorm")
        for layer in range(self._n_layers):
            prefix = f"encoder.layer.{layer}."
            attended = self._attention(states, prefix)
            attended = self._dense(attended, prefix + "attention.output.dense")
            states = self._layer_norm(states + attended, prefix + "attention.output.LayerNorm")
            hidden = tf.nn.gelu(self._dense(states, prefix + "intermediate.dense"))
            output = self._dense(hidden, prefix + "output.dense")
            states = self._layer_norm(states + output, prefix + "output.LayerNorm")
        return tf.math.l2_normalize(tf.reduce_mean(states, axis=1), axis=1, epsilon=_EPSILON)

    def _attention(self, states: tf.Tensor, prefix: str) -> tf.Tensor:
        """Returns the states after multi-head self-attention: float32 [batch, tokens, dim]."""
        query = self._split_heads(states, f"{prefix}attention.self.query")
        key = self._split_heads(states, f"{prefix}attention.self.key")
        value = self._split_heads(states, f"{prefix}attention.self.value")
        scores = tf.matmul(query, key, transpose_b=True) / (self.dim / self._n_heads) ** 0.5
        context = tf.matmul(tf.nn.softmax(scores), value)
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), tf.shape(states))

    def _split_heads(self, states: tf.Tensor, name: str) -> tf.Tensor:
        """Returns a dense layer's output, divided into heads: [batch, heads, tokens, head_dim]."""
        shape = tf.shape(states)
        heads = [shape[0], shape[1], self._n_heads, self.dim // self._n_heads]
        return tf.transpose(tf.reshape(self._dense(states, name), heads), [0, 2, 1, 3])

    def _dense(self, states: tf.Tensor, name: str) -> tf.Tensor:
        kernel = self._tensors[f"{name}.weight"]  # PyTorch stores [outputs, inputs].
        flat = tf.matmul(tf.reshape(states, [-1, kernel.shape[1]]), kernel, transpose_b=True)
        shape = [*tf.unstack(tf.shape(states))[:-1], kernel.shape[0]]
        return tf.reshape(flat + self._tensors[f"{name}.bias"], shape)

    def _layer_norm(self, states: tf.Tensor, name: str) -> tf.Tensor:
        mean, variance = tf.nn.moments(states, axes=[-1], keepdims=True)
        scaled = (states - mean) * tf.math.rsqrt(variance + self._norm_epsilon)
        return scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]
