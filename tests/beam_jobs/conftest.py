from __future__ import annotations

import functools

import numpy as np
import pytest
from PIL import Image

from beam_jobs.handlers import CaptioningModels
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.generator import CaptionGenerator
from captioner_core.captioning.saved_model import load_model, save_model
from captioner_core.text.vocabulary import Vocabulary
from tests.fakes import FakeBackbone

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 220), "grey": (128, 128, 128)}


@pytest.fixture
def photos(tmp_path):
    """A folder of 12 pictures of four colours, in subfolders, with two broken files and a text file."""
    folder = tmp_path / "photos"
    for number in range(12):
        name, colour = list(COLOURS.items())[number % 4]
        noise = np.random.default_rng(number).integers(-20, 20, (40, 60, 3))
        path = folder / name / f"picture {number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    (folder / "empty.jpg").touch()
    (folder / "not an image.jpg").write_text("hello")
    (folder / "notes.txt").write_text("hello")
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    """An untrained captioner for the fake backbone's features."""
    vocabulary = Vocabulary.from_captions(["a red green blue grey dog cat bird runs sleeps on the grass"])
    config = CaptionerConfig(
        backbone=FakeBackbone.name, vocabulary_size=len(vocabulary), units=32, embedding_dim=16, heads=2, max_words=6
    )
    from captioner_core.captioning.network import Captioner

    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(str(folder), Captioner(config, seed=1), vocabulary, {"history": []})
    return str(folder)


def _load_models(model_dir: str) -> CaptioningModels:
    return CaptioningModels(FakeBackbone(), CaptionGenerator(load_model(model_dir)))


@pytest.fixture
def load_models(model_dir):
    return functools.partial(_load_models, model_dir)
