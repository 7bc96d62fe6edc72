"""The cells of an image's feature grid that a captioner attends over."""

from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.tables.schemas import GRID_CELLS


def attended_cells(grid: npt.NDArray[Any], config: CaptionerConfig) -> npt.NDArray[Any]:
    """Returns the cells that a captioner attends over.

    Args:
      grid: float [batch, GRID_CELLS * cell_dim] as in a features table, or
        [batch, GRID_CELLS, cell_dim] as from ``Backbone.features``.
      config: The captioner's configuration.

    Returns:
      float [batch, config.cell_count, cell_dim]: the grid's cells, or only their average.
    """
    cells = grid.reshape(len(grid), GRID_CELLS, config.cell_dim)
    if config.attention == "grid":
        return cells
    return cells.mean(axis=1, keepdims=True, dtype=np.float32)
