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
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.network import attended_cells
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.tables import layout
from captioner_core.tables.columns import (
    explode_captions,
    is_view,
    readable_table,
    split_column,
    text_column,
    vector_column,
)
from captioner_core.text.vocabulary import PAD, Vocabulary, single_line

TRAIN, DEV = "train", "dev"
_INDEX = "caption_index"
_DATASET_ROWS = pa.schema(
    {"image_id": pa.string(), _INDEX: pa.int64(), "caption": pa.string(), "split": pa.string()}
)


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
    """Returns the captions of a dataset: split, then image, then its captions in order.

    Columns may be of any type that holds text, and a row may hold a list of captions. Without the
    column ``caption_index`` an image's captions keep the order of the rows. Line separators within
    captions become spaces.

    Raises:
      CaptionerError: there is no captions.parquet, a column is missing or is not what it should be,
        a split is not known, or an image is in two splits.
    """
    uri = layout.join(dataset_dir, layout.DATASET_CAPTIONS)
    table = _read_dataset_rows(uri)
    captions: dict[str, dict[str, list[str]]] = {}
    split_of: dict[str, str] = {}
    for image_id, caption, split in zip(
        *(table.column(n).to_pylist() for n in ("image_id", "caption", "split")), strict=True
    ):
        if split_of.setdefault(image_id, split) != split:
            # A model would be evaluated on images that it has learnt.
            raise CaptionerError(
                f"table {uri!r}: image {image_id!r} is in the splits {split_of[image_id]!r} and {split!r}; "
                "put all its captions into one"
            )
        captions.setdefault(split, {}).setdefault(image_id, []).append(single_line(caption))
    return captions


def _read_dataset_rows(uri: str) -> pa.Table:
    """Returns a dataset's captions, one a row, sorted by image and then in their order."""
    with readable_table(uri):
        dataset = storage.open_table(uri, "dataset")
        columns = ["image_id", "caption", "split"]
        if _INDEX in dataset.schema.names:
            columns.append(_INDEX)
        table = storage.read_table(uri, columns, "dataset")
        batches = []
        first_row = 1
        for batch in table.to_batches():
            batches.append(_dataset_rows(batch, uri, first_row))
            first_row += len(batch)
        rows = pa.Table.from_batches(batches, schema=_DATASET_ROWS)
        order = pa.array(
            range(len(rows)), pa.int64()
        )  # sorting alone would not keep the order of equal rows
        keys = [("image_id", "ascending"), (_INDEX, "ascending"), ("order", "ascending")]
        return rows.append_column("order", order).sort_by(keys)


def _dataset_rows(batch: pa.RecordBatch, uri: str, first_row: int) -> pa.RecordBatch:
    """Returns rows of a user's table in the types of ``_DATASET_ROWS``."""
    ids = text_column(batch.column("image_id"), "image_id", uri, first_row)
    splits = split_column(batch.column("split"), uri, first_row)
    index = pa.nulls(len(batch), pa.int64())
    if _INDEX in batch.schema.names:
        try:
            index = batch.column(_INDEX).cast(pa.int64())
        except pa.ArrowException as error:
            raise CaptionerError(
                f"table {uri!r}, column {_INDEX!r}: {storage.first_line(error)}; write integers"
            ) from error
    checked = pa.record_batch(
        {"image_id": ids, _INDEX: index, "caption": batch.column("caption"), "split": splits}
    )
    return explode_captions(checked, uri, first_row=first_row)


def encode_captions(
    captions: dict[str, list[str]], vocabulary: Vocabulary, max_words: int
) -> Captions:
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
    missing = [
        name
        for name in ("image_id", "backbone", "feature", "grid")
        if name not in dataset.schema.names
    ]
    if missing:
        raise CaptionerError(
            f"features table {uri!r} has no column {missing[0]!r}; extract them with 'captioner extract --grid'"
        )
    with readable_table(uri):
        table = dataset.to_table(columns=["image_id", "backbone"])
    image_ids = text_column(table.column("image_id"), "image_id", uri).to_pylist()
    backbones = sorted(
        pc.unique(text_column(table.column("backbone"), "backbone", uri)).to_pylist()
    )
    if not backbones:
        raise CaptionerError(f"features table {uri!r} is empty; extract the dataset's images first")
    if len(backbones) > 1:
        raise CaptionerError(
            f"features table {uri!r} mixes backbones {backbones}; extract all images with one"
        )
    return dataset, set(image_ids), str(backbones[0])


def check_same_images(dataset_dir: str, features_uri: str) -> None:
    """Refuses features of other images than a dataset's that have the same names.

    The digests of the images' bytes tell. Datasets of earlier versions and of other tools state none, and
    their features are found by the images' names alone.

    Args:
      dataset_dir: the dataset.
      features_uri: the features table.

    Raises:
      CaptionerError: an image of the dataset has other bytes than the image of its features.
    """
    captions_uri = layout.join(dataset_dir, layout.DATASET_CAPTIONS)
    of_dataset = _digests(captions_uri)
    of_features = _digests(features_uri) if of_dataset else {}
    for image_id in sorted(of_dataset.keys() & of_features.keys()):
        if of_dataset[image_id] != of_features[image_id]:
            raise CaptionerError(
                f"features {features_uri!r} are of another image {image_id!r} than the one in dataset {dataset_dir!r}; "
                f"extract the images of {layout.join(dataset_dir, layout.DATASET_IMAGES)!r}"
            )


def _digests(uri: str) -> dict[str, str]:
    """Returns the digest of each image that a table states one for."""
    table = storage.open_table(uri)
    if not {"image_id", "image_sha256"} <= set(table.schema.names):
        return {}
    with readable_table(uri):
        rows = table.to_table(columns=["image_id", "image_sha256"])
    ids = text_column(rows.column("image_id"), "image_id", uri).to_pylist()
    digests = rows.column("image_sha256").cast(pa.string()).to_pylist()
    return {image_id: digest for image_id, digest in zip(ids, digests, strict=True) if digest}


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
    """Yields ids, averages [n, 2048] and grids [n, 25 * 3800] of some images, a few at a time.

    Raises:
      CaptionerError: the table is damaged, or a vector is null or shorter than the others.
    """
    uri = dataset.files[0] if isinstance(dataset, pads.FileSystemDataset) else "features"
    wanted = pa.array(list(image_ids), pa.string())
    # pyarrow cannot filter by the view types while it reads
    filter_later = is_view(dataset.schema.field("image_id").type)
    by_id = None if filter_later else pc.field("image_id").isin(wanted)
    columns = ["image_id", "feature", "grid"]
    # a grid is 190 kB: small batches and no reading ahead keep memory at what is needed
    batches = dataset.to_batches(
        columns=columns, filter=by_id, batch_size=64, batch_readahead=1, fragment_readahead=1
    )
    with readable_table(uri):
        for batch in batches:
            ids = text_column(batch.column("image_id"), "image_id", uri)
            feature, grid = (vector_column(batch.column(name), name, uri) for name in columns[1:])
            if filter_later:
                chosen = pc.is_in(ids, value_set=wanted)
                ids, feature, grid = (array.filter(chosen) for array in (ids, feature, grid))
            if len(ids):
                averages = storage.vectors(feature).astype(np.float32)
                yield ids.to_pylist(), averages, storage.vectors(grid)


def dataset_summary(dataset: str) -> dict[str, Any]:
    """Name and licence of a dataset, where its folder states them."""
    uri = layout.join(dataset, layout.DATASET_SUMMARY)
    summary = storage.read_json(uri) if storage.exists(uri) else {}
    return {name: summary[name] for name in ("name", "licence") if name in summary}
