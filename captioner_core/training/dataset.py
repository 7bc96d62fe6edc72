"""Captions and features of a dataset, in the form in which training uses them.

Captions are text and fit into memory. Features may not, so each process reads only those of its
own images into a file that the operating system pages in and out. The file holds the cells that the
model attends over.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.grid import attended_cells
from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import storage
from captioner_core.io.arrays import stack_vectors
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
from captioner_core.training.rewards.self_critical import CaptionReward

TRAIN = "train"
DEV = "dev"
_INDEX = "caption_index"
_DATASET_ROWS = pa.schema(
    {"image_id": pa.string(), _INDEX: pa.int64(), "caption": pa.string(), "split": pa.string()}
)


@dataclass(frozen=True)
class FeatureStore:
    """The features of some images.

    Args:
      cells: float16 [images, cells, cell_dim], in a file.
    """

    cells: npt.NDArray[np.float16]


@dataclass(frozen=True)
class EncodedCaptions:
    """The captions of some images as word ids.

    Args:
      words: int32 [images, captions, max_words + 2]: START, the words, END, then PAD. Images with
        fewer captions than others have rows of PAD.
    """

    words: npt.NDArray[np.int32]

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.words)

    @property
    def caption_count(self) -> int:
        """The number of captions of all images."""
        return int((self.words[:, :, 0] != PAD).sum())


@dataclass(frozen=True)
class SplitPart:
    """The part of a split that one dataset fills.

    Args:
      name: The name of the dataset.
      images: The number of its images in the split.
      weight: How much each caption counts in training, and the dataset in figures of dev.
      reward: The reward of sampled captions, which only self-critical training needs.
    """

    name: str
    images: int
    weight: float = 1.0
    reward: CaptionReward | None = None


@dataclass(frozen=True)
class Split:
    """The images of a split: captions of all, features of those that this process needs.

    Args:
      captions: The captions of all images as word ids.
      features: The features of the images of ``ReplicaContext.local_rows``, in that order.
      parts: The datasets that the images come from. Their images follow one another.
      mirrored: The features of the same images mirrored, if there are any.
    """

    captions: EncodedCaptions
    features: FeatureStore
    parts: tuple[SplitPart, ...]
    mirrored: FeatureStore | None = None

    def part_of(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns int64 [batch]: the number of the part that each image belongs to.

        Args:
          rows: int64 [batch], rows among all images.
        """
        ends = np.cumsum([part.images for part in self.parts])
        return np.searchsorted(ends, rows, side="right")

    def weights(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Returns float32 [batch]: the weight of each image's captions, 1 on average over images.

        Args:
          rows: int64 [batch], rows among all images.
        """
        weights = np.array([part.weight for part in self.parts])
        mean = np.average(weights, weights=[part.images for part in self.parts])
        return np.asarray(weights / mean, np.float32)[self.part_of(rows)]

    def score(
        self, rows: npt.NDArray[np.int64], words: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float32]:
        """Returns the reward of captions, each measured by its own dataset.

        Args:
          rows: int64 [batch], rows among all images.
          words: int32 [batch, samples, steps], each sample followed by END and then PAD.

        Returns:
          float32 [batch, samples].
        """
        scores = np.zeros(words.shape[:2], np.float32)
        parts = self.part_of(rows)
        first_row = 0
        for number, part in enumerate(self.parts):
            assert part.reward is not None
            chosen = parts == number
            scores[chosen] = part.reward.score(rows[chosen] - first_row, words[chosen])
            first_row += part.images
        return scores

    def select_cells(
        self, rows: npt.NDArray[np.int64], is_mirrored: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float16]:
        """Returns the cells of some images, mirrored where that is wanted and possible.

        Args:
          rows: int64 [batch], rows among the features.
          is_mirrored: bool [batch], whether an image is wanted mirrored.

        Returns:
          float16 [batch, cells, cell_dim].
        """
        cells = self.features.cells[rows]
        if self.mirrored is not None:
            cells[is_mirrored] = self.mirrored.cells[rows[is_mirrored]]
        return cells


class FeaturesTable(NamedTuple):
    """A features table that has the grid.

    Args:
      dataset: The table, of which nothing but ids is read yet.
      image_ids: The ids of its images.
      backbone: The name of the backbone that made it.
    """

    dataset: pads.Dataset
    image_ids: set[str]
    backbone: str


class GridBatch(NamedTuple):
    """The features of a few images.

    Args:
      image_ids: The ids of the images.
      averages: float32 [images, FEATURE_DIM].
      grids: float16 [images, GRID_CELLS * CELL_DIM].
    """

    image_ids: list[str]
    averages: npt.NDArray[np.float32]
    grids: npt.NDArray[np.float16]


def read_captions_by_split(dataset_dir: str) -> dict[str, dict[str, list[str]]]:
    """Returns the captions of a dataset by split, then by image, in their order.

    Columns may be of any type that holds text, and a row may hold a list of captions. Without a
    column ``caption_index``, an image's captions keep the order of the rows. Line separators within
    captions become spaces.

    Raises:
      CaptionerError: There is no captions.parquet, a column is missing or of a wrong type, a split
        is not known, or an image is in two splits.
    """
    uri = layout.join(dataset_dir, layout.DATASET_CAPTIONS)
    table = _read_dataset_rows(uri)
    captions: dict[str, dict[str, list[str]]] = {}
    split_of: dict[str, str] = {}
    columns = (table.column(name).to_pylist() for name in ("image_id", "caption", "split"))
    for image_id, caption, split in zip(*columns, strict=True):
        if split_of.setdefault(image_id, split) != split:
            # A model would be evaluated on images that it was trained on.
            raise CaptionerError(
                f"table {uri!r}: image {image_id!r} is in the splits {split_of[image_id]!r} and "
                f"{split!r}; put all its captions into one"
            )
        captions.setdefault(split, {}).setdefault(image_id, []).append(single_line(caption))
    return captions


def _read_dataset_rows(uri: str) -> pa.Table:
    """Returns one row per caption of a dataset, sorted by image and then in the captions' order."""
    with readable_table(uri):
        dataset = storage.open_table(uri, "dataset")
        columns = ["image_id", "caption", "split"]
        if _INDEX in dataset.schema.names:
            columns.append(_INDEX)
        table = storage.read_table(uri, columns, "dataset")
        batches = []
        first_row = 1
        for batch in table.to_batches():
            batches.append(_parse_dataset_rows(batch, uri, first_row))
            first_row += len(batch)
        rows = pa.Table.from_batches(batches, schema=_DATASET_ROWS)
        # Sorting by the row number too keeps the order of rows that are equal otherwise.
        order = pa.array(range(len(rows)), pa.int64())
        keys = [("image_id", "ascending"), (_INDEX, "ascending"), ("order", "ascending")]
        return rows.append_column("order", order).sort_by(keys)


def _parse_dataset_rows(batch: pa.RecordBatch, uri: str, first_row: int) -> pa.RecordBatch:
    """Returns rows of a user's table in the types of ``_DATASET_ROWS``."""
    ids = text_column(batch.column("image_id"), "image_id", uri, first_row)
    splits = split_column(batch.column("split"), uri, first_row)
    index = pa.nulls(len(batch), pa.int64())
    if _INDEX in batch.schema.names:
        try:
            index = batch.column(_INDEX).cast(pa.int64())
        except pa.ArrowException as error:
            raise CaptionerError(
                f"table {uri!r}, column {_INDEX!r}: {first_line(error)}; write integers"
            ) from error
    checked = pa.record_batch(
        {"image_id": ids, _INDEX: index, "caption": batch.column("caption"), "split": splits}
    )
    return explode_captions(checked, uri, first_row=first_row)


def encode_captions(
    captions: Sequence[Sequence[str]], vocabulary: Vocabulary, max_words: int
) -> EncodedCaptions:
    """Returns the captions of some images as word ids, in the given order of the images."""
    captions_per_image = max(map(len, captions), default=1)
    words = np.full((len(captions), captions_per_image, max_words + 2), PAD, np.int32)
    for row, texts in enumerate(captions):
        for number, text in enumerate(texts):
            words[row, number] = vocabulary.encode(text, max_words)
    return EncodedCaptions(words)


def open_features(uri: str) -> FeaturesTable:
    """Returns a features table that has the grid.

    Raises:
      CaptionerError: There is no features table, or it has no grid, no row, or rows of more than
        one backbone.
    """
    dataset = storage.open_table(uri, "features table")
    for name in ("image_id", "backbone", "feature", "grid"):
        if name not in dataset.schema.names:
            raise CaptionerError(
                f"features table {uri!r} has no column {name!r}; extract them with "
                "'captioner extract --grid'"
            )
    with readable_table(uri):
        table = dataset.to_table(columns=["image_id", "backbone"])
    image_ids = text_column(table.column("image_id"), "image_id", uri).to_pylist()
    backbone_column = text_column(table.column("backbone"), "backbone", uri)
    backbones = sorted(pc.unique(backbone_column).to_pylist())
    if not backbones:
        raise CaptionerError(f"features table {uri!r} is empty; extract the dataset's images first")
    if len(backbones) > 1:
        raise CaptionerError(
            f"features table {uri!r} mixes backbones {backbones}; extract all images with one"
        )
    return FeaturesTable(dataset, set(image_ids), str(backbones[0]))


def check_same_images(dataset_dir: str, features_uri: str) -> None:
    """Refuses features of other images that have the same names as those of a dataset.

    The digests of the images' bytes are compared. Datasets of earlier versions and of other tools
    may state none; then the names alone connect images and features.

    Args:
      dataset_dir: The dataset.
      features_uri: The features table.

    Raises:
      CaptionerError: An image of the dataset has other bytes than the image of its features.
    """
    dataset_digests = _read_digests(layout.join(dataset_dir, layout.DATASET_CAPTIONS))
    features_digests = _read_digests(features_uri) if dataset_digests else {}
    for image_id in sorted(dataset_digests.keys() & features_digests.keys()):
        if dataset_digests[image_id] != features_digests[image_id]:
            raise CaptionerError(
                f"features {features_uri!r} are of another image {image_id!r} than the one in "
                f"dataset {dataset_dir!r}; extract the images of "
                f"{layout.join(dataset_dir, layout.DATASET_IMAGES)!r}"
            )


def _read_digests(uri: str) -> dict[str, str]:
    table = storage.open_table(uri)
    if not {"image_id", "image_sha256"} <= set(table.schema.names):
        return {}
    with readable_table(uri):
        rows = table.to_table(columns=["image_id", "image_sha256"])
    ids = text_column(rows.column("image_id"), "image_id", uri).to_pylist()
    digests = rows.column("image_sha256").cast(pa.string()).to_pylist()
    return {image_id: digest for image_id, digest in zip(ids, digests, strict=True) if digest}


def load_features(
    tables: Sequence[tuple[pads.Dataset, Sequence[str]]], config: CaptionerConfig, scratch: Path
) -> FeatureStore:
    """Returns the features of some images of several tables, in the given order.

    Args:
      tables: Features tables, each with the ids of images that it holds; see ``open_features``.
      config: The captioner's configuration, which decides the cells.
      scratch: The folder for the file of the features. The file disappears with this process.
    """
    images = sum(len(image_ids) for _, image_ids in tables)
    # A file cannot be mapped into memory unless it has at least one row.
    shape = (max(1, images), config.cell_count, config.cell_dim)
    with tempfile.TemporaryFile(dir=scratch) as file:
        cells: npt.NDArray[np.float16] = np.memmap(file, np.float16, "w+", shape=shape)
    first_row = 0
    for table, image_ids in tables:
        row_of = {image_id: first_row + row for row, image_id in enumerate(image_ids)}
        for batch in read_grids(table, image_ids):
            rows = [row_of[image_id] for image_id in batch.image_ids]
            cells[rows] = attended_cells(batch.grids, config)
        first_row += len(image_ids)
    return FeatureStore(cells[:images])


def read_grids(dataset: pads.Dataset, image_ids: Sequence[str]) -> Iterator[GridBatch]:
    """Yields the features of some images, a few images at a time, in the order of the table.

    Args:
      dataset: A features table; see ``open_features``.
      image_ids: The ids of the images.

    Raises:
      CaptionerError: The table is damaged, or a vector is null or shorter than the others.
    """
    uri = dataset.files[0] if isinstance(dataset, pads.FileSystemDataset) else "features"
    wanted = pa.array(list(image_ids), pa.string())
    # While pyarrow reads a table, it cannot filter columns of the string-view types.
    filters_later = is_view(dataset.schema.field("image_id").type)
    batches = dataset.to_batches(
        columns=["image_id", "feature", "grid"],
        filter=None if filters_later else pc.field("image_id").isin(wanted),
        batch_size=64,  # A grid takes 190 kB, so few rows at a time keep memory low.
        batch_readahead=1,
        fragment_readahead=1,
    )
    with readable_table(uri):
        for batch in batches:
            ids = text_column(batch.column("image_id"), "image_id", uri)
            features = vector_column(batch.column("feature"), "feature", uri)
            grids = vector_column(batch.column("grid"), "grid", uri)
            if filters_later:
                chosen = pc.is_in(ids, value_set=wanted)
                ids, features, grids = (part.filter(chosen) for part in (ids, features, grids))
            if len(ids):
                averages = stack_vectors(features).astype(np.float32)
                yield GridBatch(ids.to_pylist(), averages, stack_vectors(grids))


def read_train_and_dev(dataset: str) -> dict[str, dict[str, list[str]]]:
    """Returns the captions of each image by split, of a dataset that has the splits train and dev.

    Raises:
      CaptionerError: The dataset cannot be read, or lacks one of the two.
    """
    splits = read_captions_by_split(dataset)
    for split in (TRAIN, DEV):
        if not splits.get(split):
            raise CaptionerError(
                f"dataset {dataset!r} has no split {split!r}; give captions.parquet one"
            )
    return splits


def dataset_summary(dataset: str) -> dict[str, str]:
    """Returns the name and the licence of a dataset, as far as its folder states them."""
    uri = layout.join(dataset, layout.DATASET_SUMMARY)
    summary = storage.read_json(uri) if storage.exists(uri) else {}
    return {name: summary[name] for name in ("name", "licence") if name in summary}
