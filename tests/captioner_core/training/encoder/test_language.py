"""Captions without images: those of dev and test images are left out."""

from __future__ import annotations

import pytest

from captioner_cli.main import main
from captioner_core.errors import CaptionerError
from captioner_core.training.encoder.language import read_language


def make(folder, lines):
    """Makes a dataset of captions alone, and returns its folder."""
    file = folder.with_suffix(".csv")
    file.write_text("image_id,caption,split\n" + "".join(f"{line}\n" for line in lines))
    assert main(["dataset", "csv", f"--csv={file}", f"--output={folder}"]) == 0
    return str(folder)


def test_images_with_a_caption_of_a_held_out_image_are_left_out(tmp_path, capsys):
    folder = make(
        tmp_path / "language",
        ["1,a dog runs,train", "1,the dog,train", "2,A Cat sleeps .,train", "2,a pet,train"],
    )
    assert read_language([folder], ["a cat sleeps", "a bird"]) == [["a dog runs", "the dog"]]
    assert f"1 of 2 images of {folder!r} have a caption of a dev" in capsys.readouterr().err
    assert len(read_language([folder, folder], [])) == 4


def test_a_dataset_without_captions_to_learn_from_is_refused(tmp_path):
    folder = make(tmp_path / "language", ["1,a dog runs,test"])
    with pytest.raises(CaptionerError, match="has no captions in split 'train'"):
        read_language([folder], [])
