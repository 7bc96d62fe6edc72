"""Files from the web: resumed where they were cut off, checked, put in place whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

_CHUNK = 1 << 16  # what a cut costs at most


class DownloadError(OSError):
    """A file could not be fetched, or is not what it should be."""


def download(
    url: str,
    target: Path,
    *,
    digest: tuple[str, str] | None = None,
    timeout_s: float = 10.0,
    label: str | None = None,
) -> None:
    """Fetches a file to ``<target>.part`` and renames it when it is whole.

    A part that is there already is gone on with, if the server can send ranges.

    Args:
      url: http or https.
      target: where it goes.
      digest: algorithm and hex digest that it must have.
      timeout_s: how long the server may take to answer, and between two pieces.
      label: what to call it.

    Raises:
      DownloadError: the server doesn't answer or refuses, the transfer is cut off (the part
        stays for the next try), or the digest differs (the part is removed).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    name = label or target.name
    try:
        _fetch(url, part, name, timeout_s)
    except (requests.RequestException, OSError) as error:
        if isinstance(error, DownloadError):
            raise
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # the disk's fault, not the server's
        raise DownloadError(
            f"{urlsplit(url).hostname} did not send {target.name} ({type(error).__name__})"
        ) from error
    if digest and _digest(part, digest[0]) != digest[1]:
        part.unlink()
        raise DownloadError(
            f"{target.name} from {urlsplit(url).hostname} has another {digest[0]} than {digest[1]}"
        )
    part.replace(target)


def _fetch(url: str, part: Path, name: str, timeout_s: float) -> None:
    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable and done:
            if response.headers.get("Content-Range", "").removeprefix("bytes */") == str(done):
                return  # it was whole already
            part.unlink()
            raise DownloadError(f"{name}: the part fetched earlier doesn't fit the file; try again")
        if not response.ok:
            raise DownloadError(
                f"{urlsplit(url).hostname} answers {response.status_code} for {name}"
            )
        if response.status_code != requests.codes.partial_content:
            done = 0  # the server sends it from the start, whatever was asked
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        got = _save(response, part, done, total, name)
    if total is not None and got != total:
        raise DownloadError(
            f"{name} was cut off after {got} of {total} bytes; try again to go on from there"
        )


def _save(response: requests.Response, part: Path, done: int, total: int | None, name: str) -> int:
    if not sys.stderr.isatty():
        size = f" ({total / 1e6:.0f} MB)" if total else ""
        print(
            f"fetching {name}{size} from {urlsplit(response.url).hostname}",
            file=sys.stderr,
            flush=True,
        )
    bar = tqdm(
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        desc=name,
        disable=not sys.stderr.isatty(),
    )
    with part.open("ab" if done else "wb") as file, bar:
        try:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
        except requests.RequestException as error:
            file.flush()
            raise DownloadError(
                f"{name} was cut off after {done} bytes; try again to go on from there"
            ) from error
    return done


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that no other process holds at the same time; waits for it.

    The lock goes with the process, so one that was killed leaves none behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
