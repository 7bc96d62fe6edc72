"""The model that comes with the package is whole, small and good at photographs.

A run uses it unless another model is named.
"""

from __future__ import annotations

import json
import os
import posixpath
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.captioning import saved_model
from captioner_core.captioning.saved_model import check_pretrained, load_model
from captioner_core.datasets import flickr8k, sample
from captioner_core.errors import CaptionerError
from captioner_core.options import PRETRAINED
from captioner_core.process.cache_folder import cache_dir
from captioner_core.runs.commits import read_manifest
from captioner_core.runs.verify import verify


def test_the_pretrained_model_is_whole_and_small():
    path, model_id = check_pretrained()
    model = load_model(PRETRAINED)
    assert model.model_id == model_id
    assert sum(file.stat().st_size for file in path.iterdir()) <= 20_000_000
    card = (path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert model_id in card
    evaluations = json.loads((path / "metrics.json").read_text(encoding="utf-8"))["evaluations"]
    measured = [(posixpath.basename(one["dataset"]), one["split"]) for one in evaluations]
    assert measured == [("flickr8k", "dev"), ("coco", "dev")]
    for evaluation in evaluations:
        assert evaluation["model_id"] == model_id, "the scores were measured with these weights"
        assert f"{evaluation['scores']['CIDEr']:.3f}" in card
    assert model.config.kinds, "its captions have a confidence"


def test_a_changed_vocabulary_is_refused(tmp_path, monkeypatch):
    copy = tmp_path / PRETRAINED
    shutil.copytree(check_pretrained()[0], copy)
    monkeypatch.setattr(saved_model, "model_path", lambda _: copy)
    words = json.loads((copy / "vocabulary.json").read_text(encoding="utf-8"))
    (copy / "vocabulary.json").write_text(
        json.dumps([*words[:-2], words[-1], words[-2]]), encoding="utf-8"
    )
    with pytest.raises(CaptionerError, match="install captioner again"):
        check_pretrained()


def test_damaged_weights_are_refused(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(check_pretrained()[0], copy)
    weights = bytearray((copy / "weights.safetensors").read_bytes())
    # These bytes are in the header.
    weights[200:220] = bytes(20)
    (copy / "weights.safetensors").write_bytes(weights)
    with pytest.raises(CaptionerError, match="is damaged"):
        load_model(str(copy))


def test_run_needs_only_a_folder_of_images(tmp_path, monkeypatch):
    sample.build(tmp_path / "data", images=30)
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--images", "data/images"]) == 0
    manifest = read_manifest("out/runs/run")
    assert manifest["model"] == {"path": PRETRAINED, "model_id": check_pretrained()[1]}
    assert manifest["options"]["beam_width"] == load_model(PRETRAINED).config.beam_width, (
        "the manifest records the beam width that was used"
    )
    assert manifest["counts"]["captions"] == 30
    assert verify("out/runs/run") == []


@pytest.mark.skipif(not os.environ.get("FLICKR8K_DIR"), reason="FLICKR8K_DIR names no Flickr8k")
def test_unseen_photographs_are_captioned_well(tmp_path):
    """Shows that pictures are prepared as in training.

    Pictures scaled or mirrored in another way, or words mixed up, would halve these scores.
    """
    source = Path(os.environ["FLICKR8K_DIR"])
    flickr8k.build(tmp_path / "data", source=source, cache=cache_dir(), limit=700)
    dev = pq.read_table(tmp_path / "data" / "captions.parquet", filters=[("split", "=", "dev")])
    assert len(set(dev.column("image_id").to_pylist())) >= 80
    figures = tmp_path / "figures.json"
    assert (
        main(
            [
                "evaluate",
                "--model",
                PRETRAINED,
                "--dataset",
                str(tmp_path / "data"),
                "--output",
                str(figures),
            ]
        )
        == 0
    )
    scores = json.loads(figures.read_text(encoding="utf-8"))["scores"]
    assert scores["BLEU-4"] > 0.17
    assert scores["CIDEr"] > 0.4
