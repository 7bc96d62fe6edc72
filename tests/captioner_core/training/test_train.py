"""Training on made-up features: it learns, keeps the best epoch, repeats, and refuses bad input."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import load_model
from captioner_core.errors import CaptionerError, CheckFailed
from captioner_core.tables import layout
from captioner_core.tables.schemas import (
    CELL_DIM,
    DATASET_CAPTIONS_SCHEMA,
    FEATURES_GRID_SCHEMA,
    GRID_CELLS,
)
from captioner_core.training.inputs import training_fingerprint
from captioner_core.training.train import train
from tests.training_runs import THINGS, grid_of, history, options, weights


@pytest.mark.parametrize("attention", ["grid", "mean"])
def test_the_model_learns_to_name_what_the_features_show(source, tmp_path, attention):
    train(options(source, tmp_path / "model", attention=attention, epochs=60))
    losses = [epoch["train_loss"] for epoch in history(tmp_path / "model")]
    assert losses[-1] < losses[0] * 0.6
    generator = CaptionGenerator(load_model(str(tmp_path / "model")))
    unseen = np.stack([grid_of(number) for number in range(100, 108)]).astype(np.float32)
    captions = generator.generate(unseen.mean(axis=1), unseen)
    named = [
        THINGS[number % 4] in caption.text.split()
        for number, caption in zip(range(100, 108), captions, strict=True)
    ]
    assert all(named), [caption.text for caption in captions]


def test_the_model_learns_in_half_precision_too(source, tmp_path):
    train(options(source, tmp_path / "model", epochs=10, precision="bfloat16", reinforce_epochs=1))
    losses = [epoch["train_loss"] for epoch in history(tmp_path / "model")[:10]]
    assert losses[-1] < losses[0] * 0.95
    assert {value.dtype for value in weights(tmp_path / "model").values()} == {np.dtype(np.float32)}


def test_the_weights_of_the_best_epoch_are_kept(source, tmp_path, monkeypatch):
    """If only the second epoch improves on dev, the model has its weights."""
    from captioner_core.training.loop import Trainer

    real = Trainer.evaluate
    losses = iter([3.0, 1.0, 2.0, 5.0])
    monkeypatch.setattr(Trainer, "evaluate", lambda self: [(next(losses),), real(self)][0])
    train(options(source, tmp_path / "long", epochs=4))
    assert json.loads((tmp_path / "long" / "metrics.json").read_text())["best_epoch"] == 2
    kept = []
    captioners = []
    initialize = Trainer.__init__

    def remember_captioner(self, context, captioner, *arguments):
        captioners.append(captioner)
        initialize(self, context, captioner, *arguments)

    def remember_weights(self):
        variables = captioners[0].trainable_variables
        kept.append({variable.path: variable.numpy() for variable in variables})
        return (1.0,)

    monkeypatch.setattr(Trainer, "__init__", remember_captioner)
    monkeypatch.setattr(Trainer, "evaluate", remember_weights)
    train(options(source, tmp_path / "again", epochs=4))
    for name, value in weights(tmp_path / "long").items():
        np.testing.assert_array_equal(value, kept[1][name])


def test_only_the_same_seed_gives_the_same_model(source, tmp_path):
    one, two, other = (
        train(options(source, tmp_path / name, epochs=2, seed=seed))
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    )
    assert one == two, "the model id names the weights"
    assert one != other


def test_the_model_folder_is_complete_and_describes_the_model(source, tmp_path):
    model_id = train(options(source, tmp_path / "model", epochs=1))
    names = {path.name for path in (tmp_path / "model").iterdir()}
    files = {
        "weights.safetensors",
        "vocabulary.json",
        "config.json",
        "metrics.json",
        "MODEL_CARD.md",
    }
    assert names == {*files, ".captioner-files"}
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["images"] == {"train": 20, "dev": 4}
    assert metrics["captions"] == {"train": 40, "dev": 8}
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert model_id in card
    assert "20 images, 40 captions" in card
    assert f"captioner train --dataset {source / 'dataset'} " in card
    assert "--units 32" in card
    assert "--samples" not in card, "an option with its default value"


def test_a_loss_that_is_no_number_keeps_the_old_model(source, tmp_path, monkeypatch):
    before = train(options(source, tmp_path / "model", epochs=1))
    monkeypatch.setattr(
        "captioner_core.training.loop.Trainer.evaluate", lambda *args: (float("nan"),)
    )
    with pytest.raises(CheckFailed, match="lower --learning-rate"):
        train(options(source, tmp_path / "model", epochs=2))
    assert load_model(str(tmp_path / "model")).model_id == before


def test_without_dev_some_training_images_are_used_for_it(source, tmp_path):
    rows = pq.read_table(source / "dataset" / layout.DATASET_CAPTIONS).to_pylist()
    rows = [{**row, "split": "train"} for row in rows]
    (tmp_path / "dataset").mkdir()
    pq.write_table(
        pa.Table.from_pylist(rows, DATASET_CAPTIONS_SCHEMA),
        tmp_path / "dataset" / layout.DATASET_CAPTIONS,
    )
    train(options(source, tmp_path / "model", dataset=str(tmp_path / "dataset"), epochs=1))
    images = json.loads((tmp_path / "model" / "metrics.json").read_text())["images"]
    assert images == {"train": 22, "dev": 2}, "none is in both"


def test_images_without_features_are_reported(source, tmp_path, capsys):
    table = pq.read_table(source / "features").slice(0, 18)
    (tmp_path / "features").mkdir()
    pq.write_table(table, tmp_path / "features" / "part-00000.parquet")
    train(options(source, tmp_path / "model", features=str(tmp_path / "features"), epochs=1))
    assert "5 of 20 images of split 'train' have no features" in capsys.readouterr().err


def test_features_that_do_not_fit_are_refused(source, tmp_path):
    no_grid = pq.read_table(source / "features").drop_columns(["grid"])
    pq.write_table(no_grid, tmp_path / "no_grid.parquet")
    others = pq.read_table(source / "features").to_pylist()
    for row in others:
        row["image_id"] = "other/" + row["image_id"]
    pq.write_table(pa.Table.from_pylist(others, FEATURES_GRID_SCHEMA), tmp_path / "others.parquet")
    mixed = [{**row, "backbone": f"backbone {n % 2}"} for n, row in enumerate(others)]
    pq.write_table(pa.Table.from_pylist(mixed, FEATURES_GRID_SCHEMA), tmp_path / "mixed.parquet")
    for name, message in (
        ("no_grid", "--grid"),
        ("others", "hold none of"),
        ("mixed", "mixes backbones"),
        ("x", "contains no Parquet file"),
    ):
        with pytest.raises(CaptionerError, match=message):
            train(options(source, tmp_path / "model", features=str(tmp_path / f"{name}.parquet")))
    assert not (tmp_path / "model").exists()


def mirrored_features(source, folder, change=lambda row: {}):
    """Writes the features table again, as one of mirrored images."""
    rows = [
        row | {"backbone": "fake-299-mirrored"}
        for row in pq.read_table(source / "features").to_pylist()
    ]
    folder.mkdir(parents=True)
    pq.write_table(
        pa.Table.from_pylist([row | change(row) for row in rows], FEATURES_GRID_SCHEMA),
        folder / "part-00000.parquet",
    )
    return str(folder)


def test_every_training_image_is_mirrored_in_every_other_epoch(source, tmp_path):
    same = mirrored_features(source, tmp_path / "same")
    train(options(source, tmp_path / "without"))
    train(options(source, tmp_path / "with", mirrored=same))
    for name, value in weights(tmp_path / "without").items():
        np.testing.assert_array_equal(
            weights(tmp_path / "with")[name], value
        )  # the same pictures at the same time

    image_ids = [f"{number:02d}.jpg" for number in range(24) if number % 6 != 5]
    for image_id in (
        image_ids[0],
        image_ids[1],
    ):  # one of the two turns up mirrored in an epoch, the other in the next
        broken = mirrored_features(
            source,
            tmp_path / image_id,
            lambda row, image_id=image_id: (
                {"grid": [float("nan")] * (GRID_CELLS * CELL_DIM)}
                if row["image_id"] == image_id
                else {}
            ),
        )
        with pytest.raises(CheckFailed, match="loss is nan"):
            train(options(source, tmp_path / "broken", mirrored=broken, epochs=2))


def test_mirrored_features_that_do_not_fit_are_refused(source, tmp_path):
    some = mirrored_features(source, tmp_path / "some")
    pq.write_table(pq.read_table(some).slice(2), Path(some) / "part-00000.parquet")
    plain = str(source / "features")
    for mirrored, message in (
        (some, "lacks 2 of 20 training images, such as '00.jpg'"),
        (plain, "not fake-299-mirrored"),
    ):
        with pytest.raises(CaptionerError, match=message):
            train(options(source, tmp_path / "model", mirrored=mirrored))
    assert not (tmp_path / "model").exists()


def test_the_fingerprint_depends_on_the_inputs_of_training(source, tmp_path):
    given = options(source, tmp_path / "model")
    assert training_fingerprint(given) == training_fingerprint(
        dataclasses.replace(given, output="elsewhere")
    )
    assert training_fingerprint(given) != training_fingerprint(
        dataclasses.replace(given, epochs=13)
    )
