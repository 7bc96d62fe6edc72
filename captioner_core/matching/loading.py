"""Reads captions and features tables of runs and datasets in the form that matching needs."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.io.arrays import map_arrays, map_rows, unit_rows, write_arrays
from captioner_core.matching import RECORDS, CaptionIndex, ImageVectors
from captioner_core.runs import commits, identity
from captioner_core.tables import layout, schemas
from captioner_core.tables.columns import (
    explode_captions,
    readable_table,
    split_column,
    text_column,
)
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split
from captioner_core.text.encoders import load_encoder
from captioner_core.text.encoders.base import JointEncoder, TextEncoder

SHA256 = "image_sha256"
INPUTS = RECORDS.append(pa.field(SHA256, pa.string()))
"""Captions as they are read. The digest of the image is empty if it is not known."""
_DIGESTS = pa.schema([("key", pa.string()), ("digest", pa.string())])
_FEATURE_COLUMNS = ("image_id", SHA256, "backbone", "feature")


def check_captions_table(uri: str) -> None:
    """Checks, before work starts, that a table holds captions of a finished run or of a dataset.

    Raises:
      CaptionerError: nothing is there, it is not Parquet, a column is missing, or the run is not
        complete.
    """
    names = set(storage.open_table(uri, "captions table").schema.names)
    missing = {"image_id", "caption"} - names
    if missing or not names & {"source", "split"}:
        raise CaptionerError(
            f"captions table {uri!r} lacks the columns of a run's or dataset's captions (it has "
            f"{', '.join(sorted(names))}); name ROOT/runs/RUN_ID/captions or "
            "DATASET_DIR/captions.parquet"
        )
    folder, _, name = uri.rstrip("/").rpartition("/")
    if name == layout.CAPTIONS:
        commits.read_manifest(folder)


def check_features_table(uri: str) -> None:
    """Checks, before work starts, that a table holds features.

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
    """Checks that names are splits of a dataset; a wrong name would leave out the whole table.

    Raises:
      CaptionerError: a name is not known.
    """
    for split in splits:
        if canonical_split(split) is None:
            raise CaptionerError(f"--index-splits {split!r} is no split; name {SPLIT_NAMES}")


def check_one_model(uris: Iterable[str], model_id: str | None = None) -> None:
    """Checks that all generated captions are by one model.

    Scores between captions of two models depend on how the models differ, not only on the images.

    Args:
      uris: captions tables. Human captions may be mixed with those of any model.
      model_id: the model of captions that are yet to be written.

    Raises:
      CaptionerError: there are two models; the message names both.
    """
    tables = models_of(uris)
    if model_id:
        tables = {model_id: "this run", **tables}
    if len(tables) > 1:
        (model, uri), (other_model, other_uri), *_ = tables.items()
        raise CaptionerError(
            f"captions of {uri!r} are by model {model!r} and those of {other_uri!r} by "
            f"{other_model!r}; captions of two models cannot be compared, caption one of the "
            "folders again"
        )


def models_of(uris: Iterable[str]) -> dict[str, str]:
    """Returns the ids of the models that wrote captions, each with a table that has some."""
    tables: dict[str, str] = {}
    for uri in dict.fromkeys(uris):
        for model_id in _model_ids(uri):
            tables.setdefault(model_id, uri)
    return tables


def _model_ids(uri: str) -> list[str]:
    dataset = storage.open_table(uri, "captions table")
    if not {"source", "model_id"} <= set(dataset.schema.names):
        return []
    found: set[str] = set()
    with readable_table(uri):
        for batch in dataset.to_batches(columns=["source", "model_id"]):
            is_generated = pc.not_equal(
                text_column(batch.column("source"), "source", uri), schemas.HUMAN
            )
            models = batch.column("model_id").cast(pa.string()).filter(is_generated)
            found.update(pc.unique(models).to_pylist())
    return sorted(found - {None, ""})


def read_records(
    uri: str,
    splits: Sequence[str] = (),
    collection: str | None = None,
    min_confidence: float = 0.0,
) -> Iterator[pa.Table]:
    """Reads the captions of a table, a batch at a time.

    Args:
      uri: a run's captions folder, a dataset's ``captions.parquet``, or one file of either.
      splits: reads only these splits of a dataset; all if empty.
      collection: the collection that the images belong to; None for the one that the table's run or
        dataset states.
      min_confidence: the source of generated captions with less confidence becomes ``UNCERTAIN``.

    Yields:
      Tables in the schema ``INPUTS``. The columns may have any type that holds text, and a row
      with a list of captions becomes a row for each of them.

    Raises:
      CaptionerError: a value is missing or has the wrong type, or a split is not known.
    """
    dataset = storage.open_table(uri, "captions table")
    names = set(dataset.schema.names)
    columns = [
        name
        for name in ("image_id", "caption", "source", SHA256, "split", "confidence")
        if name in names
    ]
    wanted = {canonical_split(split) or split for split in splits} if "split" in names else set()
    collection = identity.collection_of_table(uri) if collection is None else collection
    first_row = 1
    with readable_table(uri):
        for batch in dataset.to_batches(columns=columns):
            batch = _mark_uncertain(batch, uri, min_confidence)
            yield _records(batch, uri, collection, wanted, first_row)
            first_row += len(batch)


def _mark_uncertain(batch: pa.RecordBatch, uri: str, min_confidence: float) -> pa.RecordBatch:
    """Returns rows of a captions table with ``UNCERTAIN`` as source of the less certain captions.

    Captions without a known confidence stay as they are.
    """
    if not min_confidence or not {"source", "confidence"} <= set(batch.schema.names):
        return batch
    source = text_column(batch.column("source"), "source", uri)
    is_generated = pc.not_equal(source, schemas.HUMAN)
    is_low = pc.less(batch.column("confidence").cast(pa.float64()), min_confidence)
    is_uncertain = pc.and_(is_generated, pc.fill_null(is_low, False))
    marked = pc.if_else(is_uncertain, schemas.UNCERTAIN, source)
    return batch.set_column(batch.schema.get_field_index("source"), "source", marked)


def _records(
    batch: pa.RecordBatch, uri: str, collection: str, splits: Collection[str], first_row: int
) -> pa.Table:
    """Returns rows of a captions table in the schema ``INPUTS``.

    Args:
      batch: the rows.
      uri: the table, for messages.
      collection: the collection of the images.
      splits: keeps only rows of these splits; all if empty.
      first_row: the number of the first row in the table, for messages.
    """
    columns = {"image_id": text_column(batch.column("image_id"), "image_id", uri, first_row)}
    columns["caption"] = batch.column("caption")
    if "source" in batch.schema.names:
        columns["source"] = text_column(batch.column("source"), "source", uri, first_row)
    else:
        columns["source"] = pa.array([schemas.HUMAN] * len(batch), pa.string())
    columns[SHA256] = pa.array([""] * len(batch), pa.string())
    if SHA256 in batch.schema.names:
        columns[SHA256] = pc.fill_null(batch.column(SHA256).cast(pa.string()), "")
    if splits:
        columns["split"] = split_column(batch.column("split"), uri, first_row)
    rows = explode_captions(pa.record_batch(columns), uri, first_row=first_row)
    if splits:
        wanted = pa.array(sorted(splits), pa.string())
        rows = rows.filter(pc.is_in(rows.column("split"), value_set=wanted))
    keys = identity.image_keys(rows.column("image_id"), collection)
    return pa.table([keys, *(rows.column(name) for name in INPUTS.names[1:])], schema=INPUTS)


def read_captions(
    uri: str, splits: Sequence[str] = (), min_confidence: float = 0.0
) -> Iterator[tuple[str, str]]:
    """Yields the image key and the caption of each row that is certain; see ``read_records``."""
    for table in read_records(uri, splits, min_confidence=min_confidence):
        table = drop_uncertain(table)
        keys = table.column("image_key").to_pylist()
        yield from zip(keys, table.column("caption").to_pylist(), strict=True)


def drop_uncertain(records: pa.Table) -> pa.Table:
    """Returns the captions that are matched: all but those that the captioner is not certain of."""
    return records.filter(pc.not_equal(records.column("source"), schemas.UNCERTAIN))


def features_beside(captions_uri: str) -> str | None:
    """Returns the features table of the run that a captions table belongs to, or None."""
    folder, _, name = captions_uri.rstrip("/").rpartition("/")
    if not folder or name != layout.CAPTIONS:
        return None
    features = layout.join(folder, layout.FEATURES)
    return features if storage.list_parts(features) else None


class TableSource(NamedTuple):
    """A table to read.

    Args:
      uri: the table.
      collection: the collection that its images belong to.
    """

    uri: str
    collection: str


def write_image_vectors(
    features: Iterable[TableSource],
    captions: Iterable[TableSource],
    folder: str,
    encoder: TextEncoder,
) -> None:
    """Collects the vectors and digests of images in files that ``open_image_vectors`` maps.

    If several tables have the same image, the first one counts. Memory holds the keys and digests
    of all images, and one batch of features.

    Args:
      features: features tables.
      captions: captions tables, which state digests too.
      folder: the folder to write.
      encoder: if it puts images of these features into the space of the captions, these vectors are
        written too.

    Raises:
      CaptionerError: a table is not a features table, or two were made by different backbones.
    """
    digests = [
        _known_digests(table.column("image_key"), table.column(SHA256))
        for source in dict.fromkeys(captions)
        for table in read_records(source.uri, collection=source.collection)
    ]
    with (
        storage.output_stream(layout.join(folder, "vectors.f32")) as vectors,
        storage.output_stream(layout.join(folder, "joint.f32")) as joint,
    ):
        images = _write_vectors(features, encoder, vectors, joint)
    digests.append(_known_digests(images.column("key"), images.column("digest")))
    all_digests = pa.concat_tables(digests)
    arrays = {
        "image_keys": images.column("key").combine_chunks(),
        "image_sha256": images.column("digest").combine_chunks(),
        "digest_keys": all_digests.column("key").combine_chunks(),
        "digests": all_digests.column("digest").combine_chunks(),
    }
    dims = {"vectors": schemas.FEATURE_DIM, "joint": encoder.dim}
    write_arrays(layout.join(folder, "images.arrow"), arrays, dims)


def _write_vectors(
    features: Iterable[TableSource], encoder: TextEncoder, vectors: BinaryIO, joint: BinaryIO
) -> pa.Table:
    """Writes the vectors of each image once.

    Args:
      features: features tables.
      encoder: the encoder that may put images into the space of the captions.
      vectors: receives unit rows of features, float32.
      joint: receives the vectors in the space of the captions, float32, if there are any.

    Returns:
      The keys and digests of the images, in the order in which they were written.
    """
    images = [_DIGESTS.empty_table()]
    seen: set[str] = set()
    backbones: dict[str, str] = {}
    for source in dict.fromkeys(features):
        for batch in _feature_batches(source.uri):
            backbones.update(
                dict.fromkeys(pc.unique(batch.column("backbone")).to_pylist(), source.uri)
            )
            _check_one_backbone(backbones)
            ids = text_column(batch.column("image_id"), "image_id", source.uri)
            keys = identity.image_keys(ids, source.collection)
            names = keys.to_pylist()
            new = pa.array([row for row, key in enumerate(names) if key not in seen], pa.int64())
            seen.update(names)
            rows = unit_rows(batch.column("feature").take(new))
            vectors.write(rows.tobytes())
            if isinstance(encoder, JointEncoder) and encoder.backbone in backbones:
                joint.write(encoder.encode_images(rows).tobytes())
            sha256 = batch.column(SHA256).cast(pa.string())
            images.append(pa.table([keys.take(new), sha256.take(new)], schema=_DIGESTS))
    return pa.concat_tables(images)


def _known_digests(keys: pa.Array, sha256: pa.Array) -> pa.Table:
    return pa.table([keys, sha256], schema=_DIGESTS).filter(pc.field("digest") != "")


def open_image_vectors(folder: str) -> ImageVectors:
    """Maps what ``write_image_vectors`` wrote. Vectors are read only as they are used."""
    arrays, dims = map_arrays(layout.join(folder, "images.arrow"))
    vectors = map_rows(layout.join(folder, "vectors.f32"), dims["vectors"])
    joint = map_rows(layout.join(folder, "joint.f32"), dims["joint"])
    return ImageVectors(**arrays, vectors=vectors, joint=joint)


def _check_one_backbone(backbones: dict[str, str]) -> None:
    if len(backbones) > 1:
        (backbone, uri), (other_backbone, other_uri), *_ = backbones.items()
        raise CaptionerError(
            f"features {uri!r} are of backbone {backbone!r} and {other_uri!r} of "
            f"{other_backbone!r}; cosines between backbones mean nothing, extract one of them again"
        )


def _feature_batches(uri: str) -> Iterator[pa.RecordBatch]:
    check_features_table(uri)
    dataset: pads.Dataset = storage.open_table(uri, "features table")
    yield from dataset.to_batches(
        columns=list(_FEATURE_COLUMNS), batch_size=1_024, batch_readahead=1
    )


def load_index(index: Sequence[str], encoder_name: str) -> CaptionIndex:
    """Loads captions tables of runs and datasets into an index in memory.

    Args:
      index: the tables.
      encoder_name: one of ``options.ENCODERS``.
    """
    tables = [table.select(RECORDS.names) for uri in index for table in read_records(uri)]
    records = pa.concat_tables([RECORDS.empty_table(), *tables])
    return CaptionIndex(records, load_encoder(encoder_name))
