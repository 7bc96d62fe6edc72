"""Xception with ImageNet weights (Chollet 2017, https://arxiv.org/abs/1610.02357)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.features.lowered import FrozenNetwork, LoweredNetwork
from captioner_core.features.means import load_means
from captioner_core.features.precision import check_precision
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.tables.schemas import GRID_CELLS, GRID_SIDE
from captioner_core.weights import assets

_FIRST_AFTER = (
    "block14_sepconv1",
    "block5_sepconv1_act",
)  # the layers that take what blocks 13 and 4 end with
FIRST_REDUCED = "block4_sepconv1"
_EPSILON = 1e-3
_SIDE = 299


def keras_network() -> keras.Model:
    """Xception as Keras has it, with its weights and without its top.

    Raises:
      CaptionerError: the weights are not in the cache.
    """
    network = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(_SIDE, _SIDE, 3)
    )
    network.load_weights(assets.xception_weights())
    return network


def scaled(pixels: Any) -> Any:
    """Pixels as the network takes them, as ``keras.applications.xception.preprocess_input`` does."""
    return pixels / 127.5 - 1.0


class Xception:
    """The network at 299 x 299, up to its last feature map.

    The grid has three depths: the last map knows things and scenes best, the earlier ones keep
    the colours, textures and places that classes of objects don't need.

    In bfloat16 blocks 1 to 3 stay float32: rounding harms them most, and they are a fifth of the work. Features then
    keep a cosine of 0.9999 to those of float32, and 99 captions in 100 stay the same (bench/precision.py); so models
    may be trained on either, and the name states float32 for both.

    Args:
      precision: ``float32`` or ``bfloat16``.

    Raises:
      CaptionerError: the weights are not in the cache, which ``captioner assets`` mends, or the processor lacks
        the precision.
    """

    name = "xception-imagenet-299-grid5-float32"
    input_size = _SIDE

    def __init__(self, precision: str = "float32") -> None:
        check_precision(precision)
        network = keras_network()
        # the sums that end block 13 (10 x 10 x 1024) and block 4 (19 x 19 x 728) have no names of their own
        depths = [network.output, *(network.get_layer(after).input for after in _FIRST_AFTER)]
        reduced = precision == "bfloat16"
        lowered = LoweredNetwork(
            network, FIRST_REDUCED if reduced else None, load_means() if reduced else None
        )

        def features(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            maps = lowered(scaled(tf.cast(self._seen(pixels), tf.float32)), depths)
            return tf.reduce_mean(maps[0], axis=[1, 2]), tf.concat(
                [_cells(one) for one in maps], axis=-1
            )

        self._network = FrozenNetwork(features, [None, self.input_size, self.input_size, 3])

    def _seen(self, pixels: tf.Tensor) -> tf.Tensor:
        return pixels

    def features(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """See ``Backbone.features``."""
        averages, grid = self._network(pixels)
        return averages, grid


class MirroredXception(Xception):
    """The features of the picture as a mirror shows it, which training may use beside those of the picture.

    The name keeps its features from being taken for those of the picture itself.
    """

    name = f"{Xception.name}-mirrored"

    def _seen(self, pixels: tf.Tensor) -> tf.Tensor:
        return tf.reverse(pixels, axis=[2])


def _cells(depth: tf.Tensor) -> tf.Tensor:
    """float32 [batch, 25, channels]: a map [batch, height, width, channels] averaged to cells, each standardised.

    Standardised over the channels, since the depths differ in scale.
    """
    side, channels = depth.shape[1], depth.shape[-1]
    window = -(-side // GRID_SIDE)
    beyond = GRID_SIDE * window - side
    padded = tf.pad(depth, [[0, 0], [0, beyond], [0, beyond], [0, 0]], "SYMMETRIC")
    cells = tf.reshape(
        tf.nn.avg_pool2d(padded, window, window, "VALID"), [-1, GRID_CELLS, channels]
    )
    mean, variance = tf.nn.moments(cells, axes=[-1], keepdims=True)
    return (cells - mean) * tf.math.rsqrt(variance + _EPSILON)
