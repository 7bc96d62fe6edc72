"""Builds Xception as a graph of OpenVINO, directly from its weights.

Nothing is converted, so neither TensorFlow nor Keras is needed. Every operation that quantisation
may change has a name of its own; see ``quantization``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from captioner_core.features.base import INPUT_SIZE
from captioner_core.features.xception_weights import (
    DOWNSAMPLING_BLOCKS,
    Convolution,
    read_convolutions,
)
from captioner_core.process.openvino_setup import ops, ov
from captioner_core.tables.schemas import GRID_CELLS, GRID_SIDE

_EPSILON = 1e-3
_LAST_BLOCK = 14
# The blocks whose outputs the grid joins, as (block, side of the map in pixels).
_DEPTHS = (14, 13, 4)


def build_network(batch: int) -> ov.Model:
    """Returns Xception from pixels to the feature maps of which the grid is made.

    Args:
      batch: The number of images in a call.

    Returns:
      A model with one input, uint8 [batch, 299, 299, 3], RGB, and three outputs: the outputs of
      the blocks 14, 13 and 4, float32 [batch, channels, height, width].

    Raises:
      CaptionerError: The weights are not in the cache.
    """
    return _Builder(read_convolutions()).network(batch)


def add_pooling(network: ov.Model) -> ov.Model:
    """Returns the network with averages and grid as outputs in place of the feature maps.

    The outputs are those of ``Backbone.features``.
    """
    maps = [output.get_node().input_value(0) for output in network.outputs]
    averages = ops.reduce_mean(maps[0], _ints(2, 3))
    grid = ops.concat([_pool_cells(one) for one in maps], 2)
    return ov.Model([averages, grid], network.get_parameters(), "xception")


class _Builder:
    """Adds the layers of Xception to a graph.

    Args:
      convolutions: The weights by the name of the convolution.
    """

    def __init__(self, convolutions: dict[str, Convolution]) -> None:
        self._convolutions = convolutions

    def network(self, batch: int) -> ov.Model:
        """Returns the network up to its feature maps; see ``build_network``."""
        pixels = ops.parameter([batch, INPUT_SIZE, INPUT_SIZE, 3], np.uint8, "pixels")
        scaled = ops.subtract(
            ops.divide(ops.convert(pixels, np.float32), _floats(127.5)), _floats(1)
        )
        output = ops.transpose(_named(scaled, "scaled"), _ints(0, 3, 1, 2))
        output = self._relu(self._convolve(output, "block1_conv1", stride=2, padding="valid"))
        output = self._relu(self._convolve(output, "block1_conv2", padding="valid"))
        outputs = {}
        for block in range(2, _LAST_BLOCK):
            output = self._residual_block(output, block)
            outputs[block] = output
        for number in (1, 2):
            output = self._relu(self._separable(output, f"block{_LAST_BLOCK}_sepconv{number}"))
        outputs[_LAST_BLOCK] = output
        return ov.Model([outputs[block] for block in _DEPTHS], [pixels], "xception")

    def _residual_block(self, inputs: ov.Node, block: int) -> ov.Node:
        is_downsampling = block in DOWNSAMPLING_BLOCKS
        output = inputs
        for number in (1, 2) if is_downsampling else (1, 2, 3):
            name = f"block{block}_sepconv{number}"
            if (block, number) != (2, 1):  # The input of block 2 is the output of a ReLU.
                output = _named(ops.relu(output), f"{name}/input")
            output = self._separable(output, name)
        shortcut = inputs
        if is_downsampling:
            shortcut = self._convolve(inputs, f"block{block}_shortcut", stride=2)
            pooled = ops.max_pool(
                output, [2, 2], [1, 1], [0, 0], [0, 0], [3, 3], auto_pad="same_upper"
            )
            output = _named(pooled, f"block{block}/pool").output(0)
        return _named(ops.add(output, shortcut), f"block{block}")

    def _convolve(
        self, inputs: ov.Node, name: str, *, stride: int = 1, padding: str = "same_upper"
    ) -> ov.Node:
        kernel = self._convolutions[name].kernel.transpose(3, 2, 0, 1)
        weights = _named(_floats(kernel), f"{name}/kernel")
        output = ops.convolution(
            inputs, weights, [stride] * 2, [0, 0], [0, 0], [1, 1], auto_pad=padding
        )
        return self._add_bias(_named(output, f"{name}/convolution"), name)

    def _separable(self, inputs: ov.Node, name: str) -> ov.Node:
        depthwise = self._convolutions[name].depthwise
        assert depthwise is not None
        kernel = depthwise.transpose(2, 3, 0, 1)[:, :, np.newaxis]
        weights = _named(_floats(kernel), f"{name}/depthwise_kernel")
        between = ops.group_convolution(inputs, weights, [1, 1], [1, 1], [1, 1], [1, 1])
        return self._convolve(_named(between, f"{name}/depthwise"), name)

    def _add_bias(self, inputs: ov.Node, name: str) -> ov.Node:
        bias = self._convolutions[name].bias.reshape(1, -1, 1, 1)
        return _named(ops.add(inputs, _named(_floats(bias), f"{name}/bias")), name)

    def _relu(self, inputs: ov.Node) -> ov.Node:
        return _named(ops.relu(inputs), f"{inputs.get_friendly_name()}/relu")


def _pool_cells(feature_map: ov.Output) -> ov.Node:
    """Returns a feature map averaged over the cells of the grid.

    Each cell is standardised over its channels, because the depths of the network differ in scale.

    Args:
      feature_map: float32 [batch, channels, height, width].

    Returns:
      float32 [batch, GRID_CELLS, channels].
    """
    batch, channels, side, _ = feature_map.get_shape()
    window = -(-side // GRID_SIDE)
    padding = GRID_SIDE * window - side
    padded = ops.pad(feature_map, _ints(0, 0, 0, 0), _ints(0, 0, padding, padding), "symmetric")
    pooled = ops.avg_pool(padded, [window] * 2, [0, 0], [0, 0], [window] * 2, exclude_pad=True)
    cells = ops.transpose(pooled, _ints(0, 2, 3, 1))
    standardised = ops.mvn(cells, _ints(3), True, _EPSILON, "inside_sqrt")
    return ops.reshape(standardised, _ints(batch, GRID_CELLS, channels), False)


def _named(node: ov.Node, name: str) -> ov.Node:
    node.set_friendly_name(name)
    return node


def _floats(values: npt.ArrayLike) -> ov.Node:
    return ops.constant(np.ascontiguousarray(values, np.float32))


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
