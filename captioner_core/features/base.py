"""The interface of a backbone, and the table of the backbones that exist."""

import importlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError

INPUT_SIZE = 299
"""Height and width, in pixels, of the images that every backbone takes."""

# Name -> module and class. The modules load TensorFlow, so they are imported only when needed.
_BACKBONES = {
    "xception": ("captioner_core.features.xception", "Xception"),
    "xception-mirrored": ("captioner_core.features.xception", "MirroredXception"),
}


class Backbone(Protocol):
    """A convolutional network with frozen weights."""

    name: str
    """The name in a features table: architecture, weights, input size and precision."""
    input_size: int
    """Height and width of the images that the network takes, in pixels."""

    def features(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns the features of a batch of images.

        Args:
          pixels: uint8 [batch, input_size, input_size, 3], RGB.

        Returns:
          The average of the last feature map, float32 [batch, FEATURE_DIM], and the grid, float32
          [batch, GRID_CELLS, CELL_DIM]. A cell of the grid holds the features of several depths of
          the network, each depth standardised over its channels.
        """


def load_backbone(name: str, precision: str = "float32") -> Backbone:
    """Returns a backbone with its weights, which must already be in the cache.

    Args:
      name: One of ``options.BACKBONES``.
      precision: One of ``options.PRECISIONS``.

    Raises:
      CaptionerError: The name is not known, the weights are not in the cache, or the processor
        lacks the precision.
    """
    if name not in _BACKBONES:
        raise CaptionerError(
            f"backbone {name!r} is not known; choose one of {', '.join(_BACKBONES)}"
        )
    module, class_name = _BACKBONES[name]
    backbone: Backbone = getattr(importlib.import_module(module), class_name)(precision)
    return backbone
