"""Small stand-ins for the heavy parts, for unit tests alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.vocabulary import tokenize

if TYPE_CHECKING:
    from captioner_core.captioning.captioning_models import CaptioningModels


class FakeBackbone:
    """Averages of colour in a fixed random projection: cheap, deterministic, telling pictures apart."""

    name = "fake-299"
    input_size = 299

    def __init__(self) -> None:
        self._projection = np.abs(np.random.default_rng(0).normal(size=(3, CELL_DIM))).astype(
            np.float32
        )

    def features(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cells = (
            pixels[:, 29::60, 29::60].reshape(len(pixels), GRID_CELLS, 3).astype(np.float32) / 255
        )
        grid = cells @ self._projection
        return grid[:, :, :FEATURE_DIM].mean(axis=1), grid


class HashedWords:
    """A bag of hashed words: exact, with ties in plenty; words of one letter are unknown."""

    name = "hashed-words"
    dim = 16
    fingerprint = "hashed-words/1"
    calibration = Calibration()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), self.dim), np.float32)
        for place, text in enumerate(texts):
            for word in tokenize(text):
                if len(word) > 1:
                    rows[place, hashlib.sha256(word.encode()).digest()[0] % self.dim] += 1
            length = np.linalg.norm(rows[place])
            rows[place] /= length if length else 1
        return rows


def load_captioning_models(model_dir: str) -> CaptioningModels:
    """Returns a saved captioner with the fake backbone, as the jobs' handlers load them."""
    # Few tests need TensorFlow, and importing it takes seconds.
    from captioner_core.captioning.captioning_models import CaptioningModels
    from captioner_core.captioning.generator import CaptionGenerator
    from captioner_core.captioning.saved_model import load_model

    return CaptioningModels(FakeBackbone(), CaptionGenerator(load_model(model_dir)))
