"""Commits: a run is whole or has no manifest, at whatever moment a commit is interrupted."""

from __future__ import annotations

from pathlib import Path

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.runs import commits, run_files
from captioner_core.runs.commits import StageRecord
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.stages import commit, stage_captions, stage_table


def captions(run):
    """Returns the image ids of a run's captions."""
    return storage.read_table(run.table(layout.CAPTIONS)).column("image_id").to_pylist()


@pytest.fixture
def run(tmp_path):
    """Returns a run that does not exist yet."""
    return RunLayout(str(tmp_path), "r")


def test_commit_counts_the_rows_and_leaves_no_staging(run):
    commit(stage_captions(run, ["a", "b", "c"], parts=2), counts={"images_found": 3})
    manifest = commits.read_manifest(run.run_dir)
    assert manifest["counts"] == {"images_found": 3, "captions": 3, "features": 0, "failures": 0}
    assert manifest["options"]["images"] == "in"
    assert sorted(captions(run)) == ["a", "b", "c"]
    assert not storage.exists(run.staging)


def test_a_rerun_with_fewer_parts_leaves_no_old_part(run):
    commit(stage_captions(run, ["a", "b", "c"], parts=3))
    commit(stage_captions(run, ["d"]))
    assert captions(run) == ["d"]


def test_work_that_dies_before_the_commit_changes_nothing(run):
    commit(stage_captions(run, ["a"]))
    stage_captions(run, ["b"])  # The process dies before it commits.
    assert captions(run) == ["a"]
    assert commits.read_manifest(run.run_dir)["counts"]["captions"] == 1
    commit(stage_captions(run, ["c"]))
    assert captions(run) == ["c"]


@pytest.mark.parametrize("call", range(1, 18))
def test_an_interrupted_commit_is_never_read_as_complete(run, monkeypatch, call):
    """The commit dies at each of its file operations in turn."""
    commit(stage_captions(run, ["old"]))
    attempt = stage_captions(run, ["new1", "new2"], parts=2)
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
        for name in ("delete", "move", "write_text"):
            patch.setattr(storage, name, dying(getattr(storage, name)))
        try:
            commit(attempt)
        except KeyboardInterrupt:
            if storage.exists(run.manifest):
                assert captions(run) == ["old"]
            else:
                with pytest.raises(CaptionerError, match="not complete"):
                    commits.read_manifest(run.run_dir)
    commit(stage_captions(run, ["new1", "new2"]))
    assert captions(run) == ["new1", "new2"]


def test_a_stage_that_runs_again_removes_what_was_made_from_it(run):
    commit(stage_captions(run, ["a"]))
    files = {
        path.relative_to(run.run_dir).as_posix()
        for path in Path(run.run_dir).rglob("*")
        if path.is_file()
    }
    run_files.write_marker(
        run.run_dir,
        {*files - {".captioner-files"}, "matches/part-00000.parquet", "report/index.html"},
    )
    storage.write_text(layout.join(run.table(layout.MATCHES), "part-00000.parquet"), "stale")
    storage.write_text(run.report, "stale")
    commit(stage_captions(run, ["a"]))
    assert not storage.exists(run.table(layout.MATCHES))
    assert not storage.exists(run.report)


def test_no_manifest_until_the_last_stage(run):
    manifest = commit(stage_captions(run, ["a"]), complete=False)
    assert not storage.exists(run.manifest)
    commits.write_manifest(run, manifest)
    assert commits.read_manifest(run.run_dir)["stages"].keys() == {"caption"}


def test_of_two_processes_that_write_a_run_the_later_one_commits(run):
    """A killed task's orphan may go on while its retry runs; their rows must not mix."""
    first = stage_captions(run, ["orphan"])
    second = commits.begin_attempt(run)
    stage_table(first, layout.CAPTIONS, ["orphan"])  # The orphan goes on writing.
    with pytest.raises(CaptionerError, match=r"taken over by process \d+ on .*different --run-id"):
        commit(first)
    assert not storage.exists(run.manifest)
    stage_table(second, layout.CAPTIONS, ["retry"])
    commit(second)
    assert captions(run) == ["retry"]
    # The orphan cannot commit after the retry has committed, either.
    with pytest.raises(CaptionerError, match="another process"):
        commit(first)
    assert captions(run) == ["retry"]


def test_added_rows_do_not_replace_the_rows_that_are_kept(run):
    """A new part file with the name of an old one would replace it."""
    commit(stage_captions(run, ["a", "b"], parts=2))
    manifest = commit(stage_captions(run, ["c"]), adds_to=(layout.CAPTIONS, layout.FEATURES))
    assert sorted(captions(run)) == ["a", "b", "c"]
    assert manifest["counts"]["captions"] == 3


def test_a_stage_that_replaces_some_tables_keeps_the_others(run):
    commit(stage_captions(run, ["a"]))
    before = storage.list_parts(run.table(layout.FAILURES))
    manifest = commits.read_manifest(run.run_dir)
    attempt = stage_captions(run, ["b"])
    commits.commit_stage(
        attempt,
        {**manifest, "stages": {layout.EXTRACT: StageRecord(wall_time_s=1.0)}},
        layout.CAPTION,
        wall_time_s=1.0,
        options={},
        tables=(layout.CAPTIONS,),
    )
    assert captions(run) == ["b"]
    assert storage.list_parts(run.table(layout.FAILURES)) == before
