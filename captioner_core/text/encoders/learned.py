"""The learned encoder: a weighted bag of words, and images beside it in the same space.

Trained on captions of the same images (see ``training.joint``), so that captions are near each
other which people would give to one picture. In use it is arithmetic on tables: NumPy, and
spaCy's vectors for words that training has not seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json
from captioner_core.io.tensors import StoredTensors
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.encoders.word_tables import sum_words

WEIGHTS = "weights.npz"
WORDS = "words.json"
CONFIG = "config.json"
MODEL_CARD = "MODEL_CARD.md"
FORMAT_VERSION = 1
FEATURE_SCALE = (
    10.0  # unit features have entries of about 0.02, which dense layers learn from slowly
)
SHIPPED = "pretrained_encoder"

_TENSORS = (
    "words",
    "unseen",
    "image_hidden",
    "image_hidden_bias",
    "image_output",
    "image_output_bias",
)


class LearnedEncoder:
    """A learned encoder from its folder.

    Args:
      folder: made by ``captioner train-encoder``; the one that comes with the package where None.

    Raises:
      CaptionerError: a file is missing or damaged, or sizes don't fit.
    """

    name = "learned"

    def __init__(self, folder: str | None = None) -> None:
        path = (
            Path(str(resources.files("captioner_core") / SHIPPED))
            if folder is None
            else Path(folder)
        )
        config, words, tensors = _read(path)
        self.dim = int(config["dim"])
        self.backbone = str(config["backbone"])
        self.calibration = Calibration.from_json(config["calibration"])
        self._rows = {word: row for row, word in enumerate(words)}
        self._tensors = tensors
        self._spacy: Any = None
        self._unseen_vectors: dict[str, npt.NDArray[np.float32] | None] = {}
        digest = hashlib.sha256(json.dumps([config, words], sort_keys=True).encode())
        for name in _TENSORS:
            digest.update(tensors[name].tobytes())
        self.fingerprint = f"{self.name}/{digest.hexdigest()[:16]}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """See ``TextEncoder.encode``."""
        return sum_words(texts, self._rows, self._tensors["words"], self._unseen)

    def encode_images(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Images in the space of the captions.

        Args:
          features: float32 [n, 2048], of the backbone named by ``backbone``; unit rows or not.

        Returns:
          float32 [n, dim], unit rows.
        """
        unit = (
            features
            / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
            * FEATURE_SCALE
        )
        hidden = unit @ self._tensors["image_hidden"] + self._tensors["image_hidden_bias"]
        output = (
            np.maximum(hidden, 0) @ self._tensors["image_output"]
            + self._tensors["image_output_bias"]
        )
        unit_rows: npt.NDArray[np.float32] = output / np.maximum(
            np.linalg.norm(output, axis=1, keepdims=True), 1e-12
        )
        return unit_rows.astype(np.float32)

    def _unseen(self, word: str) -> npt.NDArray[np.float32] | None:
        """A word that training has not seen: its spaCy vector, mapped into the space."""
        if word not in self._unseen_vectors:
            if self._spacy is None:
                from captioner_core.text.encoders.spacy_vectors import load_vectors

                self._spacy = load_vectors()
            vector = self._spacy.of(word)
            self._unseen_vectors[word] = (
                None if vector is None else vector @ self._tensors["unseen"]
            )
        return self._unseen_vectors[word]


def _read(path: Path) -> tuple[dict[str, Any], list[str], dict[str, npt.NDArray[np.float32]]]:
    for name in (WEIGHTS, WORDS, CONFIG):
        if not (path / name).is_file():
            raise CaptionerError(
                f"encoder folder {str(path)!r} has no {name}; make one with 'captioner train-encoder'"
            )
    try:
        config = parse_json((path / CONFIG).read_bytes())
        words = list(parse_json((path / WORDS).read_bytes())["words"])
        with StoredTensors(path / WEIGHTS) as stored:
            tensors = {name: stored.read(name).astype(np.float32) for name in _TENSORS}
        hidden, dim = tensors["image_hidden"].shape[1], config["dim"]
        whole = config["format_version"] == FORMAT_VERSION and isinstance(config["backbone"], str)
    except (
        Exception
    ) as error:  # JSON, zlib, zipfile and numpy raise whatever damage makes them stumble over
        raise CaptionerError(
            f"encoder folder {str(path)!r} is damaged ({error!r}); train or copy it again"
        ) from error
    shapes = {
        "words": (len(words), dim),
        "unseen": (tensors["unseen"].shape[0], dim),
        "image_hidden": (tensors["image_hidden"].shape[0], hidden),
        "image_hidden_bias": (hidden,),
        "image_output": (hidden, dim),
        "image_output_bias": (dim,),
    }
    for name, tensor in tensors.items():
        if not whole or tensor.shape != shapes[name] or not np.isfinite(tensor).all():
            raise CaptionerError(
                f"encoder folder {str(path)!r}: {name!r} doesn't fit the others; train it again"
            )
    return config, words, tensors
