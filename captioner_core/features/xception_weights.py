"""Reads the weights of Xception (Chollet 2017, https://arxiv.org/abs/1610.02357) with NumPy alone.

Each batch normalisation is folded into the convolution before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from captioner_core.weights import assets

Array = npt.NDArray[np.float32]

DOWNSAMPLING_BLOCKS = (2, 3, 4, 13)
"""The blocks that halve height and width. A convolution is their shortcut."""
MIDDLE_BLOCKS = range(5, 13)
"""The blocks that keep height, width and channels. Their input is their shortcut."""
_EPSILON = 1e-3


class Convolution(NamedTuple):
    """A convolution together with the batch normalisation that follows it.

    Args:
      depthwise: float32 [height, width, in, 1], the depthwise kernel of a separable convolution.
        None for any other convolution.
      kernel: float32 [height, width, in, out].
      bias: float32 [out].
    """

    depthwise: Array | None
    kernel: Array
    bias: Array


def read_convolutions() -> dict[str, Convolution]:
    """Returns all convolutions of Xception by their name, in the order of the network.

    Raises:
      CaptionerError: The weights are not in the cache.
    """
    convolutions = {}
    counts = {"conv2d": 0, "separable_conv2d": 0}
    with h5py.File(assets.xception_weights(), "r") as file:
        for number, name in enumerate(_convolution_names()):
            kind = "separable_conv2d" if "sepconv" in name else "conv2d"
            *depthwise, kernel = _read_layer(file, kind, counts[kind])
            counts[kind] += 1
            gamma, beta, mean, variance = _read_layer(file, "batch_normalization", number)
            # Ioffe and Szegedy 2015 (https://arxiv.org/abs/1502.03167), section 3.
            factor = gamma / np.sqrt(variance + np.float32(_EPSILON))
            convolutions[name] = Convolution(
                depthwise[0] if depthwise else None, kernel * factor, beta - mean * factor
            )
    return convolutions


def _convolution_names() -> Iterator[str]:
    """Yields the names of the convolutions in the order in which Keras numbers them."""
    yield "block1_conv1"
    yield "block1_conv2"
    for block in range(2, 15):
        for number in (1, 2, 3) if block in MIDDLE_BLOCKS else (1, 2):
            yield f"block{block}_sepconv{number}"
        if block in DOWNSAMPLING_BLOCKS:
            yield f"block{block}_shortcut"


def _read_layer(file: h5py.File, kind: str, number: int) -> list[Array]:
    """Returns the weights of a layer, which Keras names by its type and its number."""
    name = f"{kind}_{number}" if number else kind
    variables = file["layers"][name]["vars"]
    return [variables[str(position)][...] for position in range(len(variables))]
