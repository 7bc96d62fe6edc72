"""Every row type and its pyarrow schema; rows are frozen dataclasses, tables are Parquet.

``as_record`` turns a row into what is written; the two columns that every table
carries, ``run_id`` and ``schema_version``, are added there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core import layout

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
    """One image whose caption is similar enough to the query image's; ranks start at 1."""

    query_image_id: str
    query_caption: str
    rank: int
    match_image_id: str
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
    query_caption: str
    status: str
    n_above_threshold: int
    n_written: int
    best_score: float
    best_match_image_id: str | None


@dataclass(frozen=True, slots=True)
class CaptionGroupRow:
    """Images that have the same captions.

    Args:
      caption: the first of them, as text sorts.
      n_captions: how many they are.
      n_images: how many images have these and no other.
      image_ids: the first of these images.
    """

    caption: str
    n_captions: int
    n_images: int
    image_ids: list[str]


@dataclass(frozen=True, slots=True)
class MatchInputRow:
    """A caption that was matched: an image that asked (``query``) or one that could be found (``index``).

    With these a later run tells what is new, changed or gone; ``image_sha256`` is empty where the
    captions table doesn't say it.
    """

    side: str
    image_id: str
    caption: str
    source: str
    image_sha256: str


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
    """One human caption of one image of a dataset."""

    image_id: str
    caption_index: int
    caption: str
    split: str

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


def _schema(**columns: pa.DataType) -> pa.Schema:
    listed = [pa.field(name, kind, nullable=name == "best_match_image_id") for name, kind in columns.items()]
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
    query_caption=pa.string(),
    rank=pa.int32(),
    match_image_id=pa.string(),
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
    query_caption=pa.string(),
    status=pa.string(),
    n_above_threshold=pa.int64(),
    n_written=pa.int32(),
    best_score=pa.float32(),
    best_match_image_id=pa.string(),
)
CAPTION_GROUPS_SCHEMA = _schema(
    caption=pa.string(),
    n_captions=pa.int32(),
    n_images=pa.int64(),
    image_ids=pa.list_(pa.string()),
)
MATCH_INPUTS_SCHEMA = _schema(
    side=pa.string(),
    image_id=pa.string(),
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


_EVERY_TABLE = ("run_id", "schema_version")


def row_schema(name: str) -> pa.Schema:
    """A table's schema without the two columns that every table carries."""
    return pa.schema([field for field in TABLE_SCHEMAS[name] if field.name not in _EVERY_TABLE])


def as_table(rows: pa.Table, run_id: str, name: str) -> pa.Table:
    """Rows of ``row_schema`` as they are written."""
    version = pa.array([SCHEMA_VERSION] * len(rows), pa.int32())
    return pa.table([*rows.columns, pa.array([run_id] * len(rows), pa.string()), version], schema=TABLE_SCHEMAS[name])


def as_record(row: Row, run_id: str) -> dict[str, Any]:
    """The row as a table's record, with ``run_id`` and ``schema_version``.

    Arrays are flattened, since Arrow silently flattens a cell of two dimensions anyway.
    """
    record: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, np.ndarray):
            value = value.reshape(-1)
        if field.name != "grid" or value is not None:
            record[field.name] = value
    return {**record, "run_id": run_id, "schema_version": SCHEMA_VERSION}
