"""The interface of a backbone, and the table of the backbones that exist."""

import importlib
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.options import DEFAULT_ENGINE

INPUT_SIZE = 299
"""Height and width, in pixels, of the images that every backbone takes."""

# Name -> module and class. The modules are imported only when needed.
_BACKBONES = {
    "xception": ("captioner_core.features.xception", "Xception"),
    "xception-mirrored": ("captioner_core.features.xception", "MirroredXception"),
}


class Features(NamedTuple):
    """The features of a batch of images.

    Args:
      averages: float32 [batch, FEATURE_DIM], the average of the last feature map.
      grid: float32 [batch, GRID_CELLS, CELL_DIM]. A cell holds the features of several depths of
        the network, each depth standardised over its channels.
    """

    averages: npt.NDArray[np.float32]
    grid: npt.NDArray[np.float32]


class Backbone(Protocol):
    """A convolutional network with frozen weights."""

    name: str
    """The name in a features table: architecture, weights and input size."""
    input_size: int
    """Height and width of the images that the network takes, in pixels."""
    precision: str
    """One of ``options.PRECISIONS``."""
    engine: str
    """One of ``options.ENGINES``."""

    def features(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns the features of a batch of images.

        Args:
          pixels: uint8 [batch, input_size, input_size, 3], RGB. A batch has one image or more.
        """


def load_backbone(name: str, precision: str = "float32", engine: str = DEFAULT_ENGINE) -> Backbone:
    """Returns a backbone with its weights, which must already be in the cache.

    Args:
      name: One of ``options.BACKBONES``.
      precision: One of ``options.PRECISIONS``.
      engine: One of ``options.ENGINES``.

    Raises:
      CaptionerError: The name or the engine is not known, the weights are not in the cache, or the
        engine cannot compute in this precision on this machine.
    """
    if name not in _BACKBONES:
        raise CaptionerError(
            f"backbone {name!r} is not known; choose one of {', '.join(_BACKBONES)}"
        )
    module, class_name = _BACKBONES[name]
    backbone: Backbone = getattr(importlib.import_module(module), class_name)(precision, engine)
    return backbone
