"""Images of one dataset that show the same as images of another one are found by their features."""

from __future__ import annotations

from captioner_core.features.near_duplicates import find_near_duplicates
from captioner_core.training.dataset import open_features
from tests.training_runs import make_source


def test_near_duplicates_are_found_by_features(tmp_path):
    first = make_source(tmp_path / "first")
    second = make_source(tmp_path / "second", first=20)
    tables = [open_features(str(source / "features")).dataset for source in (first, second)]
    found = find_near_duplicates(
        tables[0], ["19.jpg", "20.jpg", "21.jpg"], [(tables[1], ["21.jpg"])]
    )
    assert found == {"21.jpg"}
    assert find_near_duplicates(tables[0], ["20.jpg"], []) == set()
