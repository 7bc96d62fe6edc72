"""Every row type and its pyarrow schema; rows are frozen dataclasses, tables are Parquet.

``rows_as_table`` turns rows into what is written; the two columns that every table
carries, ``run_id`` and ``schema_version``, are added there and nowhere else.
"""

from __future__ import annotations

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
CELL_DIM = 2048 + 1024 + 728  # channels of Xception's last map, of its block 13 and of its block 4

GENERATED = "generated"
HUMAN = "human"
MATCHED = "matched"
NO_MATCH = "no_match"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image found: its id below the images folder, and where its bytes are."""

    image_id: str
    image_uri: str


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """One image's features.

    ``feature`` is float32 [2048]; ``grid``, where kept, is float16 [25, 3800], row-major over
    5 x 5 cells of the picture; see ``Backbone.features``.
    """

    image_id: str
    image_uri: str
    image_sha256: str
    width: int
    height: int
    backbone: str
    feature: npt.NDArray[np.float32]
    grid: npt.NDArray[np.float16] | None = None


@dataclass(frozen=True, slots=True)
class CaptionRow:
    """One caption of one image; ``log_prob`` is the natural log of its probability."""

    image_id: str
    image_uri: str
    image_sha256: str
    caption: str
    source: str
    model_id: str
    log_prob: float
    n_tokens: int
    unk_fraction: float


@dataclass(frozen=True, slots=True)
class MatchRow:
    """One image whose caption is similar enough to the query image's; ranks start at 1.

    Image id and collection together identify the image on either side.
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
    """What ranks: the score, unless ``--rank-by combined``."""


@dataclass(frozen=True, slots=True)
class MatchSummaryRow:
    """What became of one query image; ``best_score`` is NaN where nothing was comparable."""

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
    """Images that have the same captions.

    Args:
      caption: the first of them, as text sorts.
      n_captions: how many they are.
      n_images: how many images have these and no other.
      image_ids: the first of these images.
      collections: the collection of each image in ``image_ids``.
    """

    caption: str
    n_captions: int
    n_images: int
    image_ids: list[str]
    collections: list[str]


@dataclass(frozen=True, slots=True)
class MatchInputRow:
    """A caption that was matched: an image that asked (``query``) or one that could be found (``index``).

    With these a later run tells what is new, changed or gone; ``image_sha256`` is empty where the
    captions table doesn't say it.
    """

    side: str
    image_id: str
    collection: str
    caption: str
    source: str
    image_sha256: str


LISTING, DECODING = "list", "decode"
"""Stages of failures."""


@dataclass(frozen=True, slots=True)
class FailureRow:
    """One image that could not be used, and why."""

    stage: str
    image_id: str
    image_uri: str
    error_type: str
    error_message: str


@dataclass(frozen=True, slots=True)
class DatasetCaptionRow:
    """One human caption of one image of a dataset; the digest of the image's bytes is empty where it is not known."""

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


_NULLABLE = ("best_match_image_id", "best_match_collection")


def _schema(**columns: pa.DataType) -> pa.Schema:
    listed = [pa.field(name, kind, nullable=name in _NULLABLE) for name, kind in columns.items()]
    return pa.schema(
        [
            *listed,
            pa.field("run_id", pa.string(), nullable=False),
            pa.field("schema_version", pa.int32(), nullable=False),
        ]
    )


_FEATURE_COLUMNS: Mapping[str, pa.DataType] = {
    "image_id": pa.string(),
    "image_uri": pa.string(),
    "image_sha256": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "backbone": pa.string(),
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
"""Columns that runs matched by earlier versions lack: there an image is named by its id alone."""

_EVERY_TABLE = ("run_id", "schema_version")
_TEXT_BYTES = 64


def row_schema(name: str) -> pa.Schema:
    """A table's schema without the two columns that every table carries."""
    return pa.schema([field for field in TABLE_SCHEMAS[name] if field.name not in _EVERY_TABLE])


def as_table(rows: pa.Table, run_id: str, name: str) -> pa.Table:
    """Rows of ``row_schema`` as they are written."""
    return _stamped(rows.columns, run_id, TABLE_SCHEMAS[name])


def rows_as_table(rows: Sequence[Row], run_id: str, schema: pa.Schema) -> pa.Table:
    """Rows as the table that is written, with ``run_id`` and ``schema_version``.

    Raises:
      ValueError: a vector has another length than its column.
    """
    own = [field for field in schema if field.name not in _EVERY_TABLE]
    return _stamped(
        [_column([getattr(row, field.name) for row in rows], field.type) for field in own],
        run_id,
        schema,
    )


def _stamped(columns: Sequence[pa.Array], run_id: str, schema: pa.Schema) -> pa.Table:
    count = len(columns[0])
    stamps = [
        pa.array([run_id] * count, pa.string()),
        pa.array([SCHEMA_VERSION] * count, pa.int32()),
    ]
    return pa.table([*columns, *stamps], schema=schema)


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    flat = (
        np.stack([np.asarray(value).reshape(-1) for value in values])
        if values
        else np.empty((0, kind.list_size))
    )
    if flat.shape[1] != kind.list_size:
        raise ValueError(
            f"vectors of {flat.shape[1]} numbers where the column has {kind.list_size}"
        )
    return pa.FixedSizeListArray.from_arrays(
        pa.array(flat.reshape(-1), kind.value_type), kind.list_size
    )


def row_bytes(schema: pa.Schema) -> int:
    """About how much memory a row takes: exact for vectors and numbers, a guess for text."""
    return sum(_value_bytes(field.type) for field in schema)


def _value_bytes(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size * _value_bytes(kind.value_type))
    return max(1, kind.bit_width // 8) if pa.types.is_primitive(kind) else _TEXT_BYTES
