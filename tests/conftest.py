"""Fixtures for tests of several packages, and what makes all tests deterministic.

Slow tests run first. Hypothesis draws the same examples each time and has no deadline.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from tests.fakes import FakeBackbone, load_captioning_models
from tests.image_files import COLOURS
from tests.training_runs import make_source

if not os.environ.get("AIRFLOW_HOME"):
    # Otherwise importing Airflow would write into the user's home.
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="captioner-airflow-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)

# The examples are the same every time. There is no deadline, because another test may be using
# the processor.
settings.register_profile("captioner", deadline=None, derandomize=True)
settings.load_profile("captioner")


def pytest_collection_modifyitems(items):
    """Runs slow tests first, so that the fast ones fill the other processor in the meantime."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns a folder with a dataset of 24 images and their features, for small trainings."""
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture
def photos(tmp_path):
    """Returns a folder of 12 pictures in four colours.

    The pictures are in subfolders. The folder also holds two broken image files and a text file.
    """
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
    """Returns the folder of an untrained captioner for the features of the fake backbone."""
    # Few tests need TensorFlow, and importing it takes seconds.
    from captioner_core.captioning.config import CaptionerConfig
    from captioner_core.captioning.network import Captioner
    from captioner_core.captioning.saved_model import save_model
    from captioner_core.text.vocabulary import Vocabulary

    vocabulary = Vocabulary.from_captions(
        ["a red green blue grey dog cat bird runs sleeps on the grass"]
    )
    config = CaptionerConfig(
        backbone=FakeBackbone.name,
        vocabulary_size=len(vocabulary),
        units=32,
        embedding_dim=16,
        heads=2,
        max_words=6,
    )
    folder = tmp_path_factory.mktemp("models") / "model"
    save_model(str(folder), Captioner(config, seed=1), vocabulary, {"history": []})
    return str(folder)


@pytest.fixture
def load_models(model_dir):
    """Returns the function with which handlers load the captioner and the fake backbone."""
    return functools.partial(load_captioning_models, model_dir)


@pytest.fixture(scope="session")
def sample_run(tmp_path_factory):
    """A folder in which ``captioner run`` has captioned the sample dataset with the packaged model.

    The images are in ``data/images``, the run is ``out/runs/run``.
    """
    from captioner_cli.main import main
    from captioner_core.datasets import sample

    root = tmp_path_factory.mktemp("sample-run")
    sample.build(root / "data", images=30)
    command = ["run", "--images", str(root / "data" / "images"), "--output", str(root / "out")]
    assert main(command) == 0
    return root
