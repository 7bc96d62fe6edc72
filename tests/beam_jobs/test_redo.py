"""``--only-failures`` and ``--from-features`` repeat no finished work and lose no row.

A backbone that counts its images shows which of them a job computes features for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from beam_jobs import caption_features, match_captions
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import MatchOptions
from captioner_core.runs.commits import read_manifest
from captioner_core.runs.verify import verify
from tests.beam_jobs.test_reuse import (
    BATCH_SIZES,
    assert_same_tables,
    caption,
    extract,
    forget_batches,
    frame,
    run,
)

__all__ = ["forget_batches", "run"]


def repair(photos):
    """Turns one of the two failures into an image, and adds an image that no run has seen."""
    Image.new("RGB", (30, 30), "orange").save(photos / "empty.jpg")
    Image.new("RGB", (30, 30), "purple").save(photos / "new.png")


@pytest.mark.parametrize("job", ["extract", "caption"])
def test_only_failures_retries_the_failed_images_and_keeps_all_other_rows(
    photos, run, model_dir, job
):
    jobs: dict[str, Callable[..., Any]] = {
        "extract": functools.partial(extract, photos, run),
        "caption": functools.partial(caption, photos, run, model_dir),
    }
    run_job = jobs[job]
    assert run_job()["failures"] == 2
    assert sum(BATCH_SIZES) == 12
    before = frame(run, "features")
    (photos / "red" / "picture 0.png").unlink()  # a retry does not open it
    repair(photos)
    counts = run_job(only_failures=True)
    assert sum(BATCH_SIZES) == 13
    assert (counts["images_found"], counts["features"], counts["failures"]) == (14, 13, 1)
    after = frame(run, "features")
    assert set(after["image_id"]) - set(before["image_id"]) == {"empty.jpg"}
    assert frame(run, "failures")["image_id"].tolist() == ["not an image.jpg"]
    assert not verify(run.run_dir)
    run_job(only_failures=True)
    assert sum(BATCH_SIZES) == 13


def test_only_failures_lists_an_unreadable_folder_again(photos, run, monkeypatch):
    """The images in such a folder are in no table yet."""
    scandir = os.scandir

    def refuse_red(path):
        if path == os.fsencode(photos / "red"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refuse_red)
        assert extract(photos, run)["features"] == 9
    counts = extract(photos, run, only_failures=True)
    assert (counts["images_found"], counts["features"], counts["failures"]) == (14, 12, 2)


def test_only_failures_computes_all_images_of_an_incomplete_run(photos, run):
    """A retry after an interrupted commit must not fail forever."""
    extract(photos, run)
    storage.delete(run.manifest)
    assert extract(photos, run, only_failures=True)["features"] == 12
    assert sum(BATCH_SIZES) == 24


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"grid": False}, "with grid True"), ({"max_bytes": 100_000}, "with max_bytes 268435456")],
)
def test_only_failures_refuses_options_that_differ_from_the_run(photos, run, change, reason):
    extract(photos, run)
    with pytest.raises(CaptionerError, match=f"was made {reason}; run it without --only-failures"):
        extract(photos, run, only_failures=True, **change)
    assert read_manifest(run.run_dir)["counts"]["features"] == 12


def test_captions_of_stored_features_equal_those_of_the_images(photos, run, model_dir, tmp_path):
    from_images = type(run)(run.root, "from-images")
    caption(photos, from_images, model_dir)
    extract(photos, run)
    computed = sum(BATCH_SIZES)
    counts = caption(photos, run, model_dir, from_features=True)
    assert sum(BATCH_SIZES) == computed, "no features are computed again"
    assert (counts["images_found"], counts["captions"], counts["failures"]) == (14, 12, 2)
    assert_same_tables(run, from_images, ["captions", "failures"])
    match(run)
    assert not verify(run.run_dir)
    # Captioning again replaces the captions, so the matches no longer apply.
    assert caption(photos, run, model_dir, from_features=True)["captions"] == 12
    assert "matches" not in read_manifest(run.run_dir)["counts"]
    assert not verify(run.run_dir)
    assert extract(photos, run)["taken_over"] == 12, "a repeated extraction reuses the features"


def match(run):
    """Matches a run's captions with each other."""
    captions = (run.table("captions"),)
    match_captions.run(
        MatchOptions(
            captions=captions, index=captions, output=run.root, run_id=run.run_id, encoder="tfidf"
        )
    )


def test_from_features_refuses_a_run_without_usable_features(photos, run, model_dir, tmp_path):
    with pytest.raises(CaptionerError, match="not complete"):
        caption(photos, run, model_dir, from_features=True)
    extract(photos, run, grid=False)
    with pytest.raises(CaptionerError, match="no features with their grid; run extract"):
        caption(photos, run, model_dir, from_features=True)
    extract(photos, run)
    with pytest.raises(CaptionerError, match=r"not of --images .*elsewhere"):
        caption(tmp_path / "elsewhere", run, model_dir, from_features=True)
    with pytest.raises(CaptionerError, match="leave one out"):
        caption(photos, run, model_dir, from_features=True, only_failures=True)
    assert read_manifest(run.run_dir)["stages"].keys() == {"extract"}


def test_a_model_for_another_backbone_is_refused(photos, run):
    extract(photos, run)
    with pytest.raises(
        CaptionerError, match=r"trained on features of 'xception.*, and .* has those of 'fake-299'"
    ):
        caption(photos, run, "pretrained", from_features=True)


def test_a_folder_with_only_bad_images_gives_a_table_without_captions(photos, run, model_dir):
    for image in photos.rglob("*.png"):
        image.unlink()
    extract(photos, run)
    counts = caption(photos, run, model_dir, from_features=True)
    assert (counts["images_found"], counts["captions"], counts["failures"]) == (2, 0, 2)
    match(run)
    assert not verify(run.run_dir)


def test_load_generator_loads_the_captioner_of_a_folder(model_dir):
    generator = caption_features.load_generator(model_dir, 3, "openvino")
    assert isinstance(generator, CaptionGenerator)
    assert generator.model_id == load_model(model_dir).model_id


def test_failed_for_retries_only_failures_with_that_reason(photos, run):
    """Failures with other reasons keep their rows, and their images are not opened."""
    assert extract(photos, run)["failures"] == 2
    before = frame(run, "failures")
    repair(photos)
    Image.new("RGB", (30, 30), "green").save(photos / "not an image.jpg")
    BATCH_SIZES.clear()
    counts = extract(photos, run, only_failures=True, failed_for=("empty_file",))
    assert sum(BATCH_SIZES) == 1
    assert (counts["features"], counts["failures"], counts["images_found"]) == (13, 1, 14)
    assert verify(run.run_dir) == []
    kept = frame(run, "failures")
    assert kept.to_dict("records") == before[before.image_id == "not an image.jpg"].to_dict(
        "records"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only_failures": True, "failed_for": ("ugly",)}, "'ugly' is no reason"),
        ({"failed_for": ("truncated",)}, "--only-failures"),
    ],
)
def test_unusable_failed_for_options_are_refused(photos, run, options, message):
    with pytest.raises(CaptionerError, match=message):
        extract(photos, run, **options)
