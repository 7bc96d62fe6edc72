"""Small stand-ins for the backbone and the encoder, which unit tests use instead of real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from captioner_core.captioning.generated_caption import GeneratedCaption
from captioner_core.features.base import Features
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.vocabulary import tokenize

if TYPE_CHECKING:
    from captioner_core.captioning.captioning_models import CaptioningModels


class FakeBackbone:
    """A backbone that is cheap and deterministic, and gives different pictures different features.

    It samples the colour in each cell of the grid and multiplies it by a fixed random matrix.
    """

    name = "fake-299"
    input_size = 299
    precision = "float32"
    engine = "fake"

    def __init__(self) -> None:
        self._projection = np.abs(np.random.default_rng(0).normal(size=(3, CELL_DIM))).astype(
            np.float32
        )

    def features(self, pixels: np.ndarray) -> Features:
        """Returns features and grids of pixels, as ``Backbone.features`` does."""
        cells = (
            pixels[:, 29::60, 29::60].reshape(len(pixels), GRID_CELLS, 3).astype(np.float32) / 255
        )
        grid = np.asarray(cells @ self._projection, np.float32)
        return Features(np.asarray(grid[:, :, :FEATURE_DIM].mean(axis=1), np.float32), grid)


class UnusedGenerator:
    """A captioner for code that must fail before it captions anything."""

    model_id = "unused"

    def generate(self, features: np.ndarray, grid: np.ndarray) -> list[GeneratedCaption]:
        """Fails."""
        raise AssertionError("no image should be captioned")


class HashedWords:
    """An encoder that counts words by their hash, so that scores are exact and ties are frequent.

    Words of one letter are unknown to it.
    """

    name = "hashed-words"
    dim = 16
    fingerprint = "hashed-words/1"
    calibration = Calibration()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [texts, dim] of unit length; zeros for a text without known words."""
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in enumerate(texts):
            for word in tokenize(text):
                if len(word) > 1:
                    rows[row, hashlib.sha256(word.encode()).digest()[0] % self.dim] += 1
            length = np.linalg.norm(rows[row])
            rows[row] /= length if length else 1
        return rows


def load_captioning_models(model_dir: str) -> CaptioningModels:
    """Returns a saved captioner with the fake backbone, as the jobs' handlers load them."""
    # Few tests need TensorFlow, and importing it takes seconds.
    from captioner_core.captioning.captioning_models import CaptioningModels
    from captioner_core.captioning.generator import CaptionGenerator
    from captioner_core.captioning.saved_model import load_model

    return CaptioningModels(FakeBackbone(), CaptionGenerator(load_model(model_dir)))
