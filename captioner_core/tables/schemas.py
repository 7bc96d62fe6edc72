"""Row types and pyarrow schemas of all tables.

Each table has a frozen dataclass for its rows and a schema for its Parquet files. Every table
also has the columns ``run_id`` and ``schema_version``, which the row types lack: ``as_table`` and
``rows_as_table`` add them when a table is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core.tables import layout

SCHEMA_VERSION = 1
FEATURE_DIM = 2048
GRID_SIDE = 5
GRID_CELLS = GRID_SIDE**2
CELL_DIM = 2048 + 1024 + 728
"""Channels of a grid cell: those of Xception's last feature map, of its block 13 and block 4."""

GENERATED = "generated"
HUMAN = "human"
MATCHED = "matched"
NO_MATCH = "no_match"
UNCERTAIN = "uncertain"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that was found, but not read yet.

    Args:
      image_id: its path below the images folder.
      image_uri: the path or URI of its file.
    """

    image_id: str
    image_uri: str


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """The features of one image.

    Args:
      image_id: its path below the images folder.
      image_uri: the path or URI of its file.
      image_sha256: SHA-256 of the file's bytes, as 64 hexadecimal digits.
      width: of the image, in pixels.
      height: of the image, in pixels.
      backbone: the name of the network that computed the features.
      precision: the precision in which it did so, such as ``int8``; None in runs of earlier
        versions.
      engine: the library that ran the network, such as ``openvino``; None likewise.
      feature: float32 [2048]; see ``Backbone.features``.
      grid: float16 [25, 3800], the 5 x 5 cells of the image in row-major order; None if the run
        does not keep grids.
    """

    image_id: str
    image_uri: str
    image_sha256: str
    width: int
    height: int
    backbone: str
    precision: str | None
    engine: str | None
    feature: npt.NDArray[np.float32]
    grid: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """The caption of one image.

    Args:
      image_id: its path below the images folder.
      image_uri: the path or URI of its file.
      image_sha256: SHA-256 of the file's bytes, as 64 hexadecimal digits.
      caption: the caption.
      source: ``GENERATED`` or ``HUMAN``.
      model_id: the id of the model that wrote it.
      log_prob: natural logarithm of the probability of the caption and its end.
      n_tokens: number of words, without the end.
      unk_fraction: share of the words that the vocabulary does not know, 0 to 1.
      image_text_score: cosine of image and caption in the learned encoder's space; None if that
        encoder reads other features than the model.
      confidence: probability that the caption is acceptable, 0 to 1; None if that was not fitted
        for the model.
    """

    image_id: str
    image_uri: str
    image_sha256: str
    caption: str
    source: str
    model_id: str
    log_prob: float
    n_tokens: int
    unk_fraction: float
    image_text_score: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class MatchRow:
    """An image whose caption is similar enough to that of a query image.

    Image id and collection together identify each of the two images; see ``runs.identity``.

    Args:
      query_image_id: the query image.
      query_collection: the collection of the query image.
      query_caption: the query image's caption that is closest to ``match_caption``.
      rank: position among the query's matches, from 1.
      match_image_id: the matching image.
      match_collection: the collection of the matching image.
      match_caption: the matching image's caption that is closest to the query's.
      match_source: ``GENERATED`` or ``HUMAN``, for ``match_caption``.
      score: cosine of the two captions, calibrated; -1 to 1.
      feature_score: cosine of the two images' features; NaN if it is not known.
      image_text_score: cosine of the query image and the matching caption; NaN if the encoder
        does not encode images.
      is_duplicate: whether the two files hold the same bytes.
      encoder: the name of the text encoder.
      rank_score: the value that decides the rank: the score, unless ``--rank-by combined``.
    """

    query_image_id: str
    query_collection: str
    query_caption: str
    rank: int
    match_image_id: str
    match_collection: str
    match_caption: str
    match_source: str
    score: float
    feature_score: float
    image_text_score: float
    is_duplicate: bool
    encoder: str
    rank_score: float


@dataclass(frozen=True, slots=True)
class MatchSummaryRow:
    """The outcome of matching one query image.

    Args:
      query_image_id: the query image.
      query_collection: the collection of the query image.
      query_caption: the query image's caption that is closest to the most similar image's.
      status: ``MATCHED`` or ``NO_MATCH``; ``UNCERTAIN`` if the captioner was not certain enough of
        the caption for the image to be matched.
      n_above_threshold: number of images whose score reaches the threshold.
      n_written: number of them in the matches table.
      best_score: score of the most similar image, whether or not it reaches the threshold; NaN if
        there was nothing to compare with.
      best_match_image_id: the most similar image, or None.
      best_match_collection: the collection of the most similar image, or None.
    """

    query_image_id: str
    query_collection: str
    query_caption: str
    status: str
    n_above_threshold: int
    n_written: int
    best_score: float
    best_match_image_id: str | None
    best_match_collection: str | None


@dataclass(frozen=True, slots=True)
class CaptionGroupRow:
    """The images that have exactly the same captions.

    Args:
      caption: the first of the captions in alphabetical order.
      n_captions: number of captions.
      n_images: number of images that have these captions and no others.
      image_ids: the first few of these images.
      collections: the collection of each image in ``image_ids``.
    """

    caption: str
    n_captions: int
    n_images: int
    image_ids: list[str]
    collections: list[str]


@dataclass(frozen=True, slots=True)
class MatchInputRow:
    """A caption that a run matched.

    A later ``match --update`` compares its inputs with these rows to find out which images are
    new, changed or removed.

    Args:
      side: ``query`` or ``index``.
      image_id: the image.
      collection: the collection of the image.
      caption: the caption.
      source: ``GENERATED`` or ``HUMAN``.
      image_sha256: SHA-256 of the image's bytes; empty if the captions table lacks it.
    """

    side: str
    image_id: str
    collection: str
    caption: str
    source: str
    image_sha256: str


LISTING = "list"
"""The ``stage`` of a failure to list a folder or find an image."""
DECODING = "decode"
"""The ``stage`` of a failure to read or decode an image."""


@dataclass(frozen=True, slots=True)
class FailureRow:
    """An image that could not be used, or a folder that could not be listed.

    Args:
      stage: ``LISTING`` or ``DECODING``.
      image_id: its path below the images folder.
      image_uri: its path or URI.
      error_type: the reason as a word that programs can rely on, such as ``too_large``.
      error_message: the reason for people.
    """

    stage: str
    image_id: str
    image_uri: str
    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class DatasetCaptionRow:
    """A human caption of an image of a dataset.

    Args:
      image_id: the image's path below the dataset's images folder.
      caption_index: position among the image's captions, from 0.
      caption: the caption.
      split: one of ``SPLITS``.
      image_sha256: SHA-256 of the image's bytes; empty if it is not known.
    """

    image_id: str
    caption_index: int
    caption: str
    split: str
    image_sha256: str = ""

    SPLITS: ClassVar[tuple[str, ...]] = ("train", "dev", "test")


Row = (
    FeatureRow
    | CaptionRow
    | MatchRow
    | MatchSummaryRow
    | CaptionGroupRow
    | MatchInputRow
    | FailureRow
    | DatasetCaptionRow
)


_NULLABLE = ("best_match_image_id", "best_match_collection", "image_text_score", "confidence")
_COMMON_COLUMNS: Mapping[str, pa.DataType] = {"run_id": pa.string(), "schema_version": pa.int32()}


def _schema(**columns: pa.DataType) -> pa.Schema:
    """Returns the schema of a table with these columns, followed by the common columns."""
    return pa.schema(
        [
            pa.field(name, kind, nullable=name in _NULLABLE)
            for name, kind in {**columns, **_COMMON_COLUMNS}.items()
        ]
    )


_FEATURE_COLUMNS: Mapping[str, pa.DataType] = {
    "image_id": pa.string(),
    "image_uri": pa.string(),
    "image_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "backbone": pa.string(),
    "precision": pa.string(),
    "engine": pa.string(),
    "feature": pa.list_(pa.float32(), FEATURE_DIM),
}
FEATURES_SCHEMA = _schema(**_FEATURE_COLUMNS)
FEATURES_GRID_SCHEMA = _schema(
    **_FEATURE_COLUMNS,
    grid=pa.list_(pa.float16(), GRID_CELLS * CELL_DIM),
)
CAPTIONS_SCHEMA = _schema(
    image_id=pa.string(),
    image_uri=pa.string(),
    image_sha256=pa.string(),
    caption=pa.string(),
    source=pa.string(),
    model_id=pa.string(),
    log_prob=pa.float32(),
    n_tokens=pa.int32(),
    unk_fraction=pa.float32(),
    image_text_score=pa.float32(),
    confidence=pa.float32(),
)
MATCHES_SCHEMA = _schema(
    query_image_id=pa.string(),
    query_collection=pa.string(),
    query_caption=pa.string(),
    rank=pa.int32(),
    match_image_id=pa.string(),
    match_collection=pa.string(),
    match_caption=pa.string(),
    match_source=pa.string(),
    score=pa.float32(),
    feature_score=pa.float32(),
    image_text_score=pa.float32(),
    is_duplicate=pa.bool_(),
    encoder=pa.string(),
    rank_score=pa.float32(),
)
MATCH_SUMMARY_SCHEMA = _schema(
    query_image_id=pa.string(),
    query_collection=pa.string(),
    query_caption=pa.string(),
    status=pa.string(),
    n_above_threshold=pa.int64(),
    n_written=pa.int32(),
    best_score=pa.float32(),
    best_match_image_id=pa.string(),
    best_match_collection=pa.string(),
)
CAPTION_GROUPS_SCHEMA = _schema(
    caption=pa.string(),
    n_captions=pa.int32(),
    n_images=pa.int64(),
    image_ids=pa.list_(pa.string()),
    collections=pa.list_(pa.string()),
)
MATCH_INPUTS_SCHEMA = _schema(
    side=pa.string(),
    image_id=pa.string(),
    collection=pa.string(),
    caption=pa.string(),
    source=pa.string(),
    image_sha256=pa.string(),
)
FAILURES_SCHEMA = _schema(
    stage=pa.string(),
    image_id=pa.string(),
    image_uri=pa.string(),
    error_type=pa.string(),
    error_message=pa.string(),
)
DATASET_CAPTIONS_SCHEMA = _schema(
    image_id=pa.string(),
    caption_index=pa.int32(),
    caption=pa.string(),
    split=pa.string(),
    image_sha256=pa.string(),
)

TABLE_SCHEMAS: Mapping[str, pa.Schema] = {
    layout.FEATURES: FEATURES_SCHEMA,
    layout.CAPTIONS: CAPTIONS_SCHEMA,
    layout.MATCHES: MATCHES_SCHEMA,
    layout.MATCH_SUMMARY: MATCH_SUMMARY_SCHEMA,
    layout.CAPTION_GROUPS: CAPTION_GROUPS_SCHEMA,
    layout.MATCH_INPUTS: MATCH_INPUTS_SCHEMA,
    layout.FAILURES: FAILURES_SCHEMA,
}


COLLECTION_COLUMNS = frozenset(
    {"query_collection", "match_collection", "best_match_collection", "collection", "collections"}
)
"""Columns that are missing from runs of earlier versions, which knew no collections."""

ENGINE_COLUMNS = frozenset({"precision", "engine"})
"""Columns that are missing from runs of earlier versions, which knew one engine."""

# An assumed size of a text, for estimates of memory.
_TEXT_BYTES = 64


def row_schema(name: str) -> pa.Schema:
    """Returns a table's schema without the columns ``run_id`` and ``schema_version``."""
    return pa.schema(_own_fields(TABLE_SCHEMAS[name]))


def as_table(rows: pa.Table, run_id: str, name: str) -> pa.Table:
    """Returns rows of ``row_schema`` as the table that is written.

    Args:
      rows: the rows, with the columns of ``row_schema``.
      run_id: the value of the column ``run_id``.
      name: the table's name.
    """
    return _add_common_columns(rows.columns, run_id, TABLE_SCHEMAS[name])


def rows_as_table(rows: Sequence[Row], run_id: str, schema: pa.Schema) -> pa.Table:
    """Returns rows as the table that is written.

    Args:
      rows: rows of one type.
      run_id: the value of the column ``run_id``.
      schema: the table's schema, with the columns ``run_id`` and ``schema_version``.

    Raises:
      ValueError: a vector is longer or shorter than its column requires.
    """
    columns = [
        _to_array([getattr(row, field.name) for row in rows], field.type)
        for field in _own_fields(schema)
    ]
    return _add_common_columns(columns, run_id, schema)


def _own_fields(schema: pa.Schema) -> list[pa.Field]:
    return [field for field in schema if field.name not in _COMMON_COLUMNS]


def _add_common_columns(columns: Sequence[pa.Array], run_id: str, schema: pa.Schema) -> pa.Table:
    row_count = len(columns[0])
    run_ids = pa.array([run_id] * row_count, pa.string())
    versions = pa.array([SCHEMA_VERSION] * row_count, pa.int32())
    return pa.table([*columns, run_ids, versions], schema=schema)


def _to_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Returns values as an Arrow array; vectors of any shape are flattened."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    if values:
        matrix = np.stack([np.asarray(value).reshape(-1) for value in values])
    else:
        matrix = np.empty((0, kind.list_size))
    if matrix.shape[1] != kind.list_size:
        raise ValueError(
            f"vectors of {matrix.shape[1]} numbers where the column has {kind.list_size}"
        )
    numbers = pa.array(matrix.reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(numbers, kind.list_size)


def row_bytes(schema: pa.Schema) -> int:
    """Returns about how many bytes a row takes in memory.

    Vectors and numbers are counted exactly; for texts, a size is assumed.
    """
    return sum(_value_bytes(field.type) for field in schema)


def _value_bytes(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size * _value_bytes(kind.value_type))
    return max(1, kind.bit_width // 8) if pa.types.is_primitive(kind) else _TEXT_BYTES
