"""``captioner similar``: one image against an index, with the model that comes with the package."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from captioner_cli.main import main
from captioner_core.datasets import sample


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("similar")
    sample.build(folder / "data", images=30)
    return folder / "data"


def similar(data, tmp_path, *options):
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


def test_it_prints_the_best_and_draws_them_side_by_side(data, tmp_path, capsys):
    image, code = similar(data, tmp_path, "--n", "3", "--threshold", "-1")
    assert code == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{image}: ")
    rows = [line.split(maxsplit=3) for line in said[1:4]]
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


def test_nothing_similar_is_said_with_the_best_that_fell_short(data, tmp_path, capsys):
    image, code = similar(data, tmp_path, "--threshold", "1")
    assert code == 0
    said = capsys.readouterr().out
    assert "no other image reaches 1.0; the best, scene-" in said
    assert f"the best, {image.name}" not in said


def test_a_file_that_is_no_image_is_one_line(data, tmp_path, capsys):
    (tmp_path / "no.jpg").write_text("no")
    assert (
        main(["similar", str(tmp_path / "no.jpg"), "--index", str(data / "captions.parquet")]) == 2
    )
    assert "can't be used" in capsys.readouterr().err
    assert main(["similar", str(tmp_path / "no.jpg")]) == 2
    assert "no --index given" in capsys.readouterr().err
