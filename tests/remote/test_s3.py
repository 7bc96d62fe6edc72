"""Runs whose images, tables, models and reports are in an object store.

The store is a real S3 server on this machine. Runs must have the same rows as in local folders,
and unusual keys, vanished images and unreachable stores must give failures or one-line errors.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from beam_jobs import caption_images, extract_features, match_captions
from captioner_core.captioning.saved_model import load_model, read_model_id
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions
from captioner_core.report import write_report
from captioner_core.runs import commits, image_list
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.fakes import FakeBackbone
from tests.remote.server import BUCKET, client, keys, reached_at, upload
from tests.same_tables import assert_same_tables, rows

ROOT = f"s3://{BUCKET}/out"


def caption(images, root, model, load, run_id="run", **changes):
    """Runs the caption job and returns its counts."""
    options = CaptionOptions(
        images=str(images),
        collection="photos",
        output=str(root),
        run_id=run_id,
        model=model,
        **changes,
    )
    return caption_images.run(options, load=load)["counts"]


def match(root, run_id="run"):
    """Matches the captions of a run with each other."""
    captions = f"{root}/runs/{run_id}/captions"
    match_captions.run(
        MatchOptions(captions=(captions,), index=(captions,), output=str(root), run_id=run_id)
    )


@pytest.fixture
def prefix(s3, photos, request):
    """Uploads the photos for a test and returns the URI of their folder."""
    name = f"photos-{request.node.name}"
    upload(s3, photos, name)
    return f"s3://{BUCKET}/{name}"


def test_a_run_in_a_store_has_the_same_rows_as_in_folders(
    prefix, photos, tmp_path, model_dir, load_models, s3
):
    for images, root in ((photos, tmp_path), (prefix, ROOT)):
        caption(images, root, model_dir, load_models)
        match(root)
    run = RunLayout(ROOT, "run")
    local = RunLayout(str(tmp_path), "run")
    assert verify(run.run_dir) == []
    assert_same_tables(run.run_dir, local.run_dir)
    assert (
        commits.read_manifest(run.run_dir)["counts"]
        == commits.read_manifest(local.run_dir)["counts"]
    )
    captions = storage.read_table(run.table(layout.CAPTIONS)).to_pylist()
    assert all(row["image_uri"] == f"{prefix}/{row['image_id']}" for row in captions)
    staged_files = [key for key in keys(s3, "out/runs/run/_staging") if not key.endswith("/")]
    assert not staged_files


def test_a_report_in_a_store_shows_the_images(prefix, model_dir, load_models):
    caption(prefix, ROOT, model_dir, load_models, "report")
    match(ROOT, "report")
    uri = write_report(f"{ROOT}/runs/report")
    file_system, path = storage.resolve(uri)
    page = file_system.open_input_stream(path).read().decode()
    assert page.count("data:image/jpeg;base64,") >= 12


def test_a_second_extraction_reuses_the_features_in_the_store(prefix):
    options = ExtractOptions(images=prefix, output=ROOT, run_id="features")
    assert extract_features.run(options, load=FakeBackbone)["counts"]["taken_over"] == 0
    counts = extract_features.run(options, load=FakeBackbone)["counts"]
    assert counts["taken_over"] == counts["features"] == 12
    assert verify(f"{ROOT}/runs/features") == []


def test_only_failures_retries_the_failed_images_of_a_store(
    prefix, s3, photos, model_dir, load_models
):
    assert caption(prefix, ROOT, model_dir, load_models, "retried")["failures"] == 2
    client(s3).put_object(
        Bucket=BUCKET,
        Key=f"{prefix.removeprefix(f's3://{BUCKET}/')}/empty.jpg",
        Body=(photos / "red" / "picture 0.png").read_bytes(),
    )
    counts = caption(prefix, ROOT, model_dir, load_models, "retried", only_failures=True)
    assert (counts["captions"], counts["failures"], counts["taken_over"]) == (13, 1, 12)
    assert verify(f"{ROOT}/runs/retried") == []


def test_a_model_in_a_store_writes_the_same_captions(prefix, s3, tmp_path, model_dir, load_models):
    upload(s3, Path(model_dir), "models/one")
    uri = f"s3://{BUCKET}/models/one"
    assert load_model(uri).model_id == load_model(model_dir).model_id == read_model_id(uri)
    caption(prefix, ROOT, uri, load_models, "model")
    caption(prefix, tmp_path, model_dir, load_models, "model")
    assert_same_tables(f"{ROOT}/runs/model", f"{tmp_path}/runs/model", [layout.CAPTIONS])


def test_unusual_keys_are_found_and_similar_prefixes_are_not(
    s3, photos, tmp_path, model_dir, load_models
):
    picture = (photos / "red" / "picture 0.png").read_bytes()
    names = [
        "a b.png",
        "100%.png",
        "a%20b.png",
        "a#b.png",
        "a?b.png",
        "a+b&c=d.png",
        "żółw 🐢.png",
        "deep/er/x.PNG",
        "'\".png",
    ]
    for name in (*(f"odd/{name}" for name in names), "odd2/no.png", "oddly.png", "odd.png"):
        client(s3).put_object(Bucket=BUCKET, Key=name, Body=picture)
    client(s3).put_object(Bucket=BUCKET, Key="odd/deep/", Body=b"")
    client(s3).put_object(Bucket=BUCKET, Key="odd/notes.txt", Body=b"hello")
    for folder in (f"s3://{BUCKET}/odd", f"s3://{BUCKET}/odd/"):
        counts = caption(folder, ROOT, model_dir, load_models, "odd")
        assert (counts["images_found"], counts["failures"]) == (len(names), 0)
        assert rows(f"{ROOT}/runs/odd", layout.CAPTIONS)["image_id"].tolist() == sorted(names)


def test_keys_that_are_no_valid_paths_are_failures(s3, photos, model_dir, load_models):
    """Readers disagree about what a key such as ../x.png names; some would leave the folder."""
    picture = (photos / "red" / "picture 0.png").read_bytes()
    for name in (
        "good.png",
        "a/../../up.png",
        "./here.png",
        "a//empty.png",
        "a/b.png",
        "a/../../up too.png",
        "//two.png",
    ):
        client(s3).put_object(Bucket=BUCKET, Key=f"keys/{name}", Body=picture)
    counts = caption(f"s3://{BUCKET}/keys", ROOT, model_dir, load_models, "keys")
    assert (counts["images_found"], counts["captions"], counts["failures"]) == (6, 2, 4)
    assert rows(f"{ROOT}/runs/keys", layout.CAPTIONS)["image_id"].tolist() == [
        "a/b.png",
        "good.png",
    ]
    failed = rows(f"{ROOT}/runs/keys", layout.FAILURES)
    assert failed["image_id"].tolist() == ["%2E", "%2F", "a/%2E%2E", "a/%2F"]
    assert set(failed["error_type"]) == {"unreadable"}
    assert verify(f"{ROOT}/runs/keys") == []


def test_an_image_that_vanishes_after_it_was_listed_is_one_failure(
    prefix, s3, model_dir, load_models, monkeypatch
):
    write_image_list = image_list.write_image_list

    def list_and_delete(*arguments):
        files = write_image_list(*arguments)
        key = f"{prefix.removeprefix(f's3://{BUCKET}/')}/red/picture 0.png"
        client(s3).delete_object(Bucket=BUCKET, Key=key)
        return files

    monkeypatch.setattr(image_list, "write_image_list", list_and_delete)
    counts = caption(prefix, ROOT, model_dir, load_models, "vanished")
    assert (counts["captions"], counts["failures"]) == (11, 3)
    failed = rows(f"{ROOT}/runs/vanished", "failures").set_index("image_id").error_type
    assert failed["red/picture 0.png"] == "unreadable"
    assert verify(f"{ROOT}/runs/vanished") == []


def test_the_attempt_that_started_last_owns_a_run(s3):
    first = commits.begin_attempt(RunLayout(ROOT, "two"))
    second = commits.begin_attempt(RunLayout(ROOT, "two"))
    commits.check_owner(second)
    with pytest.raises(CaptionerError, match="taken over by"):
        commits.check_owner(first)


def test_missing_folders_and_unknown_stores_are_refused(s3, model_dir, load_models):
    for images in (f"s3://{BUCKET}/nothing-here", "s3://no-such-bucket/photos"):
        with pytest.raises(CaptionerError, match=r"is not a folder|can't be listed"):
            caption(images, ROOT, model_dir, load_models, "none")
    with pytest.raises(CaptionerError, match="no client for nosuch"):
        caption("nosuch://place/photos", ROOT, model_dir, load_models, "none")
    with pytest.raises(CaptionerError, match=r"doesn.t support hdfs; mount the file system"):
        caption("hdfs://place/photos", ROOT, model_dir, load_models, "none")


@pytest.mark.parametrize("command", ["verify", "report", "manifest"])
def test_commands_reach_a_store_by_environment_variables_only(
    prefix, model_dir, load_models, command
):
    caption(prefix, ROOT, model_dir, load_models, "command")
    match(ROOT, "command")
    done = subprocess.run(
        [sys.executable, "-m", "captioner_cli", command, f"{ROOT}/runs/command"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_an_unreachable_store_is_an_error_of_one_line(port):
    with reached_at(1):
        done = subprocess.run(
            [sys.executable, "-m", "captioner_cli", "verify", f"{ROOT}/runs/run"],
            capture_output=True,
            text=True,
        )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
