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


Row = FeatureRow | CaptionRow | MatchRow | MatchSummaryRow | FailureRow | DatasetCaptionRow


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
    layout.FAILURES: FAILURES_SCHEMA,
}


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
