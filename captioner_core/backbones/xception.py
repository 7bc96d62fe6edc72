"""Xception with ImageNet weights (Chollet 2017, https://arxiv.org/abs/1610.02357)."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from captioner_core import assets


class Xception:
    """The network up to its last feature map, 10 x 10 x 2048 at 299 x 299.

    Raises:
      CaptionerError: the weights are not in the cache; ``captioner assets`` fetches them.
    """

    name = "xception-imagenet-299-float32"
    input_size = 299

    def __init__(self) -> None:
        network = keras.applications.Xception(
            weights=None, include_top=False, input_shape=(self.input_size, self.input_size, 3)
        )
        network.load_weights(assets.xception_weights())
        network.trainable = False
        self._network = network
        signature = tf.TensorSpec([None, self.input_size, self.input_size, 3], tf.uint8)
        self._forward = tf.function(self._features, input_signature=[signature])

    def _features(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scaled = tf.cast(pixels, tf.float32) / 127.5 - 1.0  # as keras.applications.xception
        grid = self._network(scaled, training=False)
        cells = tf.reshape(grid, [tf.shape(grid)[0], -1, grid.shape[-1]])
        return tf.reduce_mean(cells, axis=1), cells

    def features(self, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See ``Backbone.features``."""
        averages, grid = self._forward(pixels)
        return averages.numpy(), grid.numpy()


class MirroredXception(Xception):
    """The features of the picture as a mirror shows it, which training may use beside those of the picture.

    The name keeps its features from being taken for those of the picture itself.
    """

    name = f"{Xception.name}-mirrored"

    def _features(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return super()._features(tf.reverse(pixels, axis=[2]))
