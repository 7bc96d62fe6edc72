"""A repeated run reuses the rows of images whose bytes have not changed.

A backbone that counts its images shows how many of them a job computes features for. The tables
must equal those of a new run.
"""

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

# The size of each batch that the backbone has computed since the test began.
BATCH_SIZES: list[int] = []


class CountingBackbone(FakeBackbone):
    """A fake backbone that records the sizes of its batches."""

    def features(self, pixels):
        """Returns the features of a batch and records its size."""
        BATCH_SIZES.append(len(pixels))
        return super().features(pixels)


def counting_models(model_dir):
    """Loads a captioner beside a counting backbone."""
    return CaptioningModels(CountingBackbone(), CaptionGenerator(load_model(model_dir)))


@pytest.fixture(autouse=True)
def forget_batches():
    """Forgets the batches of earlier tests."""
    BATCH_SIZES.clear()


@pytest.fixture
def run(tmp_path):
    """Returns the layout of a run that does not exist yet."""
    return RunLayout(str(tmp_path / "root"), "run")


def extract(photos, run, **changes):
    """Runs the extract job and returns its counts."""
    options = ExtractOptions(images=str(photos), output=run.root, run_id=run.run_id, **changes)
    return extract_features.run(options, load=CountingBackbone)["counts"]


def caption(photos, run, model_dir, **changes):
    """Runs the caption job and returns its counts."""
    options = CaptionOptions(
        images=str(photos), output=run.root, run_id=run.run_id, model=model_dir, **changes
    )
    load = functools.partial(counting_models, model_dir)
    return caption_images.run(options, load=load)["counts"]


def change_folder(photos):
    """Edits one image, renames one, copies one, deletes one and adds one."""
    files = sorted(photos.rglob("*.png"))
    Image.fromarray(np.full((30, 30, 3), 7, np.uint8)).save(files[0])
    files[1].rename(photos / "renamed.png")
    (photos / "copied.png").write_bytes(files[2].read_bytes())
    files[3].unlink()
    Image.fromarray(np.full((20, 40, 3), 99, np.uint8)).save(photos / "new.png")


def frame(run, name):
    """Returns a table of a run in the order of its image ids."""
    return (
        storage.read_table(run.table(name)).to_pandas().sort_values("image_id", ignore_index=True)
    )


def assert_same_tables(run, expected_run, names):
    """Checks that two runs have equal tables, up to 1e-5 in numbers."""
    for name in names:
        actual = frame(run, name).drop(columns="run_id")
        expected = frame(expected_run, name).drop(columns="run_id")
        for column in {"feature", "grid"} & set(actual):
            vectors = np.stack(actual.pop(column))
            np.testing.assert_allclose(vectors, np.stack(expected.pop(column)), atol=1e-5)
        pd.testing.assert_frame_equal(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [True, False])
def test_features_of_images_with_the_same_bytes_are_reused(photos, run, grid):
    assert extract(photos, run, grid=grid)["taken_over"] == 0
    assert sum(BATCH_SIZES) == 12
    change_folder(photos)
    BATCH_SIZES.clear()
    counts = extract(photos, run, grid=grid)
    assert sum(BATCH_SIZES) == 2, "only the edited and the new image are computed"
    assert (counts["taken_over"], counts["features"], counts["failures"]) == (11, 13, 2)
    assert verify(run.run_dir) == []
    new_run = RunLayout(run.root, "new")
    extract(photos, new_run, grid=grid)
    assert_same_tables(run, new_run, ("features", "failures"))


def test_captions_of_images_with_the_same_bytes_are_reused(photos, run, model_dir):
    caption(photos, run, model_dir)
    change_folder(photos)
    BATCH_SIZES.clear()
    counts = caption(photos, run, model_dir)
    assert sum(BATCH_SIZES) == 2
    assert (counts["taken_over"], counts["captions"], counts["features"]) == (11, 13, 13)
    assert verify(run.run_dir) == []
    new_run = RunLayout(run.root, "new")
    caption(photos, new_run, model_dir)
    assert_same_tables(run, new_run, ("captions", "features", "failures"))


@pytest.mark.parametrize(
    "change",
    [{"reuse": False}, {"beam_width": 2}, {"backbone": "xception-mirrored"}],
    ids=lambda change: next(iter(change)),
)
def test_a_run_with_other_options_is_not_reused(photos, run, model_dir, change):
    caption(photos, run, model_dir)
    BATCH_SIZES.clear()
    assert caption(photos, run, model_dir, **change)["taken_over"] == 0
    assert sum(BATCH_SIZES) == 12


def test_an_unfinished_run_and_another_stage_are_not_reused(photos, run, model_dir):
    extract(photos, run)
    assert caption(photos, run, model_dir)["taken_over"] == 0
    storage.delete(run.manifest)
    assert caption(photos, run, model_dir)["taken_over"] == 0


def test_a_run_without_grids_is_not_reused_for_grids(photos, run):
    extract(photos, run, grid=False)
    assert extract(photos, run, grid=True)["taken_over"] == 0
    assert extract(photos, run, grid=False)["taken_over"] == 12
