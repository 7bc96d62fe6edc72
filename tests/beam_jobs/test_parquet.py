"""The Parquet files that jobs write, and the list of images that they read.

The tests check sizes of files and row groups, files of failed attempts, and rows of each type.
"""

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
    """Yields rows with random features."""
    rng = np.random.default_rng(0)
    for number in range(count):
        vector = rng.normal(size=FEATURE_DIM).astype(np.float32)
        yield FeatureRow(
            f"{number}.jpg", f"/{number}.jpg", "0" * 64, 1, 1, "b", "float32", "fake", vector
        )


def test_files_and_row_groups_have_the_configured_sizes(tmp_path, monkeypatch):
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
    assert sizes[1] >= 1, "all files but the last are full"
    groups = [file.row_group(n).num_rows for file in metadata for n in range(file.num_row_groups)]
    assert max(groups) == (256 << 10) // row_bytes(FEATURES_SCHEMA)
    written = pa.concat_tables(pq.read_table(part) for part in parts)
    vectors = dict(
        zip(written["image_id"].to_pylist(), written["feature"].to_pylist(), strict=True)
    )
    assert len(vectors) == written.num_rows == len(rows), "each row is written once"
    np.testing.assert_array_equal(vectors["7.jpg"], rows[7].feature)


def test_a_table_without_rows_is_one_file_with_its_schema(tmp_path):
    run = RunLayout(str(tmp_path), "run")
    launch.run_pipeline(lambda p: p | beam.Create([]) | WriteTable(run, layout.FAILURES), [], run)
    (part,) = commits.list_staged_parts(run, layout.FAILURES)
    assert pq.read_table(part).schema.equals(TABLE_SCHEMAS[layout.FAILURES])


def test_files_of_a_failed_attempt_are_ignored(tmp_path):
    """A lost worker leaves a file behind, and another worker writes the same rows to a new one."""
    run = RunLayout(str(tmp_path), "run")
    tables = [rows_as_table(list(feature_rows(3)), "run", FEATURES_SCHEMA)]
    lost = parquet.WriteFiles(run, layout.FEATURES, FEATURES_SCHEMA, "part")
    lost.start_bundle()
    list(lost.process(tables[0]))
    rows = list(feature_rows(3))
    launch.run_pipeline(lambda p: p | beam.Create(rows) | WriteTable(run, layout.FEATURES), [], run)
    lost.finish_bundle()
    assert len(storage.list_parts(run.staged_table(layout.FEATURES))) == 2
    (part,) = commits.list_staged_parts(run, layout.FEATURES)
    assert pq.read_table(part).num_rows == 3


def test_a_worker_that_was_thought_lost_writes_nothing_into_a_committed_run(tmp_path):
    run = commits.begin_attempt(RunLayout(str(tmp_path), "run"))
    lost = parquet.WriteFiles(run, layout.FEATURES, FEATURES_SCHEMA, "part")
    lost.start_bundle()
    storage.delete(run.all_staging)
    with pytest.raises(CaptionerError, match="taken over"):
        list(lost.process(rows_as_table(list(feature_rows(3)), "run", FEATURES_SCHEMA)))
    assert not Path(run.all_staging).exists()


def test_rows_become_a_table_with_every_column():
    grid = np.arange(GRID_CELLS * CELL_DIM, dtype=np.float16).reshape(GRID_CELLS, CELL_DIM) / 1e3
    row = FeatureRow(
        "a", "/a", "0", 3, 4, "b", "float32", "fake", np.ones(FEATURE_DIM, np.float32), grid
    )
    (values,) = rows_as_table([row], "r", FEATURES_GRID_SCHEMA).to_pylist()
    assert (values["run_id"], values["schema_version"], values["width"]) == ("r", 1, 3)
    np.testing.assert_array_equal(np.float16(values["grid"]), grid.reshape(-1))
    assert rows_as_table([], "r", FEATURES_GRID_SCHEMA).num_rows == 0


def test_a_vector_of_the_wrong_length_is_refused():
    row = FeatureRow(
        "a", "/a", "0", 3, 4, "b", "float32", "fake", np.ones(FEATURE_DIM + 1, np.float32)
    )
    with pytest.raises(ValueError, match="2049 numbers"):
        rows_as_table([row], "r", FEATURES_SCHEMA)


def test_an_image_list_of_several_files_contains_every_image_once(tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(image_list, "GROUPS_PER_FILE", 2)
    (tmp_path / "images").mkdir()
    for number in range(14):
        (tmp_path / "images" / f"{number:02d}.jpg").touch()
    (tmp_path / "images" / "notes.txt").touch()
    files, counts = image_list.write_image_list(
        str(tmp_path / "images"), RunLayout(str(tmp_path / "out"), "run")
    )
    assert (counts.images, counts.passed_over) == (14, 1)
    assert [groups for _, groups in files] == [2, 2, 1]
    row_groups = [(file, group) for file, groups in files for group in range(groups)]
    image_ids = [
        entry.image_id
        for file, group in row_groups
        for entry in image_list.read_image_list(file, group)
    ]
    assert image_ids == [f"{number:02d}.jpg" for number in range(14)]


def test_a_folder_that_cannot_be_listed_is_a_failure_in_the_image_list(tmp_path, monkeypatch):
    failure = FailureRow("list", "sub", "/sub", "unreadable", "no")
    monkeypatch.setattr(image_list, "list_entries", lambda folder, exclude: iter([failure]))
    ((file, groups),), _ = image_list.write_image_list("anywhere", RunLayout(str(tmp_path), "run"))
    assert groups == 1
    assert image_list.read_image_list(file, 0) == [failure]
