"""Failed images alone looked at again, and captions of features that are there: nothing twice, nothing lost."""

from __future__ import annotations

import functools

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
from tests.beam_jobs.test_reuse import SEEN, assert_same_tables, caption, extract, frame, run

__all__ = ["run"]


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def mend(photos):
    """Of the two failures one becomes an image; an image comes that no run has seen, which is not asked about."""
    Image.new("RGB", (30, 30), "orange").save(photos / "empty.jpg")
    Image.new("RGB", (30, 30), "purple").save(photos / "new.png")


@pytest.mark.parametrize("job", ["extract", "caption"])
def test_failures_alone_are_looked_at_again(photos, run, model_dir, job):
    job_of = {"extract": (extract, photos, run), "caption": (caption, photos, run, model_dir)}
    do = functools.partial(*job_of[job])
    assert do()["failures"] == 2
    assert sum(SEEN) == 12
    before = frame(run, "features")
    (photos / "red" / "picture 0.png").unlink()  # not looked at, so not missed
    mend(photos)
    counts = do(only_failures=True)
    assert sum(SEEN) == 13
    assert (counts["images_found"], counts["features"], counts["failures"]) == (14, 13, 1)
    after = frame(run, "features")
    assert set(after["image_id"]) - set(before["image_id"]) == {"empty.jpg"}
    assert frame(run, "failures")["image_id"].tolist() == ["not an image.jpg"]
    assert not verify(run.run_dir)
    do(only_failures=True)
    assert sum(SEEN) == 13


def test_a_folder_that_could_not_be_listed_is_listed_again(photos, run, monkeypatch):
    """What is in it was never seen, so it stands in no table."""
    from captioner_core.images import listing

    scan = listing._scan

    def locked(folder, below):
        if below == b"red/":
            yield listing.FailureRow("list", "red", "red", "unreadable", "it is locked")
        else:
            yield from scan(folder, below)

    with monkeypatch.context() as patch:
        patch.setattr(listing, "_scan", locked)
        assert extract(photos, run)["features"] == 9
    counts = extract(photos, run, only_failures=True)
    assert (counts["images_found"], counts["features"], counts["failures"]) == (14, 12, 2)


def test_a_run_that_is_not_complete_is_made_as_a_whole(photos, run):
    """A retry after a commit that was cut off must not end red for ever."""
    extract(photos, run)
    storage.delete(run.manifest)
    assert extract(photos, run, only_failures=True)["features"] == 12
    assert sum(SEEN) == 24


@pytest.mark.parametrize(
    ("change", "said"),
    [({"grid": False}, "with grid True"), ({"max_bytes": 100_000}, "with max_bytes 268435456")],
)
def test_rows_made_otherwise_are_not_added(photos, run, change, said):
    extract(photos, run)
    with pytest.raises(CaptionerError, match=f"was made {said}; run it without --only-failures"):
        extract(photos, run, only_failures=True, **change)
    assert read_manifest(run.run_dir)["counts"]["features"] == 12


def test_captions_of_features_are_those_of_images(photos, run, model_dir, tmp_path):
    whole = type(run)(run.root, "whole")
    caption(photos, whole, model_dir)
    extract(photos, run)
    seen = sum(SEEN)
    counts = caption(photos, run, model_dir, from_features=True)
    assert sum(SEEN) == seen, "no image goes through the network again"
    assert (counts["images_found"], counts["captions"], counts["failures"]) == (14, 12, 2)
    assert_same_tables(run, whole, ["captions", "failures"])
    match(run)
    assert not verify(run.run_dir)
    assert caption(photos, run, model_dir, from_features=True)["captions"] == 12, (
        "again, in place of the first"
    )
    assert "matches" not in read_manifest(run.run_dir)["counts"]
    assert not verify(run.run_dir)
    assert extract(photos, run)["taken_over"] == 12, "a run made again finds its features"


def match(run):
    captions = (run.table("captions"),)
    match_captions.run(
        MatchOptions(
            captions=captions, index=captions, output=run.root, run_id=run.run_id, encoder="tfidf"
        )
    )


def test_what_has_no_features_to_caption_is_refused(photos, run, model_dir, tmp_path):
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


def test_a_model_of_other_features_is_refused(photos, run):
    extract(photos, run)
    with pytest.raises(
        CaptionerError, match=r"trained on features of 'xception.*, and .* has those of 'fake-299'"
    ):
        caption(photos, run, "pretrained", from_features=True)


def test_a_folder_of_bad_images_alone_has_a_table_without_captions(photos, run, model_dir):
    for image in photos.rglob("*.png"):
        image.unlink()
    extract(photos, run)
    counts = caption(photos, run, model_dir, from_features=True)
    assert (counts["images_found"], counts["captions"], counts["failures"]) == (2, 0, 2)
    match(run)
    assert not verify(run.run_dir)


def test_the_captioner_is_loaded_in_the_worker(model_dir):
    generator = caption_features.load_generator(model_dir, 3)
    assert isinstance(generator, CaptionGenerator)
    assert generator.model_id == load_model(model_dir).model_id


def test_failures_for_one_reason_alone(photos, run):
    """Those for other reasons stay as they are, without being looked at."""
    assert extract(photos, run)["failures"] == 2
    before = frame(run, "failures")
    mend(photos)
    Image.new("RGB", (30, 30), "green").save(photos / "not an image.jpg")
    SEEN.clear()
    counts = extract(photos, run, only_failures=True, failed_for=("empty_file",))
    assert sum(SEEN) == 1
    assert (counts["features"], counts["failures"], counts["images_found"]) == (13, 1, 14)
    assert verify(run.run_dir) == []
    kept = frame(run, "failures")
    assert kept.to_dict("records") == before[before.image_id == "not an image.jpg"].to_dict(
        "records"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only_failures": True, "failed_for": ("ugly",)}, "'ugly' is no reason"),
        ({"failed_for": ("truncated",)}, "--only-failures"),
    ],
)
def test_reasons_are_checked(photos, run, options, said):
    with pytest.raises(CaptionerError, match=said):
        extract(photos, run, **options)
