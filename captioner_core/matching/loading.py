"""Captions and features tables of runs and datasets, as matching wants them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.matching import RECORDS, CaptionIndex, ImageVectors, one_chunk
from captioner_core.runs import commits
from captioner_core.runs.identity import collection_of_table, image_keys
from captioner_core.tables import layout
from captioner_core.tables.columns import (
    explode_captions,
    readable_table,
    split_column,
    text_column,
)
from captioner_core.tables.schemas import FEATURE_DIM, HUMAN
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split
from captioner_core.text.encoders import load_encoder
from captioner_core.text.encoders.base import JointEncoder, TextEncoder

SHA256 = "image_sha256"
INPUTS = RECORDS.append(pa.field(SHA256, pa.string()))
"""Captions as they are read, by the key of their image; the digest is empty where it is not known."""
_FEATURES_AT_ONCE = 1_024
_FEATURE_COLUMNS = ("image_id", SHA256, "backbone", "feature")


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
        commits.read_manifest(folder)


def check_features_table(uri: str) -> None:
    """Refuses, before work starts, what is not a features table.

    Raises:
      CaptionerError: nothing is there, it is not Parquet, or a column is missing.
    """
    names = storage.open_table(uri, "features table").schema.names
    missing = [name for name in _FEATURE_COLUMNS if name not in names]
    if missing:
        raise CaptionerError(
            f"features table {uri!r} has no column {missing[0]!r}; name ROOT/runs/RUN_ID/features"
        )


def check_splits(splits: Iterable[str]) -> None:
    """Refuses names that no split of a dataset has, which would leave the whole table out.

    Raises:
      CaptionerError: a name is not known.
    """
    for split in splits:
        if canonical_split(split) is None:
            raise CaptionerError(f"--index-splits {split!r} is no split; name {SPLIT_NAMES}")


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
    found: set[str] = set()
    with readable_table(uri):
        for batch in dataset.to_batches(columns=["source", "model_id"]):
            is_generated = pc.not_equal(text_column(batch.column("source"), "source", uri), HUMAN)
            models = batch.column("model_id").cast(pa.string()).filter(is_generated)
            found.update(pc.unique(models).to_pylist())
    return sorted(found - {None, ""})


def read_records(
    uri: str, splits: Sequence[str] = (), collection: str | None = None
) -> Iterator[pa.Table]:
    """Reads the captions of a table, a batch at a time.

    Args:
      uri: a run's captions folder or a dataset's ``captions.parquet``, or one file of either.
      splits: of a dataset, these splits alone; all where empty.
      collection: that the images belong to; the one that the table's run or dataset states where None.

    Yields:
      Tables of the schema ``INPUTS``. Columns of the table may be of any type that holds text, and a
      row with a list of captions is one for each of them.

    Raises:
      CaptionerError: a value is missing or of another type, or a split is not known.
    """
    dataset = storage.open_table(uri, "captions table")
    names = set(dataset.schema.names)
    columns = [name for name in ("image_id", "caption", "source", SHA256, "split") if name in names]
    wanted = {canonical_split(split) or split for split in splits} if "split" in names else set()
    collection = collection_of_table(uri) if collection is None else collection
    first_row = 1
    with readable_table(uri):
        for batch in dataset.to_batches(columns=columns):
            yield _records(batch, uri, collection, wanted, first_row)
            first_row += len(batch)


def _records(
    batch: pa.RecordBatch, uri: str, collection: str, splits: Collection[str], first_row: int
) -> pa.Table:
    """Returns rows of a captions table in the form of ``INPUTS``."""
    columns = {"image_id": text_column(batch.column("image_id"), "image_id", uri, first_row)}
    columns["caption"] = batch.column("caption")
    if "source" in batch.schema.names:
        columns["source"] = text_column(batch.column("source"), "source", uri, first_row)
    else:
        columns["source"] = pa.array([HUMAN] * len(batch), pa.string())
    columns[SHA256] = pa.array([""] * len(batch), pa.string())
    if SHA256 in batch.schema.names:
        columns[SHA256] = pc.fill_null(batch.column(SHA256).cast(pa.string()), "")
    if splits:
        columns["split"] = split_column(batch.column("split"), uri, first_row)
    rows = explode_captions(pa.record_batch(columns), uri, first_row=first_row)
    if splits:
        rows = rows.filter(
            pc.is_in(rows.column("split"), value_set=pa.array(sorted(splits), pa.string()))
        )
    keys = image_keys(rows.column("image_id"), collection)
    return pa.table([keys, *(rows.column(name) for name in INPUTS.names[1:])], schema=INPUTS)


def read_captions(uri: str, splits: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yields the image key and the caption of each row of a table; see ``read_records``."""
    for table in read_records(uri, splits):
        yield from zip(
            table.column("image_key").to_pylist(), table.column("caption").to_pylist(), strict=True
        )


def features_beside(captions_uri: str) -> str | None:
    """The features table of the run that a captions table belongs to, if there is one."""
    folder, _, name = captions_uri.rstrip("/").rpartition("/")
    beside = layout.join(folder, layout.FEATURES) if folder and name == layout.CAPTIONS else None
    return beside if beside and storage.list_parts(beside) else None


class TableSource(NamedTuple):
    """A table to read, and the collection that its images belong to."""

    uri: str
    collection: str


def write_image_facts(
    features: Iterable[TableSource],
    captions: Iterable[TableSource],
    folder: str,
    encoder: TextEncoder,
) -> None:
    """Gathers what some tables say of images into files that ``open_image_facts`` maps.

    Of an image that several tables have the first counts. Memory holds the keys and digests of the
    images, and one batch of features.

    Args:
      features: features tables.
      captions: captions tables, which state the digests of images too.
      folder: to write.
      encoder: where it takes these features too, images get their places in its joint space.

    Raises:
      CaptionerError: a table is not a features table, or two were made by different backbones.
    """
    stated: list[pa.Table] = []  # digests by key, as far as they are known
    for source in dict.fromkeys(captions):
        for table in read_records(source.uri, collection=source.collection):
            stated.append(_known_digests(table.column("image_key"), table.column(SHA256)))
    seen: set[str] = set()
    keys: list[pa.Array] = []
    sha256: list[pa.Array] = []
    made_by: dict[str, str] = {}
    with (
        storage.output_stream(layout.join(folder, "vectors.f32")) as vectors,
        storage.output_stream(layout.join(folder, "joint.f32")) as joint,
    ):
        for source in dict.fromkeys(features):
            for batch in _feature_batches(source.uri):
                made_by.update(
                    dict.fromkeys(pc.unique(batch.column("backbone")).to_pylist(), source.uri)
                )
                _check_one_backbone(made_by)
                ids = text_column(batch.column("image_id"), "image_id", source.uri)
                batch_keys = image_keys(ids, source.collection)
                listed = batch_keys.to_pylist()
                new = pa.array(
                    [place for place, key in enumerate(listed) if key not in seen], pa.int64()
                )
                seen.update(listed)
                rows = unit_rows(batch.column("feature").take(new))
                vectors.write(rows.tobytes())
                if isinstance(encoder, JointEncoder) and encoder.backbone in made_by:
                    joint.write(encoder.encode_images(rows).tobytes())
                keys.append(batch_keys.take(new))
                sha256.append(batch.column(SHA256).cast(pa.string()).take(new))
                stated.append(_known_digests(keys[-1], sha256[-1]))
    digests = pa.concat_tables(
        [_DIGESTS.empty_table(), *stated]
    )  # of an image listed twice the first is found
    arrays = {
        "image_keys": _joined(keys),
        "image_sha256": _joined(sha256),
        "digest_keys": one_chunk(digests.column("key")),
        "digests": one_chunk(digests.column("digest")),
    }
    dims = {"vectors": FEATURE_DIM, "joint": encoder.dim}
    storage.write_arrays(layout.join(folder, "images.arrow"), arrays, dims)


_DIGESTS = pa.schema([("key", pa.string()), ("digest", pa.string())])


def _known_digests(keys: pa.Array, sha256: pa.Array) -> pa.Table:
    """Returns the digests of images by key, without those that are empty."""
    return pa.table([keys, sha256], schema=_DIGESTS).filter(pc.field("digest") != "")


def _joined(parts: list[pa.Array]) -> pa.Array:
    return pa.concat_arrays([pa.array([], pa.string()), *parts])


def open_image_facts(folder: str) -> ImageVectors:
    """What ``write_image_facts`` wrote; its vectors are read as they are used."""
    arrays, dims = storage.map_arrays(layout.join(folder, "images.arrow"))
    vectors, joint = (
        storage.map_rows(layout.join(folder, f"{name}.f32"), dims[name])
        for name in ("vectors", "joint")
    )
    return ImageVectors(**arrays, vectors=vectors, joint=joint)


def _check_one_backbone(made_by: dict[str, str]) -> None:
    if len(made_by) > 1:
        (one, uri), (other, other_uri), *_ = made_by.items()
        raise CaptionerError(
            f"features {uri!r} are of backbone {one!r} and {other_uri!r} of {other!r}; "
            "cosines between backbones mean nothing, extract one of them again"
        )


def _feature_batches(uri: str) -> Iterator[pa.RecordBatch]:
    check_features_table(uri)
    dataset: pads.Dataset = storage.open_table(uri, "features table")
    yield from dataset.to_batches(
        columns=list(_FEATURE_COLUMNS), batch_size=_FEATURES_AT_ONCE, batch_readahead=1
    )


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
    return CaptionIndex(
        pa.concat_tables([RECORDS.empty_table(), *tables]), load_encoder(encoder_name)
    )
