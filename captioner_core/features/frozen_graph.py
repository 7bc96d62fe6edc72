"""Runs a convolutional Keras network as a graph of constants, in float32 or partly bfloat16.

Batch normalisation is folded into the convolutions, which leaves TensorFlow nothing to simplify.

A bfloat16 number has 8 significant bits. Three measures that cost nothing at run time keep the
error of rounding small. The first two follow Nagel et al. 2019 (https://arxiv.org/abs/1906.04721):

- Scaling (section 4.1). Since ReLU(a x) = a ReLU(x) for a > 0, a channel can be multiplied by a
  factor where it is computed and divided by it in the depthwise kernel that reads it. The factor of
  each channel is the one at which its bias is rounded least. Likewise each channel of a depthwise
  kernel is multiplied by the factor at which its own numbers are rounded least, and the pointwise
  kernel divides by it.
- Bias correction (section 4.2). Rounded kernels are wrong in the same way everywhere in every
  image. The mean error follows from the channels' means over images, and the bias removes it.
- Branches are summed in float32, and so are the biases of convolutions next to such sums.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.features.channel_means import ChannelMeans, NetworkMeans
from captioner_core.process.tensorflow_setup import keras, tf

layers = keras.layers
Array = npt.NDArray[np.float32]

# How much the error of a kernel's sum counts beside the errors of its single numbers.
_SUM_WEIGHT = 4
# Images that a processor runs at once; see FrozenGraph.
_PROCESSOR_ROWS = 8
_CONVOLUTIONS = (layers.Conv2D, layers.SeparableConv2D)


class _Convolution(NamedTuple):
    """A convolution together with the batch normalisation that follows it.

    Args:
      dtype: The type in which the products are computed.
      depthwise: float32 [height, width, in, 1], the depthwise kernel of a separable convolution.
      kernel: float32 [height, width, in, out].
      bias: float32 [out].
      defers_bias: Whether the bias is added later, in float32. This is so in bfloat16 unless a
        separable convolution alone reads the channels.
    """

    dtype: tf.DType
    depthwise: Array | None
    kernel: Array
    bias: Array
    defers_bias: bool


class _FoldedNorm(NamedTuple):
    """A batch normalisation as a factor and a bias of each channel.

    Args:
      factor: float32 [channels].
      bias: float32 [channels].
      reader: The separable convolution that alone reads the channels. None if there is another
        reader, or more than one.
    """

    factor: Array
    bias: Array
    reader: keras.Layer | None


class _Value(NamedTuple):
    """A tensor of the graph, and the bias that is still to be added to it."""

    tensor: tf.Tensor
    deferred_bias: Array | None = None

    def with_bias(self) -> tf.Tensor:
        """Returns the tensor with its bias; float32 if the bias was deferred."""
        if self.deferred_bias is None:
            return self.tensor
        return tf.cast(self.tensor, tf.float32) + self.deferred_bias


class FoldedNetwork:
    """A network whose weights are ready to be built into a graph.

    Args:
      network: A functional model of convolutions, each followed by a batch normalisation, and of
        ReLUs, max pools and sums.
      bfloat16_from: The name of the first layer, in the order of ``network.layers``, whose
        convolution runs in bfloat16. All later convolutions do so too. None keeps float32.
      means: The means of the network's channels; see ``measure_channel_means``. Without them
        rounding to bfloat16 is a little worse.

    Raises:
      TypeError: A convolution has no batch normalisation.
    """

    def __init__(
        self,
        network: keras.Model,
        bfloat16_from: str | None = None,
        means: NetworkMeans | None = None,
    ) -> None:
        self._network = network
        self._readers: dict[int, list[keras.Layer]] = {}
        for layer in network.layers:
            for tensor in keras.tree.flatten(layer.input):
                self._readers.setdefault(id(tensor), []).append(layer)
        self._convolutions: dict[str, _Convolution] = {}
        # The name of a layer -> the factors by which the channels of its input were multiplied.
        input_scales: dict[str, Array] = {}
        is_bfloat16 = False
        for layer in network.layers:
            is_bfloat16 = is_bfloat16 or layer.name == bfloat16_from
            if isinstance(layer, _CONVOLUTIONS):
                mean = (means or {}).get(len(self._convolutions))
                self._convolutions[layer.name] = (
                    self._fold_bfloat16(layer, input_scales, mean)
                    if is_bfloat16
                    else self._fold_float32(layer)
                )

    def __call__(self, images: tf.Tensor, outputs: Sequence[keras.KerasTensor]) -> list[tf.Tensor]:
        """Builds the network into the current graph.

        Args:
          images: float32, as the network takes them.
          outputs: The tensors of the Keras network that are wanted.

        Returns:
          These tensors in the graph, float32.

        Raises:
          TypeError: The network has a layer of another kind.
        """
        values = {id(self._network.input): _Value(images)}
        for layer in self._network.layers[1:]:
            inputs = [values[id(tensor)] for tensor in keras.tree.flatten(layer.input)]
            values[id(layer.output)] = self._apply(layer, inputs)
        return [tf.cast(values[id(output)].with_bias(), tf.float32) for output in outputs]

    def _apply(self, layer: keras.Layer, inputs: list[_Value]) -> _Value:
        (first, *_) = inputs
        match layer:
            case layers.Conv2D() | layers.SeparableConv2D():
                return self._convolve(layer, first.with_bias())
            case layers.BatchNormalization():
                return first  # Its convolution contains it.
            case layers.Activation() if layer.activation is keras.activations.relu:
                return _Value(tf.nn.relu(first.with_bias()))
            case layers.MaxPooling2D():
                # Since max(x) + b = max(x + b), the bias can wait until a quarter of the values
                # are left.
                pooled = tf.nn.max_pool2d(
                    first.tensor, layer.pool_size, layer.strides, layer.padding.upper()
                )
                return first._replace(tensor=pooled)
            case layers.Add():
                total = tf.add_n([tf.cast(value.tensor, tf.float32) for value in inputs])
                biases = [one.deferred_bias for one in inputs if one.deferred_bias is not None]
                return _Value(total, np.sum(biases, axis=0) if biases else None)
        raise TypeError(
            f"layer {layer.name} of type {type(layer).__name__} can't be built into a frozen graph"
        )

    def _convolve(self, layer: keras.Layer, inputs: tf.Tensor) -> _Value:
        convolution = self._convolutions[layer.name]
        dtype = convolution.dtype.as_numpy_dtype
        strides = [1, *layer.strides, 1]
        padding = layer.padding.upper()
        between = tf.cast(inputs, convolution.dtype)
        if convolution.depthwise is not None:
            depthwise = tf.constant(convolution.depthwise.astype(dtype))
            between = tf.nn.depthwise_conv2d(between, depthwise, strides, padding)
            strides = [1, 1, 1, 1]
        self._observe(layer, inputs, between)
        kernel = tf.constant(convolution.kernel.astype(dtype))
        output = tf.nn.conv2d(between, kernel, strides, padding)
        if convolution.defers_bias:
            return _Value(output, convolution.bias)
        return _Value(tf.nn.bias_add(output, tf.constant(convolution.bias.astype(dtype))))

    def _observe(self, layer: keras.Layer, inputs: tf.Tensor, between: tf.Tensor) -> None:
        """Lets a subclass see the input of a convolution and what lies between its two kernels."""

    def _fold_float32(self, layer: keras.Layer) -> _Convolution:
        norm = self._fold_norm(layer)
        *depthwise, kernel = layer.get_weights()
        return _Convolution(
            tf.float32,
            depthwise[0] if depthwise else None,
            kernel * norm.factor,
            norm.bias,
            defers_bias=False,
        )

    def _fold_bfloat16(
        self, layer: keras.Layer, input_scales: dict[str, Array], mean: ChannelMeans | None
    ) -> _Convolution:
        """Returns a convolution with its batch normalisation, prepared for bfloat16.

        The arrays stay float32, at values that lose little when they are rounded later.

        Args:
          layer: The convolution.
          input_scales: The factors of the channels that each layer reads. If this convolution
            scales its output, the factors are added under the name of the layer that reads it.
          mean: The means of the convolution's channels; taken as 0 where None.
        """
        norm = self._fold_norm(layer)
        *depthwise_kernels, kernel = layer.get_weights()
        channels = kernel.shape[2]
        if mean is None:
            mean = ChannelMeans(np.zeros(channels, np.float32), None)
        between = mean.inputs if mean.between is None else mean.between
        exact_output = np.einsum("hwio,i->o", kernel * norm.factor, between)
        depthwise = None
        if depthwise_kernels:
            input_scale = input_scales.get(layer.name, np.ones(channels, np.float32))
            depthwise = depthwise_kernels[0] / input_scale.reshape(-1, 1)
            scale = _best_kernel_scales(depthwise)
            depthwise = depthwise * scale.reshape(-1, 1)
            kernel = kernel / scale.reshape(-1, 1)
            error = (_round_bfloat16(depthwise) - depthwise).sum(axis=(0, 1))[:, 0]
            between = between * scale + error * mean.inputs * input_scale
        kernel = kernel * norm.factor
        if norm.reader is None:
            rounded_output = np.einsum("hwio,i->o", _round_bfloat16(kernel), between)
            bias = norm.bias + exact_output - rounded_output
            return _Convolution(tf.bfloat16, depthwise, kernel, bias, defers_bias=True)
        scale, bias = _best_output_scales(kernel, norm.bias + exact_output, between)
        input_scales[norm.reader.name] = scale
        return _Convolution(tf.bfloat16, depthwise, kernel * scale, bias, defers_bias=False)

    def _fold_norm(self, layer: keras.Layer) -> _FoldedNorm:
        """Returns the batch normalisation that follows a convolution.

        Normalisation to gamma (x - mean) / sqrt(variance + epsilon) + beta (Ioffe and Szegedy 2015,
        https://arxiv.org/abs/1502.03167, section 3) is a factor and a bias once mean and variance
        are constants.
        """
        (norm,) = self._readers[id(layer.output)]
        if not isinstance(norm, layers.BatchNormalization):
            raise TypeError(f"layer {layer.name}: a batch norm must follow it")
        gamma, beta, mean, variance = norm.get_weights()
        factor = gamma / np.sqrt(variance + norm.epsilon)
        readers = self._readers.get(id(norm.output), [])
        if len(readers) == 1 and isinstance(readers[0], layers.Activation):
            readers = self._readers.get(id(readers[0].output), [])
        is_separable = len(readers) == 1 and isinstance(readers[0], layers.SeparableConv2D)
        return _FoldedNorm(factor, beta - mean * factor, readers[0] if is_separable else None)


class _ObservedNetwork(FoldedNetwork):
    """A network that keeps the channel means of each convolution, as tensors of the graph."""

    def __init__(self, network: keras.Model) -> None:
        super().__init__(network)
        self.means: list[list[tf.Tensor]] = []

    def _observe(self, layer: keras.Layer, inputs: tf.Tensor, between: tf.Tensor) -> None:
        is_separable = isinstance(layer, layers.SeparableConv2D)
        tensors = [inputs, between] if is_separable else [inputs]
        self.means.append([tf.reduce_mean(tensor, axis=(0, 1, 2)) for tensor in tensors])


def measure_channel_means(network: keras.Model, batches: Iterable[Array]) -> NetworkMeans:
    """Returns the means of every convolution's channels over images.

    Args:
      network: See ``FoldedNetwork``.
      batches: float32 [batch, height, width, channels], images as the network takes them.
    """
    observed = _ObservedNetwork(network)
    graph = tf.Graph()
    with graph.as_default():
        images = tf.compat.v1.placeholder(tf.float32, network.input.shape)
        observed(images, [network.output])
        session = tf.compat.v1.Session(graph=graph)
    measured = [session.run(observed.means, {images: batch}) for batch in batches]
    means = {}
    for number, convolution in enumerate(zip(*measured, strict=True)):
        inputs, *between = (np.mean(values, axis=0) for values in zip(*convolution, strict=True))
        means[number] = ChannelMeans(inputs, between[0] if between else None)
    return means


def _best_kernel_scales(depthwise: Array) -> Array:
    """Returns the factors at which the kernel of each channel loses least by rounding.

    Errors that add up over a kernel count most, since neighbouring pixels are alike.

    Args:
      depthwise: float32 [height, width, channels, 1].

    Returns:
      float32 [channels].
    """
    channels = depthwise.shape[2]
    best = np.ones(channels, np.float32)
    smallest_loss = np.full(channels, np.inf, np.float32)
    for scale in _scales_of_one_octave(64):
        error = (_round_bfloat16(depthwise * scale) / scale - depthwise)[..., 0]
        loss = _SUM_WEIGHT * error.sum(axis=(0, 1)) ** 2 + (error**2).sum(axis=(0, 1))
        best = np.where(loss < smallest_loss, scale, best)
        smallest_loss = np.minimum(loss, smallest_loss)
    return best


def _best_output_scales(
    kernel: Array, output_mean: Array, input_mean: Array
) -> tuple[Array, Array]:
    """Returns the factors of the output channels at which their rounded biases are most exact.

    Args:
      kernel: float32 [height, width, in, out].
      output_mean: float32 [out], the mean output of the kernel and bias before rounding.
      input_mean: float32 [in], the mean input.

    Returns:
      The factors, float32 [out], and the rounded biases of the scaled channels, float32 [out].
    """
    best = np.ones_like(output_mean)
    biases = np.zeros_like(output_mean)
    smallest_loss = np.full_like(output_mean, np.inf)
    for scale in _scales_of_one_octave(16):
        rounded_output = np.einsum("hwio,i->o", _round_bfloat16(kernel * scale), input_mean)
        exact_bias = output_mean * scale - rounded_output
        bias = _round_bfloat16(exact_bias)
        loss = np.abs(bias - exact_bias) / scale
        best = np.where(loss < smallest_loss, scale, best)
        biases = np.where(loss < smallest_loss, bias, biases)
        smallest_loss = np.minimum(loss, smallest_loss)
    return best, biases


def _scales_of_one_octave(steps: int) -> Array:
    """Returns factors from 1 to below 2, beyond which rounding errors repeat."""
    return np.exp2(np.arange(steps) / steps).astype(np.float32)


def _round_bfloat16(numbers: Array) -> Array:
    rounded: Array = numbers.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32)
    return rounded


class FrozenGraph:
    """A graph of constants with its session; threads may share it.

    A processor gets few images at once. Its caches hold the feature maps of 8, so larger batches
    would not be faster, and 32 images of Xception need 1.5 GB, which take two seconds to allocate.
    A GPU gets the whole batch, and half as many images each time its memory is too small.

    Args:
      function: Builds the graph's outputs from its input.
      shape: The shape of the input, which is uint8. None stands for a dimension that varies.
      max_rows: The number of images that run at once. None lets the device decide, see above.
    """

    def __init__(
        self,
        function: Callable[[tf.Tensor], Sequence[tf.Tensor]],
        shape: Sequence[int | None],
        max_rows: int | None = None,
    ) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._input = tf.compat.v1.placeholder(tf.uint8, shape)
            self._outputs = list(function(self._input))
        config = tf.compat.v1.ConfigProto()
        # Nothing is left to simplify, and looking for it would take three seconds.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        if max_rows is None:
            has_gpu = bool(tf.config.list_physical_devices("GPU"))
            max_rows = sys.maxsize if has_gpu else _PROCESSOR_ROWS
        self._max_rows = max_rows

    def __call__(self, batch: npt.NDArray[np.uint8]) -> Sequence[Array]:
        """Returns the function's outputs for a batch of any size."""
        parts: list[Sequence[Array]] = []
        start = 0
        while start < len(batch) or not parts:
            rows = batch[start : start + self._max_rows]
            try:
                parts.append(self._session.run(self._outputs, {self._input: rows}))
            except tf.errors.ResourceExhaustedError:
                if len(rows) <= 1:
                    raise
                self._max_rows = len(rows) // 2
                continue
            start += len(rows)
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
