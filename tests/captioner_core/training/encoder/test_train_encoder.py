"""The learned encoder learns from captions that share an image, and refuses bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from captioner_cli.main import main
from captioner_core.errors import CaptionerError
from captioner_core.options import TrainEncoderOptions
from captioner_core.tables import layout
from captioner_core.tables.schemas import (
    DATASET_CAPTIONS_SCHEMA,
    FEATURE_DIM,
    FEATURES_SCHEMA,
    DatasetCaptionRow,
    FeatureRow,
    rows_as_table,
)
from captioner_core.text.encoders import load_encoder
from captioner_core.text.encoders.learned import LearnedEncoder
from captioner_core.training.encoder.train_encoder import train_encoder

THINGS = ("dog", "cat", "car", "tree", "boat", "child")
SENTENCES = ("the {} is here", "one sees some {} there", "there stands a {}")


def write(path: Path, rows, schema) -> None:
    """Writes rows as a table of one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows_as_table(rows, "r", schema), path)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Returns the folder of a dataset of 60 images of 6 things, with a table of their features.

    The thing in an image decides its captions and its features.
    """
    root = tmp_path_factory.mktemp("encoder")
    random = np.random.default_rng(0)
    captions = []
    features = []
    for number in range(60):
        image_id = f"{number:02d}.jpg"
        thing = number % len(THINGS)
        split = "dev" if number >= 48 else "train"
        for index, sentence in enumerate(SENTENCES):
            captions.append(
                DatasetCaptionRow(image_id, index, sentence.format(THINGS[thing]), split)
            )
        feature = np.abs(random.normal(0, 0.1, FEATURE_DIM)).astype(np.float32)
        feature[thing * 300 : thing * 300 + 300] += 1
        features.append(
            FeatureRow(image_id, image_id, "0" * 64, 10, 10, "fake-299", "float32", "fake", feature)
        )
    write(root / "dataset" / layout.DATASET_CAPTIONS, captions, DATASET_CAPTIONS_SCHEMA)
    write(root / "features" / "part-00000.parquet", features, FEATURES_SCHEMA)
    return root


def options(source: Path, output: Path, **changes) -> TrainEncoderOptions:
    """Returns options of a small training; ``changes`` replace some of them."""
    defaults = {
        "dataset": str(source / "dataset"),
        "features": (str(source / "features"),),
        "output": str(output),
        "judge": "tfidf",
        "epochs": 40,
        "batch_size": 12,
        "dim": 16,
        "hidden": 32,
    }
    return TrainEncoderOptions(**{**defaults, **changes})


def test_captions_and_images_of_one_thing_have_similar_vectors(source, tmp_path):
    train_encoder(options(source, tmp_path / "encoder"))
    encoder = LearnedEncoder(str(tmp_path / "encoder"))
    texts = encoder.encode([f"look at my {thing}" for thing in THINGS])
    others = encoder.encode([f"the {thing} here" for thing in THINGS])
    assert np.array_equal(np.argmax(texts @ others.T, axis=1), np.arange(len(THINGS)))
    table = pq.read_table(source / "features").slice(48)
    dev_features = np.stack(table.column("feature").to_pylist()).astype(np.float32)
    nearest = np.argmax(encoder.encode_images(dev_features) @ others.T, axis=1)
    assert np.mean(nearest == np.arange(48, 60) % len(THINGS)) == 1
    assert encoder.backbone == "fake-299"


def test_the_environment_can_name_the_encoder_to_use(source, tmp_path, monkeypatch):
    fingerprint = train_encoder(options(source, tmp_path / "encoder", epochs=2))
    monkeypatch.setenv("CAPTIONER_ENCODER", str(tmp_path / "encoder"))
    assert load_encoder("learned").fingerprint == fingerprint


def test_the_same_seed_gives_the_same_encoder(source, tmp_path):
    one, two = (
        train_encoder(options(source, tmp_path / name, epochs=2)) for name in ("one", "two")
    )
    assert one == two
    assert one != train_encoder(options(source, tmp_path / "three", epochs=2, seed=1))


def test_an_encoder_that_cannot_be_calibrated_replaces_nothing(source, tmp_path, monkeypatch):
    before = train_encoder(options(source, tmp_path / "encoder", epochs=1))

    def refuse(*_):
        raise CaptionerError("no cosine")

    monkeypatch.setattr("captioner_core.training.encoder.train_encoder.fit_calibration", refuse)
    with pytest.raises(CaptionerError, match="no cosine"):
        train_encoder(options(source, tmp_path / "encoder", epochs=1, seed=1))
    assert LearnedEncoder(str(tmp_path / "encoder")).fingerprint == before


def test_features_that_do_not_fit_are_refused(source, tmp_path, capsys):
    table = pq.read_table(source / "features")
    pq.write_table(table.slice(3), tmp_path / "some.parquet")
    with pytest.raises(CaptionerError, match="lack 3 of 48 images"):
        train_encoder(
            options(source, tmp_path / "encoder", features=(str(tmp_path / "some.parquet"),))
        )
    with pytest.raises(CaptionerError, match="no --features"):
        options(source, tmp_path / "encoder", features=())
    wrong = [
        "train-encoder",
        "--dataset",
        str(source),
        "--features",
        "x",
        "--output",
        "x",
        "--batch-size",
        "1",
    ]
    assert main(wrong) == 2
    assert "--batch-size 1 must be 2 to 65536" in capsys.readouterr().err
    assert not (tmp_path / "encoder").exists()
