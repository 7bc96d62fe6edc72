"""Xception with ImageNet weights (Chollet 2017, https://arxiv.org/abs/1610.02357)."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from captioner_core import assets
from captioner_core.schemas import GRID_CELLS, GRID_SIDE

_FIRST_AFTER = ("block14_sepconv1", "block5_sepconv1_act")  # the layers that take what blocks 13 and 4 end with
_EPSILON = 1e-3


class Xception:
    """The network at 299 x 299, up to its last feature map.

    The grid has three depths: the last map knows things and scenes best, the earlier ones keep
    the colours, textures and places that classes of objects don't need.

    Raises:
      CaptionerError: the weights are not in the cache; ``captioner assets`` fetches them.
    """

    name = "xception-imagenet-299-grid5-float32"
    input_size = 299

    def __init__(self) -> None:
        network = keras.applications.Xception(
            weights=None, include_top=False, input_shape=(self.input_size, self.input_size, 3)
        )
        network.load_weights(assets.xception_weights())
        network.trainable = False
        # the sums that end block 13 (10 x 10 x 1024) and block 4 (19 x 19 x 728) have no names of their own
        depths = [network.output, *(network.get_layer(after).input for after in _FIRST_AFTER)]
        self._network = keras.Model(network.input, depths)
        signature = tf.TensorSpec([None, self.input_size, self.input_size, 3], tf.uint8)
        self._forward = tf.function(self._features, input_signature=[signature])

    def _features(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scaled = tf.cast(pixels, tf.float32) / 127.5 - 1.0  # as keras.applications.xception
        depths = self._network(scaled, training=False)
        return tf.reduce_mean(depths[0], axis=[1, 2]), tf.concat([_cells(depth) for depth in depths], axis=-1)

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


def _cells(depth: tf.Tensor) -> tf.Tensor:
    """float32 [batch, 25, channels]: a map [batch, height, width, channels] averaged to cells, each standardised.

    Standardised over the channels, since the depths differ in scale.
    """
    side, channels = depth.shape[1], depth.shape[-1]
    window = -(-side // GRID_SIDE)
    beyond = GRID_SIDE * window - side
    padded = tf.pad(depth, [[0, 0], [0, beyond], [0, beyond], [0, 0]], "SYMMETRIC")
    cells = tf.reshape(tf.nn.avg_pool2d(padded, window, window, "VALID"), [-1, GRID_CELLS, channels])
    mean, variance = tf.nn.moments(cells, axes=[-1], keepdims=True)
    return (cells - mean) * tf.math.rsqrt(variance + _EPSILON)
