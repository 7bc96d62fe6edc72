"""No image goes through the network twice: a run made again takes over what it found for the same bytes."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from beam_jobs import caption_images, extract_features
from captioner_core.captioning.captioning_models import CaptioningModels
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import load_model
from captioner_core.io import storage
from captioner_core.options import CaptionOptions, ExtractOptions
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from tests.fakes import FakeBackbone

SEEN: list[int] = []


class CountingBackbone(FakeBackbone):
    def features(self, pixels):
        SEEN.append(len(pixels))
        return super().features(pixels)


def counting_models(model_dir):
    return CaptioningModels(CountingBackbone(), CaptionGenerator(load_model(model_dir)))


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


@pytest.fixture
def run(tmp_path):
    return RunLayout(str(tmp_path / "root"), "run")


def extract(photos, run, **options):
    asked = ExtractOptions(images=str(photos), output=run.root, run_id=run.run_id, **options)
    return extract_features.run(asked, load=CountingBackbone)["counts"]


def caption(photos, run, model_dir, **options):
    asked = CaptionOptions(
        images=str(photos), output=run.root, run_id=run.run_id, model=model_dir, **options
    )
    return caption_images.run(asked, load=functools.partial(counting_models, model_dir))["counts"]


def change_folder(photos):
    """One image is edited, one renamed, one copied, one deleted and one new."""
    files = sorted(photos.rglob("*.png"))
    Image.fromarray(np.full((30, 30, 3), 7, np.uint8)).save(files[0])
    files[1].rename(photos / "renamed.png")
    (photos / "copied.png").write_bytes(files[2].read_bytes())
    files[3].unlink()
    Image.fromarray(np.full((20, 40, 3), 99, np.uint8)).save(photos / "new.png")


def frame(run, name):
    return (
        storage.read_table(run.table(name)).to_pandas().sort_values("image_id", ignore_index=True)
    )


def assert_same_tables(one, other, names):
    for name in names:
        a, b = (frame(run, name).drop(columns="run_id") for run in (one, other))
        for column in {"feature", "grid"} & set(a):
            np.testing.assert_allclose(np.stack(a.pop(column)), np.stack(b.pop(column)), atol=1e-5)
        pd.testing.assert_frame_equal(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [True, False])
def test_features_are_found_again_by_the_bytes(photos, run, grid):
    assert extract(photos, run, grid=grid)["taken_over"] == 0
    assert sum(SEEN) == 12
    change_folder(photos)
    SEEN.clear()
    counts = extract(photos, run, grid=grid)
    assert sum(SEEN) == 2, "the edited and the new one"
    assert (counts["taken_over"], counts["features"], counts["failures"]) == (11, 13, 2)
    assert verify(run.run_dir) == []
    anew = RunLayout(run.root, "anew")
    extract(photos, anew, grid=grid)
    assert_same_tables(run, anew, ("features", "failures"))


def test_captions_are_found_again_by_the_bytes(photos, run, model_dir):
    caption(photos, run, model_dir)
    change_folder(photos)
    SEEN.clear()
    counts = caption(photos, run, model_dir)
    assert sum(SEEN) == 2
    assert (counts["taken_over"], counts["captions"], counts["features"]) == (11, 13, 13)
    assert verify(run.run_dir) == []
    anew = RunLayout(run.root, "anew")
    caption(photos, anew, model_dir)
    assert_same_tables(run, anew, ("captions", "features", "failures"))


@pytest.mark.parametrize(
    "change",
    [{"reuse": False}, {"beam_width": 2}, {"backbone": "xception-mirrored"}],
    ids=lambda change: next(iter(change)),
)
def test_nothing_is_taken_over_from_a_run_made_otherwise(photos, run, model_dir, change):
    caption(photos, run, model_dir)
    SEEN.clear()
    assert caption(photos, run, model_dir, **change)["taken_over"] == 0
    assert sum(SEEN) == 12


def test_nothing_is_taken_over_from_an_unfinished_run_or_another_stage(photos, run, model_dir):
    extract(photos, run)
    assert caption(photos, run, model_dir)["taken_over"] == 0
    storage.delete(run.manifest)
    assert caption(photos, run, model_dir)["taken_over"] == 0


def test_a_grid_is_not_taken_from_a_run_without(photos, run):
    extract(photos, run, grid=False)
    assert extract(photos, run, grid=True)["taken_over"] == 0
    assert extract(photos, run, grid=False)["taken_over"] == 12
