"""Captions and features tables of runs and datasets, as matching wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core import layout, runs, storage
from captioner_core.errors import CaptionerError
from captioner_core.matching import CaptionIndex, ImageFacts
from captioner_core.schemas import HUMAN
from captioner_core.text_encoders import load_encoder


@dataclass(frozen=True, slots=True)
class CaptionRecord:
    """A caption of an image, whichever kind of table it came from."""

    image_id: str
    caption: str
    source: str


def check_captions_table(uri: str) -> None:
    """Refuses, before work starts, what is not a captions table of a finished run or a dataset.

    Raises:
      CaptionerError: nothing there, not Parquet, a column missing, or its run is not complete.
    """
    names = set(storage.open_table(uri, "captions table").schema.names)
    missing = {"image_id", "caption"} - names
    if missing or not names & {"source", "split"}:
        raise CaptionerError(
            f"captions table {uri!r} lacks the columns of a run's or dataset's captions (it has "
            f"{', '.join(sorted(names))}); name ROOT/runs/RUN_ID/captions or DATASET_DIR/captions.parquet"
        )
    folder, _, name = uri.rstrip("/").rpartition("/")
    if name == layout.CAPTIONS:
        runs.read_manifest(folder)


def read_captions(uri: str, splits: Sequence[str] = ()) -> Iterator[CaptionRecord]:
    """The captions of a table, a batch at a time.

    Args:
      uri: a run's captions folder or a dataset's ``captions.parquet``.
      splits: of a dataset, these splits alone; all where empty.
    """
    dataset = storage.open_table(uri, "captions table")
    is_run = "source" in dataset.schema.names
    columns = ["image_id", "caption", *(["source"] if is_run else [])]
    wanted = pc.field("split").isin(list(splits)) if splits and not is_run else None
    for batch in dataset.to_batches(columns=columns, filter=wanted):
        columns_read = [batch.column(name).to_pylist() for name in columns]
        for image_id, caption, *source in zip(*columns_read, strict=True):
            yield CaptionRecord(image_id, caption, source[0] if source else HUMAN)


def features_beside(captions_uri: str) -> str | None:
    """The features table of the run that a captions table belongs to, if there is one."""
    folder, _, name = captions_uri.rstrip("/").rpartition("/")
    beside = layout.join(folder, layout.FEATURES) if folder and name == layout.CAPTIONS else None
    return beside if beside and storage.list_parts(beside) else None


def read_image_facts(uris: Iterable[str]) -> ImageFacts:
    """Unit feature vectors and sha256 of every image in some features tables; the first table that has an image counts.

    Raises:
      CaptionerError: a table is not a features table, or two were made by different backbones.
    """
    place: dict[str, int] = {}
    sha256: list[str] = []
    vectors: list[np.ndarray] = []
    made_by: dict[str, str] = {}
    for uri in dict.fromkeys(uris):
        for batch in _feature_batches(uri):
            made_by.update(dict.fromkeys(pc.unique(batch.column("backbone")).to_pylist(), uri))
            new = [i for i, image_id in enumerate(batch.column("image_id").to_pylist()) if image_id not in place]
            batch = batch.take(pa.array(new, pa.int64()))
            place.update({image_id: len(place) + i for i, image_id in enumerate(batch.column("image_id").to_pylist())})
            sha256 += batch.column("image_sha256").to_pylist()
            vectors.append(unit_rows(batch.column("feature")))
    if len(made_by) > 1:
        (one, uri), (other, other_uri), *_ = made_by.items()
        raise CaptionerError(
            f"features {uri!r} are of backbone {one!r} and {other_uri!r} of {other!r}; "
            "cosines between backbones mean nothing, extract one of them again"
        )
    together = np.concatenate(vectors) if vectors else np.zeros((0, 0), np.float32)
    return ImageFacts(place, together, sha256, next(iter(made_by), ""))


def _feature_batches(uri: str) -> Iterator[pa.RecordBatch]:
    columns = ["image_id", "image_sha256", "backbone", "feature"]
    dataset: pads.Dataset = storage.open_table(uri, "features table")
    missing = [name for name in columns if name not in dataset.schema.names]
    if missing:
        raise CaptionerError(f"features table {uri!r} has no column {missing[0]!r}; name ROOT/runs/RUN_ID/features")
    yield from dataset.to_batches(columns=columns, batch_size=1024)


def unit_rows(column: pa.FixedSizeListArray) -> np.ndarray:
    """float32 [rows, dim] of a column of vectors, each of length 1 unless it is all zeros."""
    rows = storage.vectors(column).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.where(lengths > 0, lengths, 1)
    return unit


def load_index(index: Sequence[str], splits: Sequence[str], features: Sequence[str], encoder_name: str) -> CaptionIndex:
    """Everything that queries are matched against, from tables.

    Args:
      index: captions tables of runs and datasets.
      splits: of datasets, these splits alone; all where empty.
      features: features tables of images on both sides.
      encoder_name: one of ``options.ENCODERS``.
    """
    records = sorted({record for uri in index for record in read_captions(uri, splits)}, key=astuple)
    return CaptionIndex(
        [record.image_id for record in records],
        [record.caption for record in records],
        [record.source for record in records],
        load_encoder(encoder_name),
        read_image_facts(features),
    )
