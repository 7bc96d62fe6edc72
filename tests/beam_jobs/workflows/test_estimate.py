"""``captioner run --plan`` estimates the time and disk space of a run and writes nothing.

The tests compare the counts of an estimate with those of the folder, and its sums with its parts.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from beam_jobs.workflows import estimate as planning
from beam_jobs.workflows.estimate import estimate_run
from captioner_cli.main import main
from captioner_core.options import RunOptions
from tests.runs import write_dataset


@pytest.fixture
def options(photos, tmp_path, model_dir):
    """Returns the options of a run over the photos with an index of seven captions."""
    index = write_dataset(tmp_path / "dataset", [(f"{n}.jpg", f"a red dog {n}") for n in range(7)])
    return RunOptions(
        images=str(photos),
        output=str(tmp_path / "out"),
        model=model_dir,
        index=(str(index),),
        batch_size=4,
    )


def test_images_are_counted_and_their_costs_are_measured(photos, options, load_models, tmp_path):
    estimate = estimate_run(options, load_models)
    files = [path for path in photos.rglob("*") if path.suffix in (".png", ".jpg")]
    assert (estimate.images, estimate.passed_over, estimate.is_exact) == (14, 1, True)
    assert estimate.read_bytes == sum(path.stat().st_size for path in files)
    assert estimate.failed_share == pytest.approx(2 / 14)
    assert estimate.index_captions == 7
    assert estimate.pairs == 14 * 21
    assert 0 < estimate.image_s < 5
    assert 0 < estimate.pair_s < 1e-3
    assert estimate.match_s == pytest.approx(
        21 * estimate.caption_s + estimate.pairs * estimate.pair_s
    )
    assert estimate.finish_s > 0
    assert estimate.seconds == pytest.approx(
        estimate.start_s + 14 * estimate.image_s + estimate.match_s + estimate.finish_s
    )
    assert estimate.disk_bytes > 14 * 8192
    text = "\n".join(estimate.lines())
    assert "14 found" in text
    assert "14% of the sampled images can't be used" in text
    assert not (tmp_path / "out").exists()


def test_only_a_sample_of_a_large_folder_is_read(photos, options, load_models, monkeypatch):
    monkeypatch.setattr(planning, "SAMPLED_IMAGES", 5)
    read_uris = []

    def read_bytes(uri, *_):
        read_uris.append(uri)
        return Path(uri).read_bytes()

    monkeypatch.setattr(planning, "read_bytes", read_bytes)
    estimate = estimate_run(options, load_models)
    assert estimate.images == 14
    assert len(read_uris) == len(set(read_uris)) == 5


def test_an_empty_folder_costs_no_time_per_image(tmp_path, options, load_models):
    os.mkdir(tmp_path / "empty")
    estimate = estimate_run(
        RunOptions(images=str(tmp_path / "empty"), model=options.model), load_models
    )
    assert (estimate.images, estimate.pairs, estimate.image_s) == (0, 0, 0)
    assert "0 found" in estimate.lines()[0]


def test_bad_input_is_refused_like_in_a_run(photos, tmp_path, capsys):
    plan = ["run", "--plan", "--images"]
    assert main([*plan, str(photos), "--index", str(tmp_path / "no.parquet")]) == 2
    assert main([*plan, str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
