"""Runs compared table by table, row by row."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from captioner_core.io import storage
from captioner_core.tables import layout

_ORDER = {
    layout.MATCHES: ["query_image_id", "query_collection", "rank"],
    layout.MATCH_SUMMARY: ["query_image_id", "query_collection"],
    layout.CAPTION_GROUPS: ["caption", "n_captions"],
    layout.MATCH_INPUTS: ["side", "image_id", "collection", "caption", "source"],
}
_VECTORS = {"feature", "grid"}


def rows(run_dir: str, table: str) -> pd.DataFrame:
    """A table's rows in a fixed order, without the name of the run and without where its images lie."""
    frame = (
        storage.read_table(f"{run_dir}/{table}")
        .to_pandas()
        .drop(columns=["run_id", "image_uri"], errors="ignore")
    )
    return frame.sort_values(_ORDER.get(table, ["image_id"]), ignore_index=True)


def assert_same_tables(
    one: str, other: str, tables: Iterable[str] = layout.TABLES, atol: float = 1e-5
) -> None:
    """Two runs have the same rows; numbers may differ by ``atol``."""
    for table in tables:
        a, b = rows(one, table), rows(other, table)
        for column in _VECTORS & set(a):
            np.testing.assert_allclose(np.stack(a.pop(column)), np.stack(b.pop(column)), atol=atol)
        pd.testing.assert_frame_equal(a, b, rtol=0, atol=atol, obj=table)
