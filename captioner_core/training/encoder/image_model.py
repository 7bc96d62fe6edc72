"""The side of the learned encoder that puts images into the space of captions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from captioner_core.options import TrainEncoderOptions
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.tables.schemas import FEATURE_DIM

_FEATURE_DROPOUT = 0.3


class ImageModel:
    """Two dense layers over the averaged features of an image.

    Args:
      options: The sizes and the seed.
    """

    def __init__(self, options: TrainEncoderOptions) -> None:
        glorot = keras.initializers.GlorotUniform(keras.random.SeedGenerator(options.seed))
        self._hidden = tf.Variable(glorot((FEATURE_DIM, options.hidden)))
        self._hidden_bias = tf.Variable(tf.zeros([options.hidden]))
        self._output = tf.Variable(glorot((options.hidden, options.dim)))
        self._output_bias = tf.Variable(tf.zeros([options.dim]))

    @property
    def variables(self) -> list[tf.Variable]:
        """The weights, in a fixed order."""
        return [value for value in vars(self).values() if isinstance(value, tf.Variable)]

    def encode(self, features: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns images in the space, float32 unit rows [batch, dim].

        Args:
          features: float32 [batch, FEATURE_DIM], unit rows times ``FEATURE_SCALE``.
          seed: int64 [2], the seed of the dropped features.
        """
        seeds = [tf.random.experimental.stateless_fold_in(seed, number) for number in range(2)]
        dropped = tf.nn.experimental.stateless_dropout(features, _FEATURE_DROPOUT, seeds[0])
        hidden = tf.nn.relu(dropped @ self._hidden + self._hidden_bias)
        hidden = tf.nn.experimental.stateless_dropout(hidden, _FEATURE_DROPOUT, seeds[1])
        return tf.math.l2_normalize(hidden @ self._output + self._output_bias, axis=1)

    def tensors(self) -> dict[str, npt.NDArray[np.float16]]:
        """Returns the layers that ``LearnedEncoder`` reads."""
        tables = {
            "image_hidden": self._hidden,
            "image_hidden_bias": self._hidden_bias,
            "image_output": self._output,
            "image_output_bias": self._output_bias,
        }
        return {name: np.asarray(tensor.numpy(), np.float16) for name, tensor in tables.items()}
