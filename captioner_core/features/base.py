"""What a backbone is, and the table of those there are."""

from __future__ import annotations

import importlib
from typing import Protocol

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError

# name -> module and class; imported when asked for, since they load TensorFlow
_BACKBONES = {
    "xception": ("captioner_core.features.xception", "Xception"),
    "xception-mirrored": ("captioner_core.features.xception", "MirroredXception"),
}


class Backbone(Protocol):
    """A frozen convolutional network with its weights loaded."""

    name: str
    """What the features table states: architecture, weights, input size and precision."""
    input_size: int
    """Height and width of the pictures that it takes, in pixels."""

    def features(
        self, pixels: npt.NDArray[np.uint8]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Features of a batch.

        Args:
          pixels: uint8 [batch, input_size, input_size, 3], RGB.

        Returns:
          The averages of the last map, float32 [batch, 2048], and the grid, float32
          [batch, 25, 3800]: for each of 5 x 5 cells what several depths of the network see there,
          each depth standardised over its channels.
        """
        ...


def load_backbone(name: str, precision: str = "float32") -> Backbone:
    """A backbone by its name, with its weights; fetches nothing.

    Args:
      name: one of ``options.BACKBONES``.
      precision: one of ``options.PRECISIONS``.

    Raises:
      CaptionerError: the name is not known, its weights are not in the cache, or the processor lacks the precision.
    """
    if name not in _BACKBONES:
        raise CaptionerError(
            f"backbone {name!r} is not known; choose one of {', '.join(_BACKBONES)}"
        )
    module, class_name = _BACKBONES[name]
    backbone: Backbone = getattr(importlib.import_module(module), class_name)(precision)
    return backbone
