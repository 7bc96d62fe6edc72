"""``captioner run --plan``: what a run will take, and nothing is written."""

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
    index = write_dataset(tmp_path / "dataset", [(f"{n}.jpg", f"a red dog {n}") for n in range(7)])
    return RunOptions(
        images=str(photos),
        output=str(tmp_path / "out"),
        model=model_dir,
        index=(str(index),),
        batch_size=4,
    )


def test_what_is_there_is_counted_and_what_it_takes_is_measured(
    photos, options, load_models, tmp_path
):
    found = estimate_run(options, load_models)
    files = [path for path in photos.rglob("*") if path.suffix in (".png", ".jpg")]
    assert (found.images, found.passed_over, found.is_exact) == (14, 1, True)
    assert found.read_bytes == sum(path.stat().st_size for path in files)
    assert found.failed_share == pytest.approx(2 / 14)
    assert found.index_captions == 7
    assert found.pairs == 14 * 21
    assert 0 < found.image_s < 5
    assert 0 < found.pair_s < 1e-3
    assert found.match_s == pytest.approx(21 * found.caption_s + found.pairs * found.pair_s)
    assert found.finish_s > 0
    assert found.seconds == pytest.approx(
        found.start_s + 14 * found.image_s + found.match_s + found.finish_s
    )
    assert found.disk_bytes > 14 * 8192
    said = "\n".join(found.lines())
    assert "14 found" in said
    assert "14% of the sampled images can't be used" in said
    assert not (tmp_path / "out").exists()


def test_a_sample_stands_for_the_whole_folder(photos, options, load_models, monkeypatch):
    monkeypatch.setattr(planning, "_SAMPLED_IMAGES", 5)
    read = []
    monkeypatch.setattr(
        planning, "read_bytes", lambda uri, *_: read.append(uri) or Path(uri).read_bytes()
    )
    found = estimate_run(options, load_models)
    assert found.images == 14
    assert len(read) == len(set(read)) == 5


def test_an_empty_folder_takes_its_start(tmp_path, options, load_models):
    os.mkdir(tmp_path / "empty")
    found = estimate_run(
        RunOptions(images=str(tmp_path / "empty"), model=options.model), load_models
    )
    assert (found.images, found.pairs, found.image_s) == (0, 0, 0)
    assert "0 found" in found.lines()[0]


def test_bad_input_is_refused_as_the_run_would(photos, tmp_path, capsys):
    assert (
        main(["run", "--plan", "--images", str(photos), "--index", str(tmp_path / "no.parquet")])
        == 2
    )
    assert main(["run", "--plan", "--images", str(tmp_path / "no")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
