"""Features and captions of a dataset, in memory, and the batches that training takes.

Features are kept as float16 cells, pooled as the model wants them, and a batch is a few
indices into them; nothing of the input is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core import layout, storage
from captioner_core.errors import CaptionerError
from captioner_core.model.config import GRID_SIDE
from captioner_core.text import Vocabulary

TRAIN, DEV = "train", "dev"


@dataclass(frozen=True)
class FeatureTable:
    """Features of images, by row.

    Args:
      image_ids: of each row.
      mean: float32 [images, feature_dim].
      cells: float16 [images, cells, feature_dim].
      backbone: what made them.
    """

    image_ids: tuple[str, ...]
    mean: npt.NDArray[np.float32]
    cells: npt.NDArray[np.float16]
    backbone: str


@dataclass(frozen=True)
class Split:
    """The images of a split that have features and captions.

    Args:
      rows: int32 [images], their places in the feature table.
      words: int32 [images, captions, steps + 1], all PAD where an image has fewer captions.
    """

    rows: npt.NDArray[np.int32]
    words: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def caption_count(self) -> int:
        return int((self.words[:, :, 0] != 0).sum())

    def batches(self, size: int, order: npt.NDArray[np.intp] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows int32 [batch] and words int32 [batch, captions, steps + 1], in an order."""
        order = np.arange(len(self)) if order is None else order
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield self.rows[chosen], self.words[chosen]


def read_captions_by_split(dataset_dir: str) -> dict[str, dict[str, list[str]]]:
    """The captions of a dataset: split, then image, then its captions in order.

    Raises:
      CaptionerError: no captions.parquet, or columns missing.
    """
    uri = layout.join(dataset_dir, layout.DATASET_CAPTIONS)
    columns = ["image_id", "caption_index", "caption", "split"]
    table = storage.read_table(uri, columns, "dataset").sort_by(
        [("image_id", "ascending"), ("caption_index", "ascending")]
    )
    captions: dict[str, dict[str, list[str]]] = {}
    for image_id, caption, split in zip(
        *(table.column(n).to_pylist() for n in ("image_id", "caption", "split")), strict=True
    ):
        captions.setdefault(split, {}).setdefault(image_id, []).append(caption)
    return captions


def read_features(uri: str, grid_side: int) -> FeatureTable:
    """A features table with its grid, pooled to ``grid_side`` cells a side as it is read.

    Raises:
      CaptionerError: no features table, no grid in it, or more than one backbone.
    """
    dataset = storage.open_table(uri, "features table")
    columns = ["image_id", "backbone", "feature", "grid"]
    missing = [name for name in columns if name not in dataset.schema.names]
    if missing:
        raise CaptionerError(
            f"features table {uri!r} has no column {missing[0]!r}; extract them with 'captioner extract --grid'"
        )
    image_ids: list[str] = []
    means, cells, backbones = [], [], set()
    # a grid is 400 kB: small batches and no reading ahead keep memory at what is kept
    for batch in dataset.to_batches(columns=columns, batch_size=64, batch_readahead=1, fragment_readahead=1):
        image_ids += batch.column("image_id").to_pylist()
        backbones.update(batch.column("backbone").to_pylist())
        means.append(_matrix(batch.column("feature")).astype(np.float32))
        cells.append(_pooled(_matrix(batch.column("grid")), means[-1].shape[1], grid_side))
    if not image_ids:
        raise CaptionerError(f"features table {uri!r} is empty; extract the dataset's images first")
    if len(backbones) > 1:
        raise CaptionerError(f"features table {uri!r} mixes backbones {sorted(backbones)}; extract all images with one")
    return FeatureTable(tuple(image_ids), np.concatenate(means), np.concatenate(cells), backbones.pop())


def make_split(captions: dict[str, list[str]], features: FeatureTable, vocabulary: Vocabulary, max_words: int) -> Split:
    """The images of a split that have features, with their captions as word ids."""
    place = {image_id: row for row, image_id in enumerate(features.image_ids)}
    used = [image_id for image_id in captions if image_id in place]
    most = max((len(captions[image_id]) for image_id in used), default=1)
    words = np.zeros((len(used), most, max_words + 2), np.int32)
    for row, image_id in enumerate(used):
        for number, caption in enumerate(captions[image_id]):
            words[row, number] = vocabulary.encode(caption, max_words)
    return Split(np.array([place[image_id] for image_id in used], np.int32), words)


def _matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)


def _pooled(grid: np.ndarray, feature_dim: int, side: int) -> np.ndarray:
    """float16 [n, side², feature_dim]: averages of squares of the map, as ``pool_grid`` makes them."""
    block = GRID_SIDE // side
    squares = grid.astype(np.float32).reshape(-1, side, block, side, block, feature_dim)
    return squares.mean(axis=(2, 4)).reshape(len(grid), side * side, feature_dim).astype(np.float16)
