"""Files and row groups of the tables written."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_jobs import launch, parquet
from beam_jobs.transforms import WriteTable
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.runs import commits, image_list
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import (
    CELL_DIM,
    FEATURE_DIM,
    FEATURES_GRID_SCHEMA,
    FEATURES_SCHEMA,
    GRID_CELLS,
    TABLE_SCHEMAS,
    FailureRow,
    FeatureRow,
    row_bytes,
    rows_as_table,
)


def feature_rows(count):
    rng = np.random.default_rng(0)
    for number in range(count):
        vector = rng.normal(size=FEATURE_DIM).astype(np.float32)
        yield FeatureRow(f"{number}.jpg", f"/{number}.jpg", "0" * 64, 1, 1, "b", vector)


def test_files_and_row_groups_have_a_size(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FILE_BYTES", 1 << 20)
    monkeypatch.setattr(parquet, "GROUP_BYTES", 256 << 10)
    run = RunLayout(str(tmp_path), "run")
    rows = list(feature_rows(600))
    launch.run_pipeline(lambda p: p | beam.Create(rows) | WriteTable(run, layout.FEATURES), [], run)
    parts = commits.list_staged_parts(run, layout.FEATURES)
    metadata = [pq.ParquetFile(part).metadata for part in parts]
    assert len(parts) >= 4
    sizes = sorted(Path(part).stat().st_size / (1 << 20) for part in parts)
    assert sizes[-1] < 1.3
    assert sizes[1] >= 1, "all but the last are full"
    groups = [one.row_group(n).num_rows for one in metadata for n in range(one.num_row_groups)]
    assert max(groups) == (256 << 10) // row_bytes(FEATURES_SCHEMA)
    written = pa.concat_tables(pq.read_table(part) for part in parts)
    found = dict(zip(written["image_id"].to_pylist(), written["feature"].to_pylist(), strict=True))
    assert len(found) == written.num_rows == len(rows), "each once"
    np.testing.assert_array_equal(found["7.jpg"], rows[7].feature)


def test_a_table_without_rows_is_one_file_of_its_schema(tmp_path):
    run = RunLayout(str(tmp_path), "run")
    launch.run_pipeline(lambda p: p | beam.Create([]) | WriteTable(run, layout.FAILURES), [], run)
    (part,) = commits.list_staged_parts(run, layout.FAILURES)
    assert pq.read_table(part).schema.equals(TABLE_SCHEMAS[layout.FAILURES])


def test_files_of_an_attempt_that_failed_dont_count(tmp_path):
    """A worker that is lost leaves a file; its rows are written again, to another."""
    run = RunLayout(str(tmp_path), "run")
    tables = [rows_as_table(list(feature_rows(3)), "run", FEATURES_SCHEMA)]
    lost = parquet._WriteFiles(run, layout.FEATURES, FEATURES_SCHEMA, "part")
    lost.start_bundle()
    list(lost.process(tables[0]))
    rows = list(feature_rows(3))
    launch.run_pipeline(lambda p: p | beam.Create(rows) | WriteTable(run, layout.FEATURES), [], run)
    lost.finish_bundle()
    assert len(storage.list_parts(run.staged_table(layout.FEATURES))) == 2
    (part,) = commits.list_staged_parts(run, layout.FEATURES)
    assert pq.read_table(part).num_rows == 3


def test_a_worker_thought_lost_writes_nothing_into_a_run_that_is_committed(tmp_path):
    run = commits.begin_attempt(RunLayout(str(tmp_path), "run"))
    lost = parquet._WriteFiles(run, layout.FEATURES, FEATURES_SCHEMA, "part")
    lost.start_bundle()
    storage.delete(run.all_staging)
    with pytest.raises(CaptionerError, match="taken over"):
        list(lost.process(rows_as_table(list(feature_rows(3)), "run", FEATURES_SCHEMA)))
    assert not Path(run.all_staging).exists()


def test_rows_become_a_table_with_every_column():
    grid = np.arange(GRID_CELLS * CELL_DIM, dtype=np.float16).reshape(GRID_CELLS, CELL_DIM) / 1e3
    row = FeatureRow("a", "/a", "0", 3, 4, "b", np.ones(FEATURE_DIM, np.float32), grid)
    (made,) = rows_as_table([row], "r", FEATURES_GRID_SCHEMA).to_pylist()
    assert (made["run_id"], made["schema_version"], made["width"]) == ("r", 1, 3)
    np.testing.assert_array_equal(np.float16(made["grid"]), grid.reshape(-1))
    assert rows_as_table([], "r", FEATURES_GRID_SCHEMA).num_rows == 0


def test_a_vector_of_another_length_is_refused():
    row = FeatureRow("a", "/a", "0", 3, 4, "b", np.ones(FEATURE_DIM + 1, np.float32))
    with pytest.raises(ValueError, match="2049 numbers"):
        rows_as_table([row], "r", FEATURES_SCHEMA)


def test_a_listing_of_many_parts_holds_every_image_once(tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "_ROWS_PER_GROUP", 3)
    monkeypatch.setattr(image_list, "_GROUPS_PER_FILE", 2)
    (tmp_path / "images").mkdir()
    for number in range(14):
        (tmp_path / "images" / f"{number:02d}.jpg").touch()
    (tmp_path / "images" / "notes.txt").touch()
    listing, counts = image_list.write_image_list(
        str(tmp_path / "images"), RunLayout(str(tmp_path / "out"), "run")
    )
    assert (counts.images, counts.passed_over) == (14, 1)
    assert [groups for _, groups in listing] == [2, 2, 1]
    places = [(file, group) for file, groups in listing for group in range(groups)]
    found = [entry.image_id for place in places for entry in image_list.read_image_list(*place)]
    assert found == [f"{number:02d}.jpg" for number in range(14)]


def test_a_folder_that_cant_be_listed_is_a_failure_of_the_listing(tmp_path, monkeypatch):
    failure = FailureRow("list", "sub", "/sub", "unreadable", "no")
    monkeypatch.setattr(image_list, "list_entries", lambda folder, exclude: iter([failure]))
    ((file, groups),), _ = image_list.write_image_list("anywhere", RunLayout(str(tmp_path), "run"))
    assert groups == 1
    assert image_list.read_image_list(file, 0) == [failure]
