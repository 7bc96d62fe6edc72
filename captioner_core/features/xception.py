"""Xception with ImageNet weights (Chollet 2017, https://arxiv.org/abs/1610.02357)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from captioner_core.features.base import INPUT_SIZE, Features
from captioner_core.features.engines import load_engine
from captioner_core.options import DEFAULT_ENGINE
from captioner_core.tables.schemas import GRID_SIDE


class Xception:
    """Xception up to its last feature map.

    The grid joins three depths of the network. The last map knows objects and scenes best; the
    earlier maps keep colours, textures and positions, which a classifier of objects does not need.

    Captions and matches are equally good in every precision (bench/precision.py). Models may
    therefore be trained on features of any precision, and ``name`` says float32 for all.

    Args:
      precision: One of ``options.PRECISIONS``.
      engine: One of ``options.ENGINES``.

    Raises:
      CaptionerError: The weights are not in the cache (``captioner assets`` fetches them), or the
        engine cannot compute in this precision on this machine.
    """

    name = f"xception-imagenet-{INPUT_SIZE}-grid{GRID_SIDE}-float32"
    input_size = INPUT_SIZE

    def __init__(self, precision: str = "float32", engine: str = DEFAULT_ENGINE) -> None:
        self.precision = precision
        self.engine = engine
        self._network = load_engine(engine).load_xception(precision)

    def features(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns averages and grid of a batch of images; see ``Backbone.features``."""
        return self._network(pixels)


class MirroredXception(Xception):
    """Xception over mirrored images, whose features training may use beside the plain ones.

    Its own name keeps the features of mirrored images from being taken for the plain ones.
    """

    name = f"{Xception.name}-mirrored"

    def features(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns averages and grid of the mirrored images; see ``Backbone.features``."""
        return super().features(pixels[:, :, ::-1])
