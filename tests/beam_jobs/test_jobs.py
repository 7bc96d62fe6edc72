"""The three jobs on Beam's local runner: their tables, their counts and their errors.

The jobs read and write real files; a small backbone stands in for Xception.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from beam_jobs import caption_images, extract_features, match_captions
from captioner_core.captioning.captioning_models import CaptioningModels, load_models
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.network import Captioner
from captioner_core.captioning.saved_model import load_model, save_model
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.io import storage
from captioner_core.models.registry import promote
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions
from captioner_core.runs import commits, image_list
from captioner_core.runs.image_list import write_image_list
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import (
    DATASET_CAPTIONS_SCHEMA,
    TABLE_SCHEMAS,
    DatasetCaptionRow,
    rows_as_table,
)
from tests.fakes import FakeBackbone


def frame(run, name):
    """Returns a table of a run."""
    return storage.read_table(run.table(name)).to_pandas()


@pytest.fixture
def run(tmp_path):
    """Returns the layout of a run that does not exist yet."""
    return RunLayout(str(tmp_path / "root"), "run")


@pytest.fixture
def captioned(photos, run, model_dir, load_models):
    """Captions the photos and returns the manifest of the run."""
    options = CaptionOptions(images=str(photos), output=run.root, model=model_dir, batch_size=5)
    return caption_images.run(options, load=load_models)


def test_extract_writes_features_and_failures(photos, run):
    manifest = extract_features.run(
        ExtractOptions(images=str(photos), output=run.root, batch_size=5), load=FakeBackbone
    )
    features = frame(run, "features")
    failures = frame(run, "failures")
    assert manifest["counts"]["images_found"] == 14
    assert manifest["counts"]["files_passed_over"] == 1
    assert len(features) == 12
    assert set(features.image_id) == {str(p.relative_to(photos)) for p in photos.rglob("*.png")}
    assert dict(zip(failures.image_id, failures.error_type, strict=True)) == {
        "empty.jpg": "empty_file",
        "not an image.jpg": "unsupported_format",
    }
    row = features[features.image_id == "red/picture 0.png"].iloc[0]
    assert (row.width, row.height, row.backbone) == (60, 40, "fake-299")
    sha256 = hashlib.sha256((photos / "red/picture 0.png").read_bytes()).hexdigest()
    assert row.image_sha256 == sha256
    np.testing.assert_allclose(
        row.grid.reshape(25, 3800)[:, :2048].mean(axis=0), row.feature, rtol=1e-2
    )
    assert verify(run.run_dir) == []


def test_extract_without_grid_writes_no_grid_column(photos, run):
    extract_features.run(
        ExtractOptions(images=str(photos), output=run.root, grid=False), load=FakeBackbone
    )
    assert storage.open_table(run.table("features")).schema.equals(TABLE_SCHEMAS["features"])


def test_caption_writes_tables_with_the_documented_schemas(captioned, run):
    for name in ("captions", "features", "failures"):
        schema = storage.open_table(run.table(name)).schema
        assert schema.equals(TABLE_SCHEMAS[name]), name
        part = storage.list_parts(run.table(name))[0]
        column = pq.ParquetFile(part).metadata.row_group(0).column(0)
        assert column.compression == "ZSTD" or not len(frame(run, name))
    assert captioned["counts"] == {
        **captioned["counts"],
        "captions": 12,
        "failures": 2,
        "features": 12,
        "images_found": 14,
    }
    assert verify(run.run_dir) == []


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_changes_no_row(photos, run, model_dir, load_models, batch_size, captioned):
    before = {name: frame(run, name) for name in ("captions", "features", "failures")}
    options = CaptionOptions(
        images=str(photos), output=run.root, model=model_dir, batch_size=batch_size
    )
    caption_images.run(options, load=load_models)
    for name, old in before.items():
        new = frame(run, name).sort_values("image_id", ignore_index=True)
        old = old.sort_values("image_id", ignore_index=True)
        if name == "features":
            np.testing.assert_allclose(
                np.stack(new.pop("feature")), np.stack(old.pop("feature")), atol=1e-5
            )
        pd.testing.assert_frame_equal(new, old, atol=1e-5)


def test_two_workers_write_the_same_captions_as_one(photos, run, model_dir, load_models, captioned):
    before = frame(run, "captions").sort_values("image_id", ignore_index=True)
    options = CaptionOptions(images=str(photos), output=run.root, model=model_dir)
    caption_images.run(
        options,
        ["--direct_running_mode=multi_threading", "--direct_num_workers=2"],
        load=load_models,
    )
    after = frame(run, "captions").sort_values("image_id", ignore_index=True)
    pd.testing.assert_frame_equal(after, before, atol=1e-5)


def _load_named_model(backbone_name, model_dir, beam_width, precision, engine):
    """Loads the captioner of a folder beside the fake backbone."""
    return CaptioningModels(FakeBackbone(), CaptionGenerator(load_model(model_dir), beam_width))


def test_a_promotion_during_a_run_changes_no_caption(photos, run, model_dir, tmp_path, monkeypatch):
    """The run resolves the current model once.

    If each worker looked for it, one run could contain captions of two models.
    """
    models = tmp_path / "models"
    shutil.copytree(model_dir, models / "old")
    save_model(
        str(models / "new"),
        Captioner(load_model(model_dir).config, seed=2),
        load_model(model_dir).vocabulary,
        {},
    )
    promote(str(models), "old")

    def promote_and_write(*arguments):
        promote(str(models), "new")
        return write_image_list(*arguments)

    monkeypatch.setattr(image_list, "write_image_list", promote_and_write)
    monkeypatch.setattr(caption_images, "load_models", _load_named_model)
    options = CaptionOptions(images=str(photos), output=run.root, model=str(models))
    manifest = caption_images.run(options)
    old = load_model(model_dir).model_id
    assert manifest["model"] == {"path": str(models / "old"), "model_id": old}
    assert manifest["options"]["model"] == str(models / "old")
    assert set(frame(run, "captions").model_id) == {old}
    second = caption_images.run(options)
    assert second["model"]["path"] == str(models / "new")
    assert set(frame(run, "captions").model_id) == {second["model"]["model_id"]} != {old}, (
        "no caption of the old model is reused"
    )


def test_more_failures_than_allowed_fail_the_job_after_its_tables_are_written(
    photos, run, model_dir, load_models
):
    options = CaptionOptions(images=str(photos), output=run.root, model=model_dir, max_failures=1)
    with pytest.raises(CheckFailed, match="2 images failed"):
        caption_images.run(options, load=load_models)
    assert verify(run.run_dir) == [], "the tables are complete nevertheless"
    caption_images.run(dataclasses.replace(options, max_failures=2), load=load_models)


def test_an_empty_folder_gives_a_complete_run_without_rows(tmp_path, run, model_dir, load_models):
    (tmp_path / "nothing").mkdir()
    caption_images.run(
        CaptionOptions(images=str(tmp_path / "nothing"), output=run.root, model=model_dir),
        load=load_models,
    )
    options = MatchOptions(
        captions=(run.table("captions"),), output=run.root, index=(run.table("captions"),)
    )
    match_captions.run(options)
    assert commits.read_manifest(run.run_dir)["counts"]["match_summary"] == 0
    assert verify(run.run_dir) == []


@pytest.fixture
def human_captions(tmp_path):
    """Writes a table of three human captions of two images and returns its path."""
    rows = [
        DatasetCaptionRow("one.jpg", 0, "a red dog runs on the grass", "train"),
        DatasetCaptionRow("one.jpg", 1, "a dog on grass", "train"),
        DatasetCaptionRow("two.jpg", 0, "a bird sleeps", "dev"),
    ]

    path = tmp_path / "captions.parquet"
    pq.write_table(rows_as_table(rows, "d", DATASET_CAPTIONS_SCHEMA), path)
    return str(path)


def test_match_adds_its_tables_to_the_run_of_its_captions(captioned, run, human_captions):
    options = MatchOptions(
        captions=(run.table("captions"),),
        output=run.root,
        index=(human_captions, run.table("captions")),
        threshold=0.2,
        top_k=3,
    )
    manifest = match_captions.run(options)
    assert manifest["stages"].keys() == {"caption", "match"}
    assert manifest["options"]["images"] == captioned["options"]["images"]
    assert manifest["encoder"]["fingerprint"].startswith("learned/")
    assert verify(run.run_dir) == []
    summary = frame(run, "match_summary")
    matches = frame(run, "matches")
    assert len(summary) == 12
    assert (matches.query_image_id != matches.match_image_id).all()
    generated = matches[matches.match_source == "generated"]
    assert generated.feature_score.notna().all(), "the run's features lie beside its captions"
    assert matches[matches.match_source == "human"].feature_score.isna().all()


def test_index_splits_restrict_the_matches(captioned, run, human_captions):
    options = MatchOptions(
        captions=(run.table("captions"),),
        output=run.root,
        index=(human_captions,),
        index_splits=("dev",),
        threshold=-1.0,
    )
    match_captions.run(options)
    assert set(frame(run, "matches").match_image_id) == {"two.jpg"}


def test_an_image_with_many_captions_is_one_query(run, human_captions):
    options = MatchOptions(
        captions=(human_captions,), output=run.root, index=(human_captions,), threshold=-1.0
    )
    match_captions.run(options)
    summary = frame(run, "match_summary").set_index("query_image_id")
    assert sorted(summary.index) == ["one.jpg", "two.jpg"]
    assert summary.loc["one.jpg", "best_match_image_id"] == "two.jpg"
    assert verify(run.run_dir) == []


def test_captions_of_an_unfinished_run_are_refused(captioned, run, human_captions):
    storage.delete(run.manifest)
    options = MatchOptions(
        captions=(run.table("captions"),), output=run.root, run_id="other", index=(human_captions,)
    )
    with pytest.raises(CaptionerError, match="not complete"):
        match_captions.run(options)


def test_a_table_without_captions_is_refused(captioned, run):
    options = MatchOptions(
        captions=(run.table("failures"),), output=run.root, index=(run.table("captions"),)
    )
    with pytest.raises(CaptionerError, match="captions table"):
        match_captions.run(options)


def test_a_model_for_another_backbone_is_refused(model_dir):
    with pytest.raises(CaptionerError, match="fake-299"):
        load_models("xception", model_dir, 3)


@pytest.mark.parametrize(
    ("job", "argv"),
    [
        (extract_features, ["--images", "nowhere", "--output", "root"]),
        (caption_images, ["--images", "nowhere", "--output", "root", "--model", "nowhere"]),
        (match_captions, ["--captions", "nowhere", "--output", "root", "--index", "nowhere"]),
        (extract_features, ["--images", "x", "--output", "root", "--no-such-option"]),
        (extract_features, ["--images", "x", "--output", "root", "--batch-size", "many"]),
        (extract_features, ["--images", "x", "--output", "root", "--batch-size", "0"]),
    ],
)
def test_bad_usage_prints_one_line_and_exits_with_2(job, argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = job.main(argv)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "root" / "runs" / "run" / "manifest.json").exists()
