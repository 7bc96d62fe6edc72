"""Captions and features tables of runs and datasets, as matching wants them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core import layout, runs, storage
from captioner_core.errors import CaptionerError
from captioner_core.matching import RECORDS, CaptionIndex, ImageFacts, one_chunk
from captioner_core.schemas import FEATURE_DIM, HUMAN
from captioner_core.text_encoders import load_encoder
from captioner_core.text_encoders.base import JointEncoder, TextEncoder

SHA256 = "image_sha256"
INPUTS = RECORDS.append(pa.field(SHA256, pa.string()))
"""Captions as they are read; the digest is empty where it is not known."""
_FEATURES_AT_ONCE = 1_024


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


def check_one_model(uris: Iterable[str], model_id: str | None = None) -> None:
    """Refuses captions that two captioners wrote: their scores tell the models apart, not the images.

    Args:
      uris: captions tables; human captions go with any model.
      model_id: of captions that are yet to be written.

    Raises:
      CaptionerError: there are two models; the line names both.
    """
    made = models_of(uris)
    if model_id:
        made = {model_id: "this run", **made}
    if len(made) > 1:
        (one, uri), (other, other_uri), *_ = made.items()
        raise CaptionerError(
            f"captions of {uri!r} are by model {one!r} and those of {other_uri!r} by {other!r}; "
            "captions of two models don't compare, caption one of the folders again"
        )


def models_of(uris: Iterable[str]) -> dict[str, str]:
    """The captioners that wrote some tables' captions, by their ids, and a table by each."""
    made: dict[str, str] = {}
    for uri in dict.fromkeys(uris):
        for found in _model_ids(uri):
            made.setdefault(found, uri)
    return made


def _model_ids(uri: str) -> list[str]:
    """The captioners that wrote a table's captions, in order of their ids."""
    dataset = storage.open_table(uri, "captions table")
    if not {"source", "model_id"} <= set(dataset.schema.names):
        return []
    wrote = pc.field("source") != HUMAN
    found: set[str] = set()
    for batch in dataset.to_batches(columns=["model_id"], filter=wrote):
        found.update(pc.unique(batch.column("model_id")).to_pylist())
    return sorted(found - {None, ""})


def read_records(uri: str, splits: Sequence[str] = ()) -> Iterator[pa.Table]:
    """The captions of a table, a batch at a time.

    Args:
      uri: a run's captions folder or a dataset's ``captions.parquet``, or one file of either.
      splits: of a dataset, these splits alone; all where empty.

    Yields:
      Tables of the schema ``INPUTS``.
    """
    dataset = storage.open_table(uri, "captions table")
    names = set(dataset.schema.names)
    columns = [name for name in ("image_id", "caption", "source", SHA256) if name in names]
    wanted = pc.field("split").isin(list(splits)) if splits and "split" in names else None
    for batch in dataset.to_batches(columns=columns, filter=wanted):
        read = {name: batch.column(name) for name in columns}
        read.setdefault("source", pa.array([HUMAN] * len(batch), pa.string()))
        read.setdefault(SHA256, pa.array([""] * len(batch), pa.string()))
        yield pa.table([read[name].cast(pa.string()) for name in INPUTS.names], schema=INPUTS)


def read_captions(uri: str, splits: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Image id and caption of each row of a table; see ``read_records``."""
    for table in read_records(uri, splits):
        yield from zip(table.column("image_id").to_pylist(), table.column("caption").to_pylist(), strict=True)


def features_beside(captions_uri: str) -> str | None:
    """The features table of the run that a captions table belongs to, if there is one."""
    folder, _, name = captions_uri.rstrip("/").rpartition("/")
    beside = layout.join(folder, layout.FEATURES) if folder and name == layout.CAPTIONS else None
    return beside if beside and storage.list_parts(beside) else None


def write_image_facts(uris: Iterable[str], folder: str, encoder: TextEncoder) -> None:
    """Gathers what some features tables say into files that ``open_image_facts`` maps.

    Of an image that several tables have the first counts. Memory holds the ids and a batch of features.

    Args:
      uris: features tables.
      folder: to write.
      encoder: where it takes these features too, images get their places in its joint space.

    Raises:
      CaptionerError: a table is not a features table, or two were made by different backbones.
    """
    seen: set[str] = set()
    kept: list[pa.RecordBatch] = []
    made_by: dict[str, str] = {}
    with (
        storage.output_stream(layout.join(folder, "vectors.f32")) as vectors,
        storage.output_stream(layout.join(folder, "joint.f32")) as joint,
    ):
        for uri in dict.fromkeys(uris):
            for batch in _feature_batches(uri):
                made_by.update(dict.fromkeys(pc.unique(batch.column("backbone")).to_pylist(), uri))
                _check_one_backbone(made_by)
                ids = batch.column("image_id").to_pylist()
                new = [place for place, image_id in enumerate(ids) if image_id not in seen]
                seen.update(ids)
                batch = batch.take(pa.array(new, pa.int64()))
                rows = unit_rows(batch.column("feature"))
                vectors.write(rows.tobytes())
                if isinstance(encoder, JointEncoder) and encoder.backbone in made_by:
                    joint.write(encoder.encode_images(rows).tobytes())
                kept.append(batch.select(["image_id", SHA256]))
    listed = pa.Table.from_batches(kept) if kept else pa.table({"image_id": [], SHA256: []})
    arrays = {name: one_chunk(listed.column(name)).cast(pa.string()) for name in listed.column_names}
    dims = {"vectors": FEATURE_DIM, "joint": encoder.dim}
    storage.write_arrays(layout.join(folder, "images.arrow"), arrays, dims)


def open_image_facts(folder: str) -> ImageFacts:
    """What ``write_image_facts`` wrote; its vectors are read as they are used."""
    arrays, dims = storage.map_arrays(layout.join(folder, "images.arrow"))
    vectors, joint = (storage.map_rows(layout.join(folder, f"{name}.f32"), dims[name]) for name in ("vectors", "joint"))
    return ImageFacts(arrays["image_id"], arrays[SHA256], vectors, joint)


def _check_one_backbone(made_by: dict[str, str]) -> None:
    if len(made_by) > 1:
        (one, uri), (other, other_uri), *_ = made_by.items()
        raise CaptionerError(
            f"features {uri!r} are of backbone {one!r} and {other_uri!r} of {other!r}; "
            "cosines between backbones mean nothing, extract one of them again"
        )


def _feature_batches(uri: str) -> Iterator[pa.RecordBatch]:
    columns = ["image_id", SHA256, "backbone", "feature"]
    dataset: pads.Dataset = storage.open_table(uri, "features table")
    missing = [name for name in columns if name not in dataset.schema.names]
    if missing:
        raise CaptionerError(f"features table {uri!r} has no column {missing[0]!r}; name ROOT/runs/RUN_ID/features")
    yield from dataset.to_batches(columns=columns, batch_size=_FEATURES_AT_ONCE, batch_readahead=1)


def unit_rows(column: pa.FixedSizeListArray) -> np.ndarray:
    """float32 [rows, dim] of a column of vectors, each of length 1 unless it is all zeros."""
    rows = storage.vectors(column).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.where(lengths > 0, lengths, 1)
    return unit


def load_index(index: Sequence[str], encoder_name: str) -> CaptionIndex:
    """Captions tables of runs and datasets in memory.

    Args:
      index: the tables.
      encoder_name: one of ``options.ENCODERS``.
    """
    tables = [table.select(RECORDS.names) for uri in index for table in read_records(uri)]
    return CaptionIndex(pa.concat_tables([RECORDS.empty_table(), *tables]), load_encoder(encoder_name))
