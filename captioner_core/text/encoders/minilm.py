"""all-MiniLM-L6-v2, a sentence transformer: an extra, with weights of 90 MB."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.process.tensorflow_setup import tf
from captioner_core.text.encoders.calibration import shipped_calibration
from captioner_core.weights import assets

_MOST_TOKENS = 128
_BATCH = 64
_SMALL = 1e-12


class MiniLm:
    """BERT with six layers, its last states averaged (Wang et al. 2020, https://arxiv.org/abs/2002.10957).

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
        self.dim, self._heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        self._layers, self._epsilon = (
            int(config["num_hidden_layers"]),
            float(config["layer_norm_eps"]),
        )
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.no_padding()
        weights = folder / "model.safetensors"
        self._tensors = {
            name: tf.constant(value) for name, value in load_file(weights).items() if value.ndim
        }
        self._forward = tf.function(
            self._states, input_signature=[tf.TensorSpec([None, None], tf.int32)]
        )
        self.calibration = shipped_calibration(self.name)
        self.fingerprint = f"{self.name}/{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See ``TextEncoder.encode``; rows agree to float32 rounding, not to the last bit, between batches."""
        encoded = np.zeros((len(texts), self.dim), np.float32)
        tokens = [item.ids for item in self._tokenizer.encode_batch(list(texts))]
        # texts of one length together: nothing is padded, so nothing has to be masked
        order = sorted(
            (place for place, text in enumerate(texts) if text.strip()),
            key=lambda place: len(tokens[place]),
        )
        for start in range(0, len(order), _BATCH):
            for run in _equal_lengths(order[start : start + _BATCH], tokens):
                encoded[run] = self._forward(
                    np.array([tokens[place] for place in run], np.int32)
                ).numpy()
        return encoded

    def _states(self, tokens: tf.Tensor) -> tf.Tensor:
        """Unit rows float32 [batch, dim] of token ids [batch, tokens]."""
        table = "embeddings.{}_embeddings.weight".format
        positions = self._tensors[table("position")][: tf.shape(tokens)[1]]
        states = (
            tf.gather(self._tensors[table("word")], tokens)
            + positions
            + self._tensors[table("token_type")][0]
        )
        states = self._normalised(states, "embeddings.LayerNorm")
        for layer in range(self._layers):
            at = f"encoder.layer.{layer}."
            attended = self._dense(self._attention(states, at), at + "attention.output.dense")
            states = self._normalised(states + attended, at + "attention.output.LayerNorm")
            wide = tf.nn.gelu(self._dense(states, at + "intermediate.dense"))
            states = self._normalised(
                states + self._dense(wide, at + "output.dense"), at + "output.LayerNorm"
            )
        return tf.math.l2_normalize(tf.reduce_mean(states, axis=1), axis=1, epsilon=_SMALL)

    def _attention(self, states: tf.Tensor, at: str) -> tf.Tensor:
        shape = tf.shape(states)

        def heads(name: str) -> tf.Tensor:
            split = [shape[0], shape[1], self._heads, self.dim // self._heads]
            return tf.transpose(
                tf.reshape(self._dense(states, f"{at}attention.self.{name}"), split), [0, 2, 1, 3]
            )

        scores = (
            tf.matmul(heads("query"), heads("key"), transpose_b=True)
            / (self.dim / self._heads) ** 0.5
        )
        context = tf.matmul(tf.nn.softmax(scores), heads("value"))
        return tf.reshape(tf.transpose(context, [0, 2, 1, 3]), shape)

    def _dense(self, states: tf.Tensor, name: str) -> tf.Tensor:
        kernel = self._tensors[f"{name}.weight"]  # [outputs, inputs], as PyTorch has it
        flat = tf.matmul(tf.reshape(states, [-1, kernel.shape[1]]), kernel, transpose_b=True)
        return tf.reshape(
            flat + self._tensors[f"{name}.bias"],
            [*tf.unstack(tf.shape(states))[:-1], kernel.shape[0]],
        )

    def _normalised(self, states: tf.Tensor, name: str) -> tf.Tensor:
        mean, variance = tf.nn.moments(states, axes=[-1], keepdims=True)
        scaled = (states - mean) * tf.math.rsqrt(variance + self._epsilon)
        return scaled * self._tensors[f"{name}.weight"] + self._tensors[f"{name}.bias"]


def _equal_lengths(places: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    runs: list[list[int]] = []
    for place in places:
        if runs and len(tokens[runs[-1][0]]) == len(tokens[place]):
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs
