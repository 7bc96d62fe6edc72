"""A model's confidence is fitted to dev images, and its captions have it from then on."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.analysis.confidence_fitting import reliability
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import check_model, load_model
from captioner_core.options import TrainEncoderOptions
from captioner_core.tables.schemas import FEATURE_DIM
from captioner_core.text.encoders.learned import FOLDER_VARIABLE
from captioner_core.training.encoder.train_encoder import train_encoder
from captioner_core.training.train import train
from tests.training_runs import grid_of, make_source, options

TEMPLATES = ("there is a {}", "a {} stands here", "one sees a {}")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a folder with a dataset, its features, a model, and an encoder for its features."""
    root = make_source(tmp_path_factory.mktemp("source"), templates=TEMPLATES)
    train(options(root, root / "model"))
    train_encoder(
        TrainEncoderOptions(
            dataset=(str(root / "dataset"),),
            features=(str(root / "features"),),
            output=str(root / "encoder"),
            judge="tfidf",
            epochs=4,
            batch_size=8,
            dim=16,
            hidden=32,
        )
    )
    return root


def fit(source) -> int:
    """Fits the confidence of the model, and returns the exit code."""
    tables = ["--dataset", str(source / "dataset"), "--features", str(source / "features")]
    return main(["confidence", "--model", str(source / "model"), *tables])


@pytest.mark.assets
def test_captions_have_a_confidence_once_it_is_fitted(source, monkeypatch, capsys):
    assert fit(source) == 2
    assert "no encoder reads features of 'fake-299'" in capsys.readouterr().err
    monkeypatch.setenv(FOLDER_VARIABLE, str(source / "encoder"))
    before = load_model(str(source / "model"))
    features = np.ones((2, FEATURE_DIM), np.float32)
    grids = np.stack([grid_of(0), grid_of(1)])
    (plain, _) = CaptionGenerator(before).generate(features, grids)
    assert plain.confidence is None
    assert plain.image_text_score is not None

    assert fit(source) == 0
    after = load_model(str(source / "model"))
    assert after.config.kinds == 20, "one for each training image, since there are so few"
    assert after.model_id != before.model_id
    assert check_model(str(source / "model")) == after.model_id
    captions = CaptionGenerator(after).generate(features, grids)
    assert captions[0].text == plain.text
    assert all(
        caption.confidence is not None and 0 < caption.confidence < 1 for caption in captions
    )
    metrics = json.loads((source / "model" / "metrics.json").read_text())
    assert metrics["history"], "what training measured is kept"

    assert fit(source) == 0
    assert load_model(str(source / "model")).model_id == after.model_id, "the same again"
    monkeypatch.delenv(FOLDER_VARIABLE)
    (plain, _) = CaptionGenerator(after).generate(features, grids)
    assert plain.confidence is None, "it was fitted with another encoder"


def test_a_dataset_without_dev_images_is_refused(source, tmp_path, capsys):
    table = pq.read_table(source / "dataset" / "captions.parquet")
    (tmp_path / "dataset").mkdir()
    train_only = table.filter(pc.equal(table.column("split"), "train"))
    pq.write_table(train_only, tmp_path / "dataset" / "captions.parquet")
    tables = ["--dataset", str(tmp_path / "dataset"), "--features", str(source / "features")]
    assert main(["confidence", "--model", str(source / "model"), *tables]) == 2
    assert "has no split 'dev'" in capsys.readouterr().err


def test_reliability_is_stated_for_the_least_certain_fifth_first():
    confidences = np.linspace(0.95, 0.05, 10)
    rows = reliability(confidences, confidences > 0.5)
    assert [row.images for row in rows] == [2] * 5
    assert [row.acceptable for row in rows] == [0, 0, 0.5, 1, 1]
    assert rows[0].confidence == pytest.approx(0.1)
