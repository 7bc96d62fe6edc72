"""A run that is repeated with other limits reuses all results that the limits do not change.

Images beyond the new limits become failures. Only failed images that the new limits allow are
decoded again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beam_jobs import extract_features
from captioner_core.errors import CaptionerError
from captioner_core.options import ExtractOptions
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from tests.fakes import FakeBackbone
from tests.image_files import encoded, picture
from tests.same_tables import assert_same_tables

BATCH_SIZES: list[int] = []
TABLES = ("features", "failures")


class CountingBackbone(FakeBackbone):
    """A fake backbone that records in ``BATCH_SIZES`` the number of images of each batch."""

    def features(self, pixels: Any) -> Any:
        """Returns the features of a batch, and records its size."""
        BATCH_SIZES.append(len(pixels))
        return super().features(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Returns a folder of images of 100, 360, 400 and 10,000 pixels and a broken file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for side in (10, 20, 100):
        (folder / f"{side}.bmp").write_bytes(encoded(picture(size=(side, side)), "BMP"))
    (folder / "tall.bmp").write_bytes(encoded(picture(size=(4, 90)), "BMP"))
    (folder / "broken.jpg").write_bytes(b"hello")
    return folder


def extract(photos: Path, root: Path, run_id: str = "run", **options: Any) -> dict[str, int]:
    """Extracts the features of a folder and returns the counts of the manifest."""
    BATCH_SIZES.clear()
    extract_options = ExtractOptions(
        images=str(photos), output=str(root), run_id=run_id, grid=False, **options
    )
    counts: dict[str, int] = extract_features.run(extract_options, load=CountingBackbone)["counts"]
    return counts


@pytest.mark.parametrize(
    ("before", "after", "image_count"),
    [
        ({"max_pixels": 1000}, {"max_pixels": 20_000}, 1),
        ({"max_pixels": 20_000}, {"max_pixels": 300}, 0),
        ({"max_bytes": 1500}, {"max_bytes": 100_000}, 1),
        ({"max_bytes": 100_000}, {"max_bytes": 1000}, 0),
        ({"max_seconds": 10.0}, {"max_seconds": 20.0}, 0),
        ({}, {"max_pixels": 300, "max_bytes": 1000}, 0),
    ],
)
def test_an_image_within_old_and_new_limits_is_not_read_again(
    photos, tmp_path, before, after, image_count
):
    extract(photos, tmp_path, **before)
    extract(photos, tmp_path, **after)
    assert sum(BATCH_SIZES) == image_count
    extract(photos, tmp_path, "fresh", **after)
    run, fresh = (RunLayout(str(tmp_path), run_id).run_dir for run_id in ("run", "fresh"))
    assert_same_tables(run, fresh, TABLES)
    assert verify(run) == []


def test_the_limit_of_pixels_holds_for_reused_features(photos, tmp_path):
    """A table of features has the sides of the upright image; their product is that of the file."""
    extract(photos, tmp_path)
    counts = extract(photos, tmp_path, max_pixels=359)
    assert (counts["taken_over"], counts["failures"]) == (1, 4)
    assert sum(BATCH_SIZES) == 0


def test_failures_alone_are_retried_with_a_higher_limit(photos, tmp_path):
    extract(photos, tmp_path, max_pixels=390)
    counts = extract(photos, tmp_path, max_pixels=20_000, only_failures=True)
    assert sum(BATCH_SIZES) == 2
    assert (counts["features"], counts["failures"]) == (4, 1)
    extract(photos, tmp_path, "fresh", max_pixels=20_000)
    assert_same_tables(
        RunLayout(str(tmp_path), "run").run_dir, RunLayout(str(tmp_path), "fresh").run_dir, TABLES
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"max_pixels": 20_000}, {"max_pixels": 300}),
        ({"max_pixels": 300}, {"max_pixels": 20_000, "failed_for": ("timed_out",)}),
        ({"max_bytes": 1000}, {"max_bytes": 20_000, "failed_for": ("too_many_pixels",)}),
        ({}, {"exclude": ("10.bmp",)}),
        ({"exclude": ("10.bmp",)}, {}),
    ],
)
def test_only_failures_is_refused_if_other_images_would_change(photos, tmp_path, before, after):
    extract(photos, tmp_path, **before)
    name = next(iter({**before, **after}))
    with pytest.raises(
        CaptionerError, match=f"which was made with {name} .*; run it without --only-failures"
    ):
        extract(photos, tmp_path, only_failures=True, **after)


def test_failures_alone_are_retried_with_the_same_exclusions(photos, tmp_path):
    extract(photos, tmp_path, exclude=("10.bmp", "tall*"))
    counts = extract(photos, tmp_path, exclude=("10.bmp", "tall*"), only_failures=True)
    assert (counts["images_found"], counts["excluded_passed_over"]) == (3, 2)


def test_a_new_exclusion_reuses_the_results_of_the_other_images(photos, tmp_path):
    extract(photos, tmp_path)
    counts = extract(photos, tmp_path, exclude=("10.bmp",))
    assert (counts["taken_over"], counts["features"], sum(BATCH_SIZES)) == (3, 3, 0)
