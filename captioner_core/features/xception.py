"""Xception with ImageNet weights (Chollet 2017, https://arxiv.org/abs/1610.02357)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.features.base import INPUT_SIZE
from captioner_core.features.channel_means import load_channel_means
from captioner_core.features.frozen_graph import FoldedNetwork, FrozenGraph
from captioner_core.features.precision import check_precision
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.tables.schemas import GRID_CELLS, GRID_SIDE
from captioner_core.weights import assets

# The outputs of block 13 (10 x 10 x 1024) and block 4 (19 x 19 x 728) are sums without a stable
# name, so they are found as the inputs of these layers.
_LAYERS_AFTER_DEPTHS = ("block14_sepconv1", "block5_sepconv1_act")
FIRST_BFLOAT16_LAYER = "block4_sepconv1"
_EPSILON = 1e-3


def keras_network() -> keras.Model:
    """Returns Keras' Xception with its weights and without its classifier.

    Raises:
      CaptionerError: The weights are not in the cache.
    """
    network = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(INPUT_SIZE, INPUT_SIZE, 3)
    )
    network.load_weights(assets.xception_weights())
    return network


def scale_pixels(pixels: Any) -> Any:
    """Returns pixels 0 to 255 as -1 to 1, like ``keras.applications.xception.preprocess_input``."""
    return pixels / 127.5 - 1.0


class Xception:
    """Xception up to its last feature map.

    The grid joins three depths of the network. The last map knows objects and scenes best; the
    earlier maps keep colours, textures and positions, which a classifier of objects does not need.

    In bfloat16, blocks 1 to 3 stay float32: rounding harms them most, and they are a fifth of the
    work. The features then have a cosine of 0.9999 to those of float32, and 99 of 100 captions stay
    the same (bench/precision.py). Models may therefore be trained on either precision, and ``name``
    says float32 for both.

    Args:
      precision: ``float32`` or ``bfloat16``.

    Raises:
      CaptionerError: The weights are not in the cache (``captioner assets`` fetches them), or the
        processor lacks the precision.
    """

    name = f"xception-imagenet-{INPUT_SIZE}-grid{GRID_SIDE}-float32"
    input_size = INPUT_SIZE

    def __init__(self, precision: str = "float32") -> None:
        check_precision(precision)
        network = keras_network()
        depths = [network.output]
        depths += [network.get_layer(layer).input for layer in _LAYERS_AFTER_DEPTHS]
        if precision == "bfloat16":
            folded = FoldedNetwork(network, FIRST_BFLOAT16_LAYER, load_channel_means())
        else:
            folded = FoldedNetwork(network)

        def build_features(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Builds the graph from uint8 pixels to averages and grid."""
            maps = folded(scale_pixels(tf.cast(self._orient(pixels), tf.float32)), depths)
            averages = tf.reduce_mean(maps[0], axis=[1, 2])
            return averages, tf.concat([_pool_cells(one) for one in maps], axis=-1)

        self._graph = FrozenGraph(build_features, [None, INPUT_SIZE, INPUT_SIZE, 3])

    def _orient(self, pixels: tf.Tensor) -> tf.Tensor:
        return pixels

    def features(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns averages and grid of a batch of images; see ``Backbone.features``."""
        averages, grid = self._graph(pixels)
        return averages, grid


class MirroredXception(Xception):
    """Xception over mirrored images, whose features training may use beside the plain ones.

    Its own name keeps the features of mirrored images from being taken for the plain ones.
    """

    name = f"{Xception.name}-mirrored"

    def _orient(self, pixels: tf.Tensor) -> tf.Tensor:
        return tf.reverse(pixels, axis=[2])


def _pool_cells(feature_map: tf.Tensor) -> tf.Tensor:
    """Returns a feature map averaged over the cells of the grid.

    Each cell is standardised over its channels, because the depths of the network differ in scale.

    Args:
      feature_map: float32 [batch, height, width, channels].

    Returns:
      float32 [batch, GRID_CELLS, channels].
    """
    side = feature_map.shape[1]
    channels = feature_map.shape[-1]
    window = -(-side // GRID_SIDE)
    padding = GRID_SIDE * window - side
    padded = tf.pad(feature_map, [[0, 0], [0, padding], [0, padding], [0, 0]], "SYMMETRIC")
    pooled = tf.nn.avg_pool2d(padded, window, window, "VALID")
    cells = tf.reshape(pooled, [-1, GRID_CELLS, channels])
    mean, variance = tf.nn.moments(cells, axes=[-1], keepdims=True)
    return (cells - mean) * tf.math.rsqrt(variance + _EPSILON)
