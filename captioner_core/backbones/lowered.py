"""A Keras network of convolutions as one graph of constants, most of it in bfloat16 where that is wanted.

Batch normalisation is folded into the convolutions, which leaves nothing for TensorFlow to simplify.

A bfloat16 number has 8 significant bits. What rounding to them costs is kept small by things that cost
nothing when the network runs, in the manner of Nagel et al. 2019 (https://arxiv.org/abs/1906.04721):
since ReLU(a x) = a ReLU(x) for a > 0, a channel can be scaled where it is made and scaled back where it is
used. So biases are made numbers that bfloat16 has, and depthwise kernels are scaled to where they are
rounded least. Sums that join branches, and biases next to them, stay float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import layers
from tensorflow.core.protobuf import config_pb2

Array = npt.NDArray[np.float32]

_LEAST_BIAS = 1e-6  # smaller ones are rounded as they are
_SUM_WEIGHT = 4
_PROCESSOR_ROWS = 8
_SCALES = np.exp2(np.arange(64) / 64).astype(np.float32)  # one octave: another one rounds alike


class _Convolution(NamedTuple):
    """Of a layer, with the batch norm that follows it: ``dtype`` of its products, the rest float32 arrays."""

    dtype: tf.DType
    depthwise: Array | None
    kernel: Array
    bias: Array
    joins: bool
    """Whether it is in bfloat16 and a branch ends with it: its bias is added in float32 then."""


class LoweredNetwork:
    """A network with its weights, to be built into a graph.

    Args:
      network: a functional model of convolutions, batch norms after each of them, ReLUs, pools and sums.
      reduced_from: the first layer, in the order of ``network.layers``, whose convolution is in bfloat16, as are
        those after it; None for a network in float32.

    Raises:
      TypeError: the network has a layer of another kind.
    """

    def __init__(self, network: keras.Model, reduced_from: str | None) -> None:
        self._network = network
        self._users: dict[int, list[keras.Layer]] = {}
        for layer in network.layers:
            for tensor in keras.tree.flatten(layer.input):
                self._users.setdefault(id(tensor), []).append(layer)
        self._convolutions: dict[str, _Convolution] = {}
        scaled: dict[str, Array] = {}  # layer to what the channels that it takes were multiplied by
        reduced = False
        for layer in network.layers:
            reduced = reduced or layer.name == reduced_from
            if isinstance(layer, layers.Conv2D | layers.SeparableConv2D):
                make = self._reduced if reduced else self._exact
                self._convolutions[layer.name] = make(layer, scaled)

    def __call__(self, pictures: tf.Tensor, outputs: Sequence[keras.KerasTensor]) -> list[tf.Tensor]:
        """Builds the network into the current graph.

        Args:
          pictures: float32, as the network's input.
          outputs: tensors of the Keras network that are wanted.

        Returns:
          Those, float32.
        """
        made = {id(self._network.input): pictures}
        for layer in self._network.layers[1:]:
            taken = [made[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
            made[id(layer.output)] = self._apply(layer, taken)
        return [tf.cast(made[id(output)], tf.float32) for output in outputs]

    def _apply(self, layer: keras.Layer, taken: list[tf.Tensor]) -> tf.Tensor:
        match layer:
            case layers.Conv2D() | layers.SeparableConv2D():
                return _convolved(layer, self._convolutions[layer.name], taken[0])
            case layers.BatchNormalization():
                return taken[0]
            case layers.Activation() if layer.activation is keras.activations.relu:
                return tf.nn.relu(taken[0])
            case layers.MaxPooling2D():
                return tf.nn.max_pool2d(taken[0], layer.pool_size, layer.strides, layer.padding.upper())
            case layers.Add():
                return tf.add_n([tf.cast(one, tf.float32) for one in taken])
        raise TypeError(f"layer {layer.name} is of a kind that can't be lowered: {type(layer).__name__}")

    def _exact(self, layer: keras.Layer, scaled: dict[str, Array]) -> _Convolution:
        factor, bias, _ = self._normalised(layer)
        *depthwise, kernel = layer.get_weights()
        return _Convolution(tf.float32, depthwise[0] if depthwise else None, kernel * factor, bias, joins=False)

    def _reduced(self, layer: keras.Layer, scaled: dict[str, Array]) -> _Convolution:
        factor, bias, user = self._normalised(layer)
        *kernels, kernel = layer.get_weights()
        depthwise = None
        if kernels:
            before = scaled.get(layer.name, np.ones(kernels[0].shape[2], np.float32))
            depthwise = kernels[0] / before.reshape(-1, 1)
            scale = _best_scales(depthwise).reshape(-1, 1)
            depthwise, kernel = depthwise * scale, kernel / scale
        if user is not None:
            there = _rounded(bias)
            scale = np.where(np.abs(bias) < _LEAST_BIAS, 1, there / np.where(bias == 0, 1, bias)).astype(np.float32)
            factor, bias, scaled[user.name] = factor * scale, there, scale
        return _Convolution(tf.bfloat16, depthwise, kernel * factor, bias, joins=user is None)

    def _normalised(self, layer: keras.Layer) -> tuple[Array, Array, keras.Layer | None]:
        """The batch norm after a layer as factor and bias, and the layer that takes its channels one by one.

        None where another layer, or more than one, uses them.
        """
        (normalise,) = self._users[id(layer.output)]
        if not isinstance(normalise, layers.BatchNormalization):
            raise TypeError(f"layer {layer.name}: a batch norm must follow it")
        gamma, beta, mean, variance = normalise.get_weights()
        factor = gamma / np.sqrt(variance + normalise.epsilon)
        users = self._users.get(id(normalise.output), [])
        if len(users) == 1 and isinstance(users[0], layers.Activation):
            users = self._users.get(id(users[0].output), [])
        user = users[0] if len(users) == 1 and isinstance(users[0], layers.SeparableConv2D) else None
        return factor, beta - mean * factor, user


def _convolved(layer: keras.Layer, convolution: _Convolution, taken: tf.Tensor) -> tf.Tensor:
    dtype = convolution.dtype
    numbers = dtype.as_numpy_dtype
    made, strides, padding = tf.cast(taken, dtype), [1, *layer.strides, 1], layer.padding.upper()
    if convolution.depthwise is not None:
        made = tf.nn.depthwise_conv2d(made, tf.constant(convolution.depthwise.astype(numbers)), strides, padding)
        strides = [1, 1, 1, 1]
    made = tf.nn.conv2d(made, tf.constant(convolution.kernel.astype(numbers)), strides, padding)
    if convolution.joins:
        return tf.cast(made, tf.float32) + convolution.bias
    return tf.nn.bias_add(made, tf.constant(convolution.bias.astype(numbers)))


def _best_scales(depthwise: Array) -> Array:
    """float32 [channels]: factors that make the numbers of each channel's kernel lose least by rounding.

    Errors that add up over a kernel count most, since neighbouring pixels are alike.
    """
    best, least = np.ones(depthwise.shape[2], np.float32), np.full(depthwise.shape[2], np.inf, np.float32)
    for scale in _SCALES:
        error = (_rounded(depthwise * scale) / scale - depthwise)[..., 0]
        loss = _SUM_WEIGHT * error.sum(axis=(0, 1)) ** 2 + (error**2).sum(axis=(0, 1))
        best, least = np.where(loss < least, scale, best), np.minimum(loss, least)
    return best


def _rounded(numbers: Array) -> Array:
    rounded: Array = numbers.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32)
    return rounded


class FrozenNetwork:
    """A graph of constants and its session; safe from several threads.

    A processor gets few rows at once: its caches hold the maps of those, so more would be no faster, and
    32 pictures of Xception's take 1.5 GB and two seconds more until the memory is there. A GPU gets as
    many as come, and half as many as long as its memory does not hold them.

    Args:
      function: builds the graph's outputs from its input.
      shape: of the input, uint8, None where it varies.
    """

    def __init__(self, function: Callable[[tf.Tensor], Sequence[tf.Tensor]], shape: Sequence[int | None]) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._input = tf.compat.v1.placeholder(tf.uint8, shape)
            self._outputs = list(function(self._input))
        config = config_pb2.ConfigProto()
        # there is nothing left to simplify, and looking for it takes three seconds
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        self._at_once = sys.maxsize if tf.config.list_physical_devices("GPU") else _PROCESSOR_ROWS

    def __call__(self, batch: npt.NDArray[np.uint8]) -> Sequence[Array]:
        """The function's outputs for a batch of any size."""
        made: list[Sequence[Array]] = []
        start = 0
        while start < len(batch) or not made:
            try:
                made.append(self._session.run(self._outputs, {self._input: batch[start : start + self._at_once]}))
            except tf.errors.ResourceExhaustedError:
                if self._at_once == 1:
                    raise
                self._at_once = min(self._at_once, len(batch)) // 2
                continue
            start += self._at_once
        return [np.concatenate(parts) for parts in zip(*made, strict=True)] if len(made) > 1 else made[0]
