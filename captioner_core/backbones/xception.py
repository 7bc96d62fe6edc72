"""Xception with ImageNet weights (Chollet 2017, https://arxiv.org/abs/1610.02357)."""

from __future__ import annotations

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from captioner_core import assets
from captioner_core.backbones.frozen import FrozenNetwork
from captioner_core.schemas import GRID_CELLS, GRID_SIDE

_FIRST_AFTER = ("block14_sepconv1", "block5_sepconv1_act")  # the layers that take what blocks 13 and 4 end with
_EPSILON = 1e-3


class Xception:
    """The network at 299 x 299, up to its last feature map.

    The grid has three depths: the last map knows things and scenes best, the earlier ones keep
    the colours, textures and places that classes of objects don't need.

    The name states float32, the precision that models are trained on; bfloat16 keeps features within a
    cosine of 0.999 of it, and the captions of 96 images in 100.

    Args:
      precision: of the convolutions.

    Raises:
      CaptionerError: the weights are not in the cache, which ``captioner assets`` mends, or the processor lacks
        the precision.
    """

    name = "xception-imagenet-299-grid5-float32"
    input_size = 299

    def __init__(self, precision: str = "float32") -> None:
        network = keras.applications.Xception(
            weights=None, include_top=False, input_shape=(self.input_size, self.input_size, 3)
        )
        network.load_weights(assets.xception_weights())
        network.trainable = False
        # the sums that end block 13 (10 x 10 x 1024) and block 4 (19 x 19 x 728) have no names of their own
        depths = [network.output, *(network.get_layer(after).input for after in _FIRST_AFTER)]
        model = keras.Model(network.input, depths)
        signature = tf.TensorSpec([None, self.input_size, self.input_size, 3], tf.uint8)
        function = tf.function(lambda pixels: self._features(model, pixels), input_signature=[signature])
        self._network = FrozenNetwork(function.get_concrete_function(), precision)

    def _features(self, model: keras.Model, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        scaled = tf.cast(pixels, tf.float32) / 127.5 - 1.0  # as keras.applications.xception
        depths = model(scaled, training=False)
        return tf.reduce_mean(depths[0], axis=[1, 2]), tf.concat([_cells(depth) for depth in depths], axis=-1)

    def features(self, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See ``Backbone.features``."""
        averages, grid = self._network(pixels)
        return averages, grid


class MirroredXception(Xception):
    """The features of the picture as a mirror shows it, which training may use beside those of the picture.

    The name keeps its features from being taken for those of the picture itself.
    """

    name = f"{Xception.name}-mirrored"

    def _features(self, model: keras.Model, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return super()._features(model, tf.reverse(pixels, axis=[2]))


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
