"""What a later stage of a run needs is checked before the first image is read."""

from __future__ import annotations

import pytest
from PIL import Image

from captioner_cli.main import main


@pytest.fixture
def images(tmp_path):
    """Returns a folder with one picture."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / "a.png")
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rank-by", "combined", "--encoder", "tfidf"), "'tfidf' encodes captions only"),
        (("--index-splits", "trian"), "'trian' is no split"),
        (("--features", "nowhere"), "features table 'nowhere'"),
        (("--index", "nowhere"), "captions table 'nowhere'"),
        (("--model", "nowhere"), "'nowhere'"),
    ],
    ids=["rank-by", "index-splits", "features", "index", "model"],
)
def test_a_run_that_cannot_be_matched_captions_nothing(
    images, tmp_path, capsys, monkeypatch, options, message
):
    from beam_jobs import caption_images

    monkeypatch.setattr(caption_images, "run", lambda *_args, **_options: pytest.fail("captioned"))
    assert main(["run", "--images", str(images), "--output", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
