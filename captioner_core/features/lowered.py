"""A Keras network of convolutions as one graph of constants, most of it in bfloat16 where that is wanted.

Batch normalisation is folded into the convolutions, which leaves nothing for TensorFlow to simplify.

A bfloat16 number has 8 significant bits. What rounding to them costs is kept small by things that cost
nothing when the network runs, after Nagel et al. 2019 (https://arxiv.org/abs/1906.04721):

- Since ReLU(a x) = a ReLU(x) for a > 0, a channel can be scaled where it is made and scaled back by the
  depthwise kernel that takes it. Each is scaled to where its bias is rounded least, and each depthwise
  kernel, which the pointwise one then undoes, to where its own numbers are.
- Rounded kernels are wrong in the same way everywhere in every picture. What that comes to on average,
  known from the channels' means over pictures, is taken off the biases.
- Branches are summed, and biases next to sums added, in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.process.tensorflow_setup import keras, tf

layers = keras.layers
Array = npt.NDArray[np.float32]

_SUM_WEIGHT = 4
_PROCESSOR_ROWS = 8
_CONVOLUTIONS = (layers.Conv2D, layers.SeparableConv2D)


class _Convolution(NamedTuple):
    """Of a layer, with the batch norm that follows it: ``dtype`` of its products, the rest float32 arrays."""

    dtype: tf.DType
    depthwise: Array | None
    kernel: Array
    bias: Array
    joins: bool
    """Whether it is in bfloat16 and no depthwise kernel comes next: its bias is added later, in float32."""


class _Value(NamedTuple):
    """A tensor of the graph, and a bias that it still lacks."""

    tensor: tf.Tensor
    lacks: Array | None = None

    def whole(self) -> tf.Tensor:
        """With what it lacks, which makes it float32."""
        return self.tensor if self.lacks is None else tf.cast(self.tensor, tf.float32) + self.lacks


# a convolution's number in the order of the layers -> the means of what it takes and, if it is
# separable, of what its depthwise kernel gives, float32 [channels]
ChannelMeans = Mapping[int, tuple[Array, Array | None]]


class LoweredNetwork:
    """A network with its weights, to be built into a graph.

    Args:
      network: a functional model of convolutions, batch norms after each of them, ReLUs, pools and sums.
      reduced_from: the first layer, in the order of ``network.layers``, whose convolution is in bfloat16, as are
        those after it; None for a network in float32.
      means: of the network's channels, from ``channel_means``; without them rounding is a little worse.

    Raises:
      TypeError: the network has a layer of another kind.
    """

    def __init__(
        self, network: keras.Model, reduced_from: str | None, means: ChannelMeans | None = None
    ) -> None:
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
            if isinstance(layer, _CONVOLUTIONS):
                mean = (means or {}).get(len(self._convolutions))
                made = self._reduced(layer, scaled, mean) if reduced else self._exact(layer)
                self._convolutions[layer.name] = made

    def __call__(
        self, pictures: tf.Tensor, outputs: Sequence[keras.KerasTensor]
    ) -> list[tf.Tensor]:
        """Builds the network into the current graph.

        Args:
          pictures: float32, as the network's input.
          outputs: tensors of the Keras network that are wanted.

        Returns:
          Those, float32.
        """
        made = {id(self._network.input): _Value(pictures)}
        for layer in self._network.layers[1:]:
            taken = [made[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
            made[id(layer.output)] = self._apply(layer, taken)
        return [tf.cast(made[id(output)].whole(), tf.float32) for output in outputs]

    def _apply(self, layer: keras.Layer, taken: list[_Value]) -> _Value:
        (first, *_) = taken
        match layer:
            case layers.Conv2D() | layers.SeparableConv2D():
                return self._convolve(layer, first.whole())
            case layers.BatchNormalization():
                return first
            case layers.Activation() if layer.activation is keras.activations.relu:
                return _Value(tf.nn.relu(first.whole()))
            case layers.MaxPooling2D():
                # max(x) + b = max(x + b), and a quarter as many are left
                pooled = tf.nn.max_pool2d(
                    first.tensor, layer.pool_size, layer.strides, layer.padding.upper()
                )
                return first._replace(tensor=pooled)
            case layers.Add():
                lacking = [value.lacks for value in taken if value.lacks is not None]
                total = tf.add_n([tf.cast(value.tensor, tf.float32) for value in taken])
                return _Value(total, np.sum(lacking, axis=0)) if lacking else _Value(total)
        raise TypeError(
            f"layer {layer.name} is of a kind that can't be lowered: {type(layer).__name__}"
        )

    def _convolve(self, layer: keras.Layer, taken: tf.Tensor) -> _Value:
        convolution = self._convolutions[layer.name]
        numbers = convolution.dtype.as_numpy_dtype
        made, strides, padding = (
            tf.cast(taken, convolution.dtype),
            [1, *layer.strides, 1],
            layer.padding.upper(),
        )
        if convolution.depthwise is not None:
            made = tf.nn.depthwise_conv2d(
                made, tf.constant(convolution.depthwise.astype(numbers)), strides, padding
            )
            strides = [1, 1, 1, 1]
        self._look(layer, taken, made)
        made = tf.nn.conv2d(made, tf.constant(convolution.kernel.astype(numbers)), strides, padding)
        if convolution.joins:
            return _Value(made, convolution.bias)
        return _Value(tf.nn.bias_add(made, tf.constant(convolution.bias.astype(numbers))))

    def _look(self, layer: keras.Layer, taken: tf.Tensor, between: tf.Tensor) -> None:
        """Where a subclass can see what a convolution takes and what is between its two kernels."""

    def _exact(self, layer: keras.Layer) -> _Convolution:
        factor, bias, _ = self._normalised(layer)
        *depthwise, kernel = layer.get_weights()
        return _Convolution(
            tf.float32, depthwise[0] if depthwise else None, kernel * factor, bias, joins=False
        )

    def _reduced(
        self, layer: keras.Layer, scaled: dict[str, Array], mean: tuple[Array, Array | None] | None
    ) -> _Convolution:
        factor, bias, user = self._normalised(layer)
        *kernels, kernel = layer.get_weights()
        channels = kernel.shape[2]
        taken, between = mean if mean is not None else (np.zeros(channels, np.float32), None)
        between = taken if between is None else between
        exact = np.einsum("hwio,i->o", kernel * factor, between)
        depthwise = None
        if kernels:
            before = scaled.get(layer.name, np.ones(channels, np.float32))
            depthwise = kernels[0] / before.reshape(-1, 1)
            scale = _best_scales(depthwise)
            depthwise, kernel = depthwise * scale.reshape(-1, 1), kernel / scale.reshape(-1, 1)
            lost = (_rounded(depthwise) - depthwise).sum(axis=(0, 1))[:, 0]
            between = between * scale + lost * taken * before
        kernel = kernel * factor
        if user is None:
            bias = bias + exact - np.einsum("hwio,i->o", _rounded(kernel), between)
            return _Convolution(tf.bfloat16, depthwise, kernel, bias, joins=True)
        scale, bias = _best_biases(kernel, bias + exact, between)
        scaled[user.name] = scale
        return _Convolution(tf.bfloat16, depthwise, kernel * scale, bias, joins=False)

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
        user = (
            users[0] if len(users) == 1 and isinstance(users[0], layers.SeparableConv2D) else None
        )
        return factor, beta - mean * factor, user


def channel_means(network: keras.Model, batches: Iterable[Array]) -> ChannelMeans:
    """The means of what each convolution takes and makes between its kernels, over pictures as the network takes them.

    Args:
      network: see ``LoweredNetwork``.
      batches: float32 [batch, height, width, channels].
    """
    seen: list[list[tf.Tensor]] = []

    class Observed(LoweredNetwork):
        def _look(self, layer: keras.Layer, taken: tf.Tensor, between: tf.Tensor) -> None:
            wanted = [taken, between] if isinstance(layer, layers.SeparableConv2D) else [taken]
            seen.append([tf.reduce_mean(tensor, axis=(0, 1, 2)) for tensor in wanted])

    observed, graph = Observed(network, None), tf.Graph()
    with graph.as_default():
        pictures = tf.compat.v1.placeholder(tf.float32, network.input.shape)
        observed(pictures, [network.output])
        session = tf.compat.v1.Session(graph=graph)
    found = [session.run(seen, {pictures: batch}) for batch in batches]
    means = [
        [np.mean(parts, axis=0) for parts in zip(*layer, strict=True)]
        for layer in zip(*found, strict=True)
    ]
    return {number: (one[0], one[1] if len(one) > 1 else None) for number, one in enumerate(means)}


def _best_scales(depthwise: Array) -> Array:
    """float32 [channels]: factors that make the numbers of each channel's kernel lose least by rounding.

    Errors that add up over a kernel count most, since neighbouring pixels are alike.
    """
    best, least = (
        np.ones(depthwise.shape[2], np.float32),
        np.full(depthwise.shape[2], np.inf, np.float32),
    )
    for scale in _octave(64):
        error = (_rounded(depthwise * scale) / scale - depthwise)[..., 0]
        loss = _SUM_WEIGHT * error.sum(axis=(0, 1)) ** 2 + (error**2).sum(axis=(0, 1))
        best, least = np.where(loss < least, scale, best), np.minimum(loss, least)
    return best


def _best_biases(kernel: Array, mean: Array, taken: Array) -> tuple[Array, Array]:
    """Factors of the output channels, and their biases, that keep the output's mean best once both are rounded.

    Args:
      kernel: float32 [height, width, in, out].
      mean: float32 [out], of the output that unrounded ones give.
      taken: float32 [in], the mean of the input.
    """
    best, biases, least = np.ones_like(mean), np.zeros_like(mean), np.full_like(mean, np.inf)
    for scale in _octave(16):
        wanted = mean * scale - np.einsum("hwio,i->o", _rounded(kernel * scale), taken)
        bias = _rounded(wanted)
        loss = np.abs(bias - wanted) / scale
        best, biases = np.where(loss < least, scale, best), np.where(loss < least, bias, biases)
        least = np.minimum(loss, least)
    return best, biases


def _octave(steps: int) -> Array:
    """Factors from 1 to 2: beyond them rounding repeats itself."""
    return np.exp2(np.arange(steps) / steps).astype(np.float32)


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

    def __init__(
        self, function: Callable[[tf.Tensor], Sequence[tf.Tensor]], shape: Sequence[int | None]
    ) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._input = tf.compat.v1.placeholder(tf.uint8, shape)
            self._outputs = list(function(self._input))
        config = tf.compat.v1.ConfigProto()
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
                made.append(
                    self._session.run(
                        self._outputs, {self._input: batch[start : start + self._at_once]}
                    )
                )
            except tf.errors.ResourceExhaustedError:
                tried = min(self._at_once, len(batch) - start)
                if tried <= 1:
                    raise
                self._at_once = tried // 2
                continue
            start += self._at_once
        return (
            [np.concatenate(parts) for parts in zip(*made, strict=True)]
            if len(made) > 1
            else made[0]
        )
