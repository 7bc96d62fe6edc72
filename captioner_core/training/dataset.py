"""Features and captions of a dataset, as training wants them.

Captions are text and fit into memory. Features don't always: each worker reads those of its
own images alone, pooled as the model wants them, into a file that the system pages in and out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core import layout, storage
from captioner_core.errors import CaptionerError
from captioner_core.model.captioner import attended_cells
from captioner_core.model.config import CaptionerConfig
from captioner_core.text import PAD, Vocabulary

TRAIN, DEV = "train", "dev"


@dataclass(frozen=True)
class FeatureStore:
    """Features of some images, by row.

    Args:
      cells: float16 [images, cells, cell_dim], in a file.
    """

    cells: npt.NDArray[np.float16]


@dataclass(frozen=True)
class Captions:
    """Captions of some images as word ids, by row.

    Args:
      words: int32 [images, captions, steps + 1], all PAD where an image has fewer captions.
    """

    words: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.words)

    @property
    def caption_count(self) -> int:
        return int((self.words[:, :, 0] != PAD).sum())


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


def encode_captions(captions: dict[str, list[str]], vocabulary: Vocabulary, max_words: int) -> Captions:
    """The captions of some images as word ids, images in the order given."""
    most = max(map(len, captions.values()), default=1)
    words = np.zeros((len(captions), most, max_words + 2), np.int32)
    for row, listed in enumerate(captions.values()):
        for number, caption in enumerate(listed):
            words[row, number] = vocabulary.encode(caption, max_words)
    return Captions(words)


def open_features(uri: str) -> tuple[pads.Dataset, set[str], str]:
    """A features table that has the grid, the images in it, and the backbone that made it.

    Raises:
      CaptionerError: no features table, no grid in it, nothing in it, or more than one backbone.
    """
    dataset = storage.open_table(uri, "features table")
    missing = [name for name in ("image_id", "backbone", "feature", "grid") if name not in dataset.schema.names]
    if missing:
        raise CaptionerError(
            f"features table {uri!r} has no column {missing[0]!r}; extract them with 'captioner extract --grid'"
        )
    table = dataset.to_table(columns=["image_id", "backbone"])
    backbones = sorted(pc.unique(table.column("backbone")).to_pylist())
    if not backbones:
        raise CaptionerError(f"features table {uri!r} is empty; extract the dataset's images first")
    if len(backbones) > 1:
        raise CaptionerError(f"features table {uri!r} mixes backbones {backbones}; extract all images with one")
    return dataset, set(table.column("image_id").to_pylist()), str(backbones[0])


def load_features(
    dataset: pads.Dataset, image_ids: Sequence[str], config: CaptionerConfig, scratch: Path
) -> FeatureStore:
    """The features of some images, in their order.

    Args:
      dataset: a features table; see ``open_features``.
      image_ids: of the images wanted; all are in the table.
      config: decides the cells.
      scratch: folder for the file, which is gone with this process.
    """
    place = {image_id: row for row, image_id in enumerate(image_ids)}
    with tempfile.TemporaryFile(dir=scratch) as file:
        cells: npt.NDArray[np.float16] = np.memmap(
            file, np.float16, "w+", shape=(max(1, len(place)), config.cells, config.cell_dim)
        )
    for found, _, grids in read_grids(dataset, image_ids):
        cells[[place[image_id] for image_id in found]] = attended_cells(grids, config)
    return FeatureStore(cells[: len(place)])


def read_grids(
    dataset: pads.Dataset, image_ids: Sequence[str]
) -> Iterator[tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.float16]]]:
    """Image ids, averages [n, 2048] and grids [n, 25 * 3800] of some images, a few at a time."""
    wanted = pc.field("image_id").isin(list(image_ids))
    columns = ["image_id", "feature", "grid"]
    # a grid is 190 kB: small batches and no reading ahead keep memory at what is needed
    for batch in dataset.to_batches(
        columns=columns, filter=wanted, batch_size=64, batch_readahead=1, fragment_readahead=1
    ):
        if len(batch):
            feature = storage.vectors(batch.column("feature")).astype(np.float32)
            yield batch.column("image_id").to_pylist(), feature, storage.vectors(batch.column("grid"))


def dataset_summary(dataset: str) -> dict[str, Any]:
    """Name and licence of a dataset, where its folder states them."""
    uri = layout.join(dataset, layout.DATASET_SUMMARY)
    summary = storage.read_json(uri) if storage.exists(uri) else {}
    return {name: summary[name] for name in ("name", "licence") if name in summary}
