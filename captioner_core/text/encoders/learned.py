"""The learned encoder: a weighted bag of words, with images in the same space.

It was trained on the captions of the same images (see ``training.joint``), so that captions that
people would give to one picture are near each other. Encoding needs only NumPy, and spaCy's
vectors for words that did not occur in training.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import JsonObject, parse_json
from captioner_core.io.tensors import CONVERT, EARLIER_WEIGHTS, WEIGHTS, parse_tensors
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.encoders.word_tables import sum_words

WORDS = "words.json"
CONFIG = "config.json"
MODEL_CARD = "MODEL_CARD.md"
FORMAT_VERSION = 1
MAX_WEIGHTS_BYTES = 4 << 30
"""Largest size of the weights, which are read as a whole."""
FEATURE_SCALE = 10.0
"""Factor for unit features, whose values of about 0.02 dense layers would learn from slowly."""
FOLDER_VARIABLE = "CAPTIONER_ENCODER"
"""Environment variable with the folder of an encoder to use instead of the packaged one."""
SHIPPED = "pretrained_encoder"
"""Folder in the package of the encoder that comes with it."""

_TENSORS = (
    "words",
    "unseen",
    "image_hidden",
    "image_hidden_bias",
    "image_output",
    "image_output_bias",
)


class LearnedEncoder:
    """An encoder that ``captioner train-encoder`` made.

    Args:
      folder: its folder; None for the folder that the environment variable ``CAPTIONER_ENCODER``
        names, and without that for the encoder that comes with the package.

    Raises:
      CaptionerError: a file is missing or damaged, or the sizes of tensors do not fit each other.
    """

    name = "learned"

    def __init__(self, folder: str | None = None) -> None:
        shipped = resources.files("captioner_core") / SHIPPED
        folder = folder or os.environ.get(FOLDER_VARIABLE) or str(shipped)
        config, words, self._tensors = _read_files(Path(folder))
        self.dim = int(config["dim"])
        self.backbone = str(config["backbone"])
        self.calibration = Calibration.from_json(config["calibration"])
        self._rows = {word: row for row, word in enumerate(words)}
        self._spacy: Any = None
        self._unseen_vectors: dict[str, npt.NDArray[np.float32] | None] = {}
        digest = hashlib.sha256(json.dumps([config, words], sort_keys=True).encode())
        for name in _TENSORS:
            digest.update(self._tensors[name].tobytes())
        self.fingerprint = f"{self.name}/{digest.hexdigest()[:16]}"

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Returns the vectors of texts; see ``TextEncoder.encode``."""
        return sum_words(texts, self._rows, self._tensors["words"], self._unseen_vector)

    def encode_images(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Returns the vectors of images: float32 [images, dim], unit rows.

        Args:
          features: float32 [images, 2048], of the backbone named by ``backbone``, of any length.
        """
        scaled = _unit_rows(features) * FEATURE_SCALE
        hidden = scaled @ self._tensors["image_hidden"] + self._tensors["image_hidden_bias"]
        hidden = np.maximum(hidden, 0)
        output = hidden @ self._tensors["image_output"] + self._tensors["image_output_bias"]
        return _unit_rows(output).astype(np.float32)

    def _unseen_vector(self, word: str) -> npt.NDArray[np.float32] | None:
        """Returns the vector of a word that training has not seen, or None if spaCy has none.

        It is the word's spaCy vector, mapped into the encoder's space.
        """
        if word not in self._unseen_vectors:
            if self._spacy is None:
                from captioner_core.text.encoders.spacy_vectors import load_vectors

                self._spacy = load_vectors()
            vector = self._spacy.unit_vector(word)
            self._unseen_vectors[word] = (
                None if vector is None else vector @ self._tensors["unseen"]
            )
        return self._unseen_vectors[word]


def _unit_rows(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Returns rows scaled to length 1; rows of zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12))


class _EncoderFiles(NamedTuple):
    """The contents of an encoder's folder.

    Args:
      config: the object in ``config.json``.
      words: the words in the order of their rows.
      tensors: float32 arrays by name.
    """

    config: JsonObject
    words: list[str]
    tensors: dict[str, npt.NDArray[np.float32]]


def _read_files(path: Path) -> _EncoderFiles:
    """Reads and checks the files of an encoder.

    Raises:
      CaptionerError: a file is missing or damaged, or the sizes of tensors do not fit each other.
    """
    is_earlier = (path / EARLIER_WEIGHTS).is_file()
    remedy = CONVERT if is_earlier else "make one with 'captioner train-encoder'"
    for name in (WEIGHTS, WORDS, CONFIG):
        if not (path / name).is_file():
            raise CaptionerError(f"encoder folder {str(path)!r} has no {name}; {remedy}")
    try:
        config = parse_json((path / CONFIG).read_bytes())
        words = list(parse_json((path / WORDS).read_bytes())["words"])
        if (path / WEIGHTS).stat().st_size > MAX_WEIGHTS_BYTES:
            raise ValueError(f"{WEIGHTS} holds more than {MAX_WEIGHTS_BYTES} bytes")
        stored = parse_tensors((path / WEIGHTS).read_bytes())
        tensors = {name: stored[name].astype(np.float32) for name in _TENSORS}
        hidden = tensors["image_hidden"].shape[1]
        dim = config["dim"]
        is_valid = config["format_version"] == FORMAT_VERSION
        is_valid &= isinstance(config["backbone"], str)
    # JSON, safetensors and NumPy raise errors of many types for damaged files.
    except Exception as error:
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
        if not is_valid or tensor.shape != shapes[name] or not np.isfinite(tensor).all():
            raise CaptionerError(
                f"encoder folder {str(path)!r}: {name!r} doesn't fit the others; train it again"
            )
    return _EncoderFiles(config, words, tensors)
