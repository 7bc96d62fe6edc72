"""A run made again with other limits: what was found stays found, and what is beyond the limits now fails."""

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

SEEN: list[int] = []
TABLES = ("features", "failures")


class CountingBackbone(FakeBackbone):
    def features(self, pixels: Any) -> Any:
        SEEN.append(len(pixels))
        return super().features(pixels)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of 100, 400 and 10 000 pixels, and a broken one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for side in (10, 20, 100):
        (folder / f"{side}.bmp").write_bytes(encoded(picture(size=(side, side)), "BMP"))
    (folder / "tall.bmp").write_bytes(encoded(picture(size=(4, 90)), "BMP"))
    (folder / "broken.jpg").write_bytes(b"hello")
    return folder


def extract(photos: Path, root: Path, run_id: str = "run", **options: Any) -> dict[str, int]:
    SEEN.clear()
    asked = ExtractOptions(
        images=str(photos), output=str(root), run_id=run_id, grid=False, **options
    )
    counts: dict[str, int] = extract_features.run(asked, load=CountingBackbone)["counts"]
    return counts


@pytest.mark.parametrize(
    ("before", "after", "seen"),
    [
        ({"max_pixels": 1000}, {"max_pixels": 20_000}, 1),
        ({"max_pixels": 20_000}, {"max_pixels": 300}, 0),
        ({"max_bytes": 1500}, {"max_bytes": 100_000}, 1),
        ({"max_bytes": 100_000}, {"max_bytes": 1000}, 0),
        ({"max_seconds": 10.0}, {"max_seconds": 20.0}, 0),
        ({}, {"max_pixels": 300, "max_bytes": 1000}, 0),
    ],
)
def test_other_limits_redo_no_image_that_is_within_both(photos, tmp_path, before, after, seen):
    extract(photos, tmp_path, **before)
    extract(photos, tmp_path, **after)
    assert sum(SEEN) == seen
    extract(photos, tmp_path, "anew", **after)
    run, anew = (RunLayout(str(tmp_path), run_id).run_dir for run_id in ("run", "anew"))
    assert_same_tables(run, anew, TABLES)
    assert verify(run) == []


def test_a_copy_with_the_pixels_turned_is_held_to_the_limit_too(photos, tmp_path):
    """A table of features has the sides of the upright image, whose product is that of the file's own sides."""
    extract(photos, tmp_path)
    counts = extract(photos, tmp_path, max_pixels=359)
    assert (counts["taken_over"], counts["failures"]) == (1, 4)
    assert sum(SEEN) == 0


def test_failures_alone_are_looked_at_again_with_a_higher_limit(photos, tmp_path):
    extract(photos, tmp_path, max_pixels=390)
    counts = extract(photos, tmp_path, max_pixels=20_000, only_failures=True)
    assert sum(SEEN) == 2
    assert (counts["features"], counts["failures"]) == (4, 1)
    extract(photos, tmp_path, "anew", max_pixels=20_000)
    assert_same_tables(
        RunLayout(str(tmp_path), "run").run_dir, RunLayout(str(tmp_path), "anew").run_dir, TABLES
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
def test_failures_alone_are_refused_where_other_images_would_fare_otherwise(
    photos, tmp_path, before, after
):
    extract(photos, tmp_path, **before)
    name = next(iter({**before, **after}))
    with pytest.raises(
        CaptionerError, match=f"which was made with {name} .*; run it without --only-failures"
    ):
        extract(photos, tmp_path, only_failures=True, **after)


def test_failures_alone_are_looked_at_again_with_the_same_exclusions(photos, tmp_path):
    extract(photos, tmp_path, exclude=("10.bmp", "tall*"))
    counts = extract(photos, tmp_path, exclude=("10.bmp", "tall*"), only_failures=True)
    assert (counts["images_found"], counts["excluded_passed_over"]) == (3, 2)


def test_an_exclusion_takes_over_what_was_found_for_the_others(photos, tmp_path):
    extract(photos, tmp_path)
    counts = extract(photos, tmp_path, exclude=("10.bmp",))
    assert (counts["taken_over"], counts["features"], sum(SEEN)) == (3, 3, 0)
