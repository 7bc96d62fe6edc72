"""Folders of earlier versions: refused in a line that names the converter, which converts them."""

from __future__ import annotations

import shutil
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from captioner_core.captioning.saved_model import check_model, check_pretrained, read_model_id
from captioner_core.errors import CaptionerError
from captioner_core.io.outputs import check_output_folder
from captioner_core.io.tensors import parse_tensors
from captioner_core.process.program import guarded
from captioner_core.text.encoders.learned import SHIPPED, LearnedEncoder
from tools import convert_weights


def make_earlier(folder: Path) -> Path:
    """Turns the weights of a folder into those of an earlier version. Returns the folder."""
    new = folder / "weights.safetensors"
    np.savez(folder / "weights.npz", allow_pickle=False, **parse_tensors(new.read_bytes()))
    new.unlink()
    return folder


@pytest.fixture
def convert(monkeypatch):
    """Returns a function that runs the converter on a folder, and returns its exit code."""

    def run(folder):
        monkeypatch.setattr(sys, "argv", ["convert_weights.py", str(folder)])
        return guarded(convert_weights.main, "convert_weights")

    return run


def test_a_converted_model_keeps_its_id_and_belongs_to_captioner(tmp_path, convert):
    path, model_id = check_pretrained()
    folder = make_earlier(Path(shutil.copytree(path, tmp_path / "model")))
    for read in (read_model_id, check_model):
        with pytest.raises(CaptionerError, match=r"convert its weights\.npz"):
            read(str(folder))
    assert convert(folder) == 0
    assert read_model_id(str(folder)) == check_model(str(folder)) == model_id
    assert not (folder / "weights.npz").exists()
    check_output_folder(folder, kind="model")


def test_a_converted_encoder_keeps_its_fingerprint(tmp_path, convert):
    shipped = str(resources.files("captioner_core") / SHIPPED)
    folder = make_earlier(Path(shutil.copytree(shipped, tmp_path / "encoder")))
    with pytest.raises(CaptionerError, match=r"convert its weights\.npz"):
        LearnedEncoder(str(folder))
    assert convert(folder) == 0
    assert LearnedEncoder(str(folder)).fingerprint == LearnedEncoder().fingerprint
    check_output_folder(folder, kind="encoder")


def test_what_cannot_be_converted_is_refused_in_one_line_and_left_alone(tmp_path, convert, capsys):
    assert convert(tmp_path / "nowhere") == 2
    (tmp_path / "weights.npz").write_bytes(b"PK\3\4")
    assert convert(tmp_path) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "No such file" in lines[0]
    assert "weights.npz is damaged" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]
