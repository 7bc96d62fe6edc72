"""Committing a stage: whatever moment it is cut off at, a run is whole or has no manifest."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner_core import layout, runs, storage
from captioner_core.errors import CaptionerError
from captioner_core.layout import RunLayout
from captioner_core.schemas import CAPTIONS_SCHEMA, FAILURES_SCHEMA, FEATURES_SCHEMA

SCHEMAS = {layout.CAPTIONS: CAPTIONS_SCHEMA, layout.FAILURES: FAILURES_SCHEMA, layout.FEATURES: FEATURES_SCHEMA}


def stage_captions(run, ids, parts=1):
    runs.prepare_staging(run)
    for name in layout.STAGE_TABLES[layout.CAPTION]:
        for part in range(parts):
            rows = [i for n, i in enumerate(ids) if n % parts == part] if name == layout.CAPTIONS else []
            record = {"source": "generated", "caption": "a dog", "log_prob": -1.0, "n_tokens": 2, "unk_fraction": 0.0}
            record |= {"image_uri": "u", "image_sha256": "s", "model_id": "m", "run_id": "r", "schema_version": 1}
            table = pa.Table.from_pylist([{"image_id": i, **record} for i in rows], SCHEMAS[name])
            uri = layout.join(run.staged_table(name), f"part-{part}-of-{parts}.parquet")
            storage.resolve(uri)[0].create_dir(storage.resolve(run.staged_table(name))[1])
            pq.write_table(table, uri)


def commit(run, **changes):
    return runs.commit_stage(
        run, runs.new_manifest(run), layout.CAPTION, wall_time_s=1.0, options={"images": "in"}, **changes
    )


def captions(run):
    return storage.read_table(run.table(layout.CAPTIONS)).column("image_id").to_pylist()


@pytest.fixture
def run(tmp_path):
    return RunLayout(str(tmp_path), "r")


def test_commit_counts_the_rows_and_leaves_no_staging(run):
    stage_captions(run, ["a", "b", "c"], parts=2)
    commit(run, counts={"images_found": 3})
    manifest = runs.read_manifest(run.run_dir)
    assert manifest["counts"] == {"images_found": 3, "captions": 3, "features": 0, "failures": 0}
    assert manifest["options"]["images"] == "in"
    assert sorted(captions(run)) == ["a", "b", "c"]
    assert not storage.exists(run.staging)


def test_a_rerun_with_fewer_parts_leaves_no_old_part(run):
    stage_captions(run, ["a", "b", "c"], parts=3)
    commit(run)
    stage_captions(run, ["d"])
    commit(run)
    assert captions(run) == ["d"]


def test_work_cut_off_before_the_commit_changes_nothing(run):
    stage_captions(run, ["a"])
    commit(run)
    stage_captions(run, ["b"])  # and then the process dies
    assert captions(run) == ["a"]
    assert runs.read_manifest(run.run_dir)["counts"]["captions"] == 1
    stage_captions(run, ["c"])
    commit(run)
    assert captions(run) == ["c"]


@pytest.mark.parametrize("call", range(1, 14))
def test_a_commit_cut_off_anywhere_is_never_read_as_complete(run, monkeypatch, call):
    """Dies at each of the file operations in turn."""
    stage_captions(run, ["old"])
    commit(run)
    stage_captions(run, ["new1", "new2"], parts=2)
    calls = 0

    def dying(real):
        def operation(*args):
            nonlocal calls
            calls += 1
            if calls == call:
                raise KeyboardInterrupt
            return real(*args)

        return operation

    with monkeypatch.context() as patch:
        for name in ("delete", "move", "write_json"):
            patch.setattr(storage, name, dying(getattr(storage, name)))
        try:
            commit(run)
        except KeyboardInterrupt:
            if storage.exists(run.manifest):
                assert captions(run) == ["old"]
            else:
                with pytest.raises(CaptionerError, match="not complete"):
                    runs.read_manifest(run.run_dir)
    stage_captions(run, ["new1", "new2"])
    commit(run)
    assert captions(run) == ["new1", "new2"]


def test_a_stage_redone_withdraws_what_came_of_it(run):
    stage_captions(run, ["a"])
    commit(run)
    storage.write_text(layout.join(run.table(layout.MATCHES), "part-00000.parquet"), "stale")
    storage.write_text(run.report, "stale")
    stage_captions(run, ["a"])
    commit(run)
    assert not storage.exists(run.table(layout.MATCHES))
    assert not storage.exists(run.report)


def test_no_manifest_until_the_last_stage(run):
    stage_captions(run, ["a"])
    manifest = commit(run, complete=False)
    assert not storage.exists(run.manifest)
    runs.finish(run, manifest)
    assert runs.read_manifest(run.run_dir)["stages"].keys() == {"caption"}
