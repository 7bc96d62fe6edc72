"""Downloads files: resumes after an interruption, checks digests, and leaves no partial file."""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import requests
from tqdm import tqdm

_CHUNK_BYTES = 1 << 16  # An interrupted download loses less than this.


class DownloadError(OSError):
    """A file could not be downloaded, or its content is not the expected one."""


class Digest(NamedTuple):
    """The digest of a file's content, as its publisher states it.

    Args:
      algorithm: the hash algorithm, such as ``sha256``.
      value: the digest in hex.
    """

    algorithm: str
    value: str

    def matches(self, path: Path) -> bool:
        """Returns whether a file has this digest."""
        return file_digest(path, self.algorithm) == self.value


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Returns the digest of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def download(
    url: str,
    target: Path,
    *,
    digest: Digest | None = None,
    timeout_s: float = 10.0,
    label: str | None = None,
) -> None:
    """Downloads a file to ``<target>.part``, and renames it once it is complete.

    If that part exists already, the download continues where it stopped, provided that the server
    supports ranges.

    Args:
      url: an http or https URL.
      target: path of the complete file.
      digest: the expected digest; None accepts any content.
      timeout_s: longest time to wait for the server's answer and between two chunks, in seconds.
      label: what to call the file in messages; None means its name.

    Raises:
      DownloadError: the server doesn't answer or refuses, the transfer is interrupted (the part is
        kept for the next attempt), or the digest differs (the part is deleted).
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    host = urlsplit(url).hostname
    try:
        _download_part(url, part, label or target.name, timeout_s)
    except DownloadError:
        raise
    except (requests.RequestException, OSError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise  # the disk is full, which is not the server's fault
        raise DownloadError(
            f"{host} did not send {target.name} ({type(error).__name__})"
        ) from error
    if digest and not digest.matches(part):
        part.unlink()
        raise DownloadError(
            f"{target.name} from {host} has another {digest.algorithm} than {digest.value}"
        )
    part.replace(target)


def download_wheel(requirement: str, target: Path, digest: Digest) -> None:
    """Downloads a wheel with pip, which knows the user's index, proxies and certificates.

    Args:
      requirement: the package and its version, such as ``name==1.0``.
      target: path of the wheel; its name is that of the wheel in the index.
      digest: the expected digest.

    Raises:
      DownloadError: pip is not installed or can't download the wheel, or the digest differs.
    """
    if importlib.util.find_spec("pip") is None:
        raise DownloadError("pip, which fetches it, is not installed here; run python -m ensurepip")
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching {requirement} from the Python package index", file=sys.stderr, flush=True)
    # -P keeps Python from importing modules out of the current folder, whose files may be hostile.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", requirement]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        done = subprocess.run(  # noqa: S603  an argument list of constants, no shell
            [*command, "--dest", folder],
            # On a terminal, pip draws its own progress bar.
            stdout=sys.stderr if sys.stderr.isatty() else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        wheel = Path(folder) / target.name
        if done.returncode != 0 or not wheel.exists():
            lines = done.stderr.strip().splitlines() or ["pip could not fetch it"]
            raise DownloadError(lines[-1])
        if not digest.matches(wheel):
            raise DownloadError(f"{digest.algorithm} differs from {digest.value}")
        wheel.replace(target)


def _download_part(url: str, part: Path, name: str, timeout_s: float) -> None:
    done = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    with requests.get(url, headers=headers, stream=True, timeout=timeout_s) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable and done:
            if response.headers.get("Content-Range", "").removeprefix("bytes */") == str(done):
                return  # the part was complete already
            part.unlink()
            raise DownloadError(f"{name}: the part fetched earlier doesn't fit the file; try again")
        if not response.ok:
            raise DownloadError(
                f"{urlsplit(url).hostname} answers {response.status_code} for {name}"
            )
        if response.status_code != requests.codes.partial_content:
            done = 0  # the server ignored the range and sends the file from its start
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        size = _save(response, part, done, total, name)
    if total is not None and size != total:
        raise DownloadError(
            f"{name} was cut off after {size} of {total} bytes; try again to continue from there"
        )


def _save(response: requests.Response, part: Path, done: int, total: int | None, name: str) -> int:
    """Appends a response to the part with a progress bar, and returns the part's size in bytes."""
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        size = f" ({total / 1e6:.0f} MB)" if total else ""
        host = urlsplit(response.url).hostname
        print(f"fetching {name}{size} from {host}", file=sys.stderr, flush=True)
    bar = tqdm(
        total=total, initial=done, unit="B", unit_scale=True, desc=name, disable=not is_terminal
    )
    with part.open("ab" if done else "wb") as file, bar:
        try:
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
        except requests.RequestException as error:
            file.flush()
            raise DownloadError(
                f"{name} was cut off after {done} bytes; try again to continue from there"
            ) from error
    return done


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for a lock file and holds the lock, which only one process can hold at a time.

    The operating system releases the lock when the process ends, even if it is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
