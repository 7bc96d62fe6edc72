"""``captioner similar`` compares one image with an index, with the pretrained model."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioner_cli.main import main
from captioner_core.datasets import sample


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Returns the folder of a dataset of 30 drawn scenes."""
    folder = tmp_path_factory.mktemp("similar")
    sample.build(folder / "data", images=30)
    return folder / "data"


def run_similar(data, tmp_path, *options):
    """Runs ``captioner similar`` for the first image; returns the image and the exit code."""
    image = sorted((data / "images").iterdir())[0]
    command = [
        "similar",
        str(image),
        "--index",
        str(data / "captions.parquet"),
        "--output",
        str(tmp_path / "out.png"),
    ]
    return image, main([*command, *options])


def test_the_best_matches_are_printed_and_drawn_side_by_side(data, tmp_path, capsys):
    image, code = run_similar(data, tmp_path, "--n", "3", "--threshold", "-1")
    assert code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{image}: ")
    rows = [line.split(maxsplit=3) for line in lines[1:4]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert image.name not in {row[2] for row in rows}, "an image is not similar to itself"
    with Image.open(tmp_path / "out.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert drawn.shape[1] == 4 * 276 + 16
    for tile in range(4):
        inside = drawn[40:240, 16 + tile * 276 + 40 : 16 + tile * 276 + 200]
        assert inside.std() > 5, "every tile shows a picture"


def test_without_a_match_the_nearest_image_is_printed(data, tmp_path, capsys):
    image, code = run_similar(data, tmp_path, "--threshold", "1")
    assert code == 0
    output = capsys.readouterr().out
    assert "no other image reaches 1.0; the best, scene-" in output
    assert f"the best, {image.name}" not in output


def test_bad_input_is_refused_in_one_line(data, tmp_path, capsys):
    (tmp_path / "no.jpg").write_text("no")
    assert (
        main(["similar", str(tmp_path / "no.jpg"), "--index", str(data / "captions.parquet")]) == 2
    )
    assert "can't be used" in capsys.readouterr().err
    assert main(["similar", str(tmp_path / "no.jpg")]) == 2
    assert "no --index given" in capsys.readouterr().err
