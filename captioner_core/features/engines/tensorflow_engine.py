"""Xception on GPUs with TensorFlow, in float32 or bfloat16; in float32 on CPUs too."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.features.base import INPUT_SIZE, Features
from captioner_core.features.engines.base import check_precision
from captioner_core.process.tensorflow_setup import keras, tf
from captioner_core.tables.schemas import GRID_CELLS, GRID_SIDE
from captioner_core.weights import assets

# The outputs of block 13 (10 x 10 x 1024) and block 4 (19 x 19 x 728) are sums without a stable
# name, so they are found as the inputs of these layers.
_LAYERS_AFTER_DEPTHS = ("block14_sepconv1", "block5_sepconv1_act")
_EPSILON = 1e-3
# NVIDIA Ampere is the first generation with bfloat16 in hardware; older GPUs emulate it.
_BFLOAT16_CAPABILITY = (8, 0)
# Larger batches are not faster on a processor, and 32 images need 1.5 GB.
_PROCESSOR_ROWS = 8


class TensorFlowEngine:
    """The engine for GPUs. It runs on any processor too, but slower than the other engines."""

    name = "tensorflow"

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions that the device has; see ``Engine.precisions``."""
        has_bfloat16 = _gpu_capability() >= _BFLOAT16_CAPABILITY
        return ("bfloat16", "float32") if has_bfloat16 else ("float32",)

    def load_xception(self, precision: str) -> TensorFlowXception:
        """Returns Xception with its weights; see ``Engine.load_xception``."""
        check_precision(precision, self)
        return TensorFlowXception(precision)


class TensorFlowXception:
    """Xception as a TensorFlow function; threads may share it.

    A GPU gets the whole batch, and half as many images each time its memory is too small.

    Args:
      precision: ``float32`` or ``bfloat16``.
    """

    def __init__(self, precision: str) -> None:
        with _dtype_policy("mixed_bfloat16" if precision == "bfloat16" else "float32"):
            network = load_keras_network()
        maps = [network.output]
        maps += [network.get_layer(layer).input for layer in _LAYERS_AFTER_DEPTHS]
        self._network = keras.Model(network.input, maps)
        pixels = tf.TensorSpec([None, INPUT_SIZE, INPUT_SIZE, 3], tf.uint8)
        self._compute = tf.function(self._build, input_signature=[pixels])
        has_gpu = bool(tf.config.list_physical_devices("GPU"))
        self._max_rows = sys.maxsize if has_gpu else _PROCESSOR_ROWS

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns the features of a batch of any size; see ``FeatureNetwork``."""
        parts: list[tuple[tf.Tensor, tf.Tensor]] = []
        start = 0
        while start < len(pixels):
            rows = pixels[start : start + self._max_rows]
            try:
                parts.append(self._compute(rows))
            except tf.errors.ResourceExhaustedError:
                if len(rows) <= 1:
                    raise
                self._max_rows = len(rows) // 2
                continue
            start += len(rows)
        averages, grids = zip(*parts, strict=True)
        return Features(np.concatenate(averages), np.concatenate(grids))

    def _build(self, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Builds the graph from pixels to averages and grid."""
        scaled = tf.cast(pixels, tf.float32) / 127.5 - 1.0
        maps = [tf.cast(one, tf.float32) for one in self._network(scaled, training=False)]
        averages = tf.reduce_mean(maps[0], axis=[1, 2])
        return averages, tf.concat([_pool_cells(one) for one in maps], axis=-1)


def load_keras_network() -> keras.Model:
    """Returns Keras' Xception with its weights and without its classifier.

    Raises:
      CaptionerError: The weights are not in the cache.
    """
    network = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(INPUT_SIZE, INPUT_SIZE, 3)
    )
    network.load_weights(assets.xception_weights())
    return network


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    """Lets Keras make layers of a dtype policy while the block runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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


def _gpu_capability() -> tuple[int, int]:
    """Returns the lowest compute capability of the GPUs in use; (0, 0) without any."""
    capabilities: list[Any] = [
        tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0))
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return min(capabilities, default=(0, 0))
