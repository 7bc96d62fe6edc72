"""One temporary folder for a process and its children, which is deleted when the process ends.

A process that is killed leaves its folder behind, and the next process that starts deletes it. Each
process holds a lock on a file in its folder, and the operating system releases the lock when the
process ends. So a folder whose lock is free has no owner, even if several machines or containers
share the parent folder.
"""

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
_LOCK_NAME = "owner.lock"
# A folder gets its lock file just after it is created. Without one for so long, it is abandoned.
_UNLOCKED_S = 3600.0
_ATTEMPTS = 3


class _State:
    def __init__(self) -> None:
        self.path: Path | None = None
        self.base = ""  # The parent folder.
        self.lock = -1  # File descriptor that holds the lock.
        self.pid = 0  # A forked child has another id, and must not delete the folder.


_state = _State()


def begin() -> Path:
    """Creates the temporary folder of this process, and deletes those of processes that have ended.

    From now on Python's ``tempfile`` and child processes use it (environment variable TMPDIR). A
    second call returns the same folder.

    Raises:
      CaptionerError: no folder for temporary files is writable.
    """
    if _state.path is not None and _state.pid == os.getpid():
        return _state.path
    for base in _candidates():
        try:
            path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
        except OSError:
            continue
        try:
            _state.lock = _lock(path)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            continue
        _state.path = path
        _state.base = base
        _state.pid = os.getpid()
        break
    else:
        raise CaptionerError(
            f"no folder for temporary files can be written (tried {', '.join(_candidates())}); "
            "set TMPDIR to a writable folder with some free space"
        )
    tempfile.tempdir = os.environ["TMPDIR"] = str(_state.path)
    _delete_abandoned(Path(_state.base))
    return _state.path


def base() -> str:
    """Returns the folder for temporary files that was in use before ``begin``."""
    return _state.base or tempfile.gettempdir()


def remove() -> None:
    """Deletes the temporary folder with everything in it; does nothing in a forked child."""
    if _state.path is None or _state.pid != os.getpid():
        return
    for _ in range(_ATTEMPTS):  # A thread may still be writing into it.
        shutil.rmtree(_state.path, ignore_errors=True)
        if not _state.path.exists():
            break
        time.sleep(0.05)
    _state.path = None
    tempfile.tempdir = None
    os.environ["TMPDIR"] = _state.base


def _candidates() -> list[str]:
    """Returns the folders that Python would try, except for the current folder of the user."""
    configured = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    # Only this user can read the folder that is created in one of these.
    default = ["/tmp", "/var/tmp", "/usr/tmp"]  # noqa: S108
    names = [name for name in (*configured, *default) if name]
    return list(dict.fromkeys(str(Path(name).absolute()) for name in names))


def _lock(path: Path) -> int:
    lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Some network file systems have no locks. Folders of killed processes stay there.
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.write(lock, b"held while the process that this folder belongs to is alive\n")
    return lock


def _delete_abandoned(base_folder: Path) -> None:
    for path in _folders_of_user(base_folder):
        if path != _state.path and _is_abandoned(path):
            shutil.rmtree(path, ignore_errors=True)


def _folders_of_user(base_folder: Path) -> Iterator[Path]:
    """Yields the temporary folders that captioner processes of this user made, and never a link."""
    with contextlib.suppress(OSError), os.scandir(base_folder) as entries:
        for entry in entries:
            parts = entry.name.removeprefix(_PREFIX).split("-")
            if entry.name.startswith(_PREFIX) and len(parts) == 2 and parts[0].isdigit():
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                        yield Path(entry.path)


def _is_abandoned(path: Path) -> bool:
    try:
        lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
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
