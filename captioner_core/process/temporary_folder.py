"""One temporary folder for all that a process and its children put aside; it goes when the process ends.

Folders of processes that were killed are removed when the next one starts. Each process holds a lock on a file in its
folder, which the system gives up with the process: so a folder whose lock is free has no owner, whatever machine or
container shares the temporary folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from captioner_core.errors import CaptionerError

_PREFIX = "captioner-"
_LOCK = "owner.lock"
_UNLOCKED_S = (
    3600.0  # for how long a folder may be without its lock file: it is made a moment later
)
_TRIES = 3


class _Folder:
    """This process' folder, once there is one."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self.base = ""
        self.lock = -1
        self.pid = 0


_state = _Folder()


def begin() -> Path:
    """Makes this process' temporary folder, and removes those of processes that are gone.

    Python's ``tempfile``, the environment variable TMPDIR and what is started from here use it from now on. A second
    call returns the same folder.

    Raises:
      CaptionerError: no folder for temporary files can be written.
    """
    if _state.path is not None and _state.pid == os.getpid():
        return _state.path
    for base in _candidates():
        try:
            path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
        except OSError:
            continue
        try:
            _state.lock = _locked(path)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            continue
        _state.path, _state.base, _state.pid = path, base, os.getpid()
        break
    else:
        raise CaptionerError(
            f"no folder for temporary files can be written (tried {', '.join(_candidates())}); "
            "set TMPDIR to a folder that can, with some free space"
        )
    tempfile.tempdir = os.environ["TMPDIR"] = str(_state.path)
    _sweep(Path(_state.base))
    return _state.path


def base() -> str:
    """Returns the folder that temporary files were to go to before this process made one of its own."""
    return _state.base or tempfile.gettempdir()


def remove() -> None:
    """Removes this process' temporary folder with all in it; does nothing in a process forked from it."""
    if _state.path is None or _state.pid != os.getpid():
        return
    for _ in range(_TRIES):  # a thread may still write into it
        shutil.rmtree(_state.path, ignore_errors=True)
        if not _state.path.exists():
            break
        time.sleep(0.05)
    _state.path = None
    tempfile.tempdir = None
    os.environ["TMPDIR"] = _state.base


def _candidates() -> list[str]:
    """Where Python would look, but for the current folder, which may hold anything of the user's."""
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    usual = ["/tmp", "/var/tmp", "/usr/tmp"]  # noqa: S108  the folder made there is this user's alone
    return list(dict.fromkeys(str(Path(name).absolute()) for name in (*named, *usual) if name))


def _locked(path: Path) -> int:
    """Returns the descriptor of the lock that says that the folder has an owner."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(
        OSError
    ):  # some network file systems have no locks; others' folders stay there
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, b"held while the process that this folder belongs to is alive\n")
    return lock


def _sweep(base_folder: Path) -> None:
    for path in _own_folders(base_folder):
        if path != _state.path and _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _own_folders(base_folder: Path) -> Iterator[Path]:
    """Yields this user's folders of the kind; never a link."""
    with contextlib.suppress(OSError), os.scandir(base_folder) as entries:
        for entry in entries:
            parts = entry.name.removeprefix(_PREFIX).split("-")
            if entry.name.startswith(_PREFIX) and len(parts) == 2 and parts[0].isdigit():
                with contextlib.suppress(OSError):
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                        yield Path(entry.path)


def _is_abandoned(path: Path) -> bool:
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return time.time() - path.lstat().st_mtime > _UNLOCKED_S if path.exists() else False
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True
