"""Small trainings on made-up features, which the tests of training share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from captioner_core.io.tensors import parse_tensors
from captioner_core.options import TrainOptions
from captioner_core.tables import layout
from captioner_core.tables.schemas import (
    CELL_DIM,
    DATASET_CAPTIONS_SCHEMA,
    FEATURE_DIM,
    FEATURES_GRID_SCHEMA,
    GRID_CELLS,
    DatasetCaptionRow,
    FeatureRow,
    rows_as_table,
)

THINGS = ("dog", "cat", "car", "tree")


def grid_of(number: int) -> np.ndarray:
    """Returns float16 [25, 3800] of an image.

    The kind of thing in the image decides the channels with large values; the number adds noise.
    """
    thing = number % len(THINGS)
    grid = np.abs(np.random.default_rng(number).normal(0, 0.1, (GRID_CELLS, CELL_DIM)))
    grid[:, thing * 400 : thing * 400 + 400] += 1
    return grid.astype(np.float16)


def make_source(
    root: Path,
    *,
    first: int = 0,
    templates: Sequence[str] = ("there is a {}", "a {} stands here"),
) -> Path:
    """Writes a dataset of 24 images and the table of their features.

    Every sixth image is in the split dev. The captions name what the features show.

    Args:
      root: an existing folder.
      first: number of the first image. Images of one number have the same features.
      templates: the captions of each image.

    Returns:
      The same folder.
    """
    captions = []
    features = []
    for number in range(first, first + 24):
        image_id = f"{number:02d}.jpg"
        split = "dev" if (number - first) % 6 == 5 else "train"
        for index, text in enumerate(templates):
            captions.append(
                DatasetCaptionRow(image_id, index, text.format(THINGS[number % 4]), split)
            )
        grid = grid_of(number)
        # Other averages than those of the grid, which hardly tell images of one thing apart.
        feature = np.random.default_rng(number).normal(size=FEATURE_DIM).astype(np.float32)
        features.append(
            FeatureRow(
                image_id, image_id, "0" * 64, 10, 10, "fake-299", "float32", "fake", feature, grid
            )
        )
    write(root / "dataset" / layout.DATASET_CAPTIONS, captions, DATASET_CAPTIONS_SCHEMA)
    write(root / "features" / "part-00000.parquet", features, FEATURES_GRID_SCHEMA)
    return root


def write(path, rows, schema):
    """Writes rows as a table of one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_as_table(rows, "r", schema), path)


def options(source, output, **changes) -> TrainOptions:
    """Returns options of a small training; ``changes`` replace some of them."""
    small = TrainOptions(
        dataset=(str(source / "dataset"),),
        features=(str(source / "features"),),
        output=str(output),
        epochs=12,
        dropout=0.2,
        batch_size=4,
        learning_rate=5e-3,
        units=32,
        min_word_count=1,
    )
    return dataclasses.replace(small, **changes)


def weights(folder):
    """Returns the tensors of a model folder, by name."""
    return parse_tensors((folder / "weights.safetensors").read_bytes())


def history(folder):
    """Returns the figures of each epoch of a training."""
    return json.loads((folder / "metrics.json").read_text())["history"]
