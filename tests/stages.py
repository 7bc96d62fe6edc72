"""Stages of a run with made-up captions, written and committed as the jobs do."""

from __future__ import annotations

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq

from captioner_core.io import storage
from captioner_core.runs import commits
from captioner_core.tables import layout
from captioner_core.tables.schemas import CAPTIONS_SCHEMA, FAILURES_SCHEMA, FEATURES_SCHEMA
from tests.runs import make_caption_row

SCHEMAS = {
    layout.CAPTIONS: CAPTIONS_SCHEMA,
    layout.FAILURES: FAILURES_SCHEMA,
    layout.FEATURES: FEATURES_SCHEMA,
}


def stage_captions(run, ids, parts=1):
    """Begins an attempt and stages the tables of the caption stage.

    Args:
      run: the run.
      ids: ids of the images that get a caption.
      parts: number of part files of each table.

    Returns:
      The run with this attempt.
    """
    run = commits.begin_attempt(run)
    for name in layout.STAGE_TABLES[layout.CAPTION]:
        for part in range(parts):
            rows = (
                [i for n, i in enumerate(ids) if n % parts == part]
                if name == layout.CAPTIONS
                else []
            )
            stage_table(run, name, rows, f"part-{part}-of-{parts}.parquet")
    return run


def stage_table(run, name, ids, file_name="part.parquet"):
    """Stages a part file with a row for each image id, and lists it in the owner's record."""
    common = {"run_id": "r", "schema_version": 1}
    rows = [
        make_caption_row(i, "a dog", image_uri="u", image_sha256="s", model_id="m") for i in ids
    ]
    records = [{**dataclasses.asdict(row), **common} for row in rows]
    table = pa.Table.from_pylist(records, SCHEMAS[name])
    file_system, folder = storage.resolve(run.staged_table(name))
    file_system.create_dir(folder)
    part = layout.join(run.staged_table(name), file_name)
    pq.write_table(table, part)
    commits.record_staged_parts(run, name, "part", [*commits.list_staged_parts(run, name), part])


def commit(run, **changes):
    """Commits the staged caption stage; ``changes`` are further arguments of ``commit_stage``."""
    return commits.commit_stage(
        run,
        commits.new_manifest(run),
        layout.CAPTION,
        wall_time_s=1.0,
        options={"images": "in"},
        **changes,
    )
