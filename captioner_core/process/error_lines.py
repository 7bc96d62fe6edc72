"""What a user sees of an error: one line with the value, the rule and the remedy, and an exit code.

The user or the administrator of the machine can correct an error that ``describe`` expects. Any
other error is a fault of this program: its traceback is saved to a file, and the line names that
file.
"""

import contextlib
import datetime
import errno
import os
import platform
import re
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

from captioner_core.errors import CaptionerError
from captioner_core.process import cache_folder, temporary_folder
from captioner_core.security.redaction import escape_control_chars, redact_arguments
from captioner_core.version import VERSION

DEBUG = "CAPTIONER_DEBUG"
"""Environment variable; if it is set, tracebacks are printed and not saved."""

BAD_INPUT = 2
"""Exit code of an error that the user must correct."""
TRY_AGAIN = 1
"""Exit code of an error that another try may avoid, for example once the disk has space."""

_MAX_CHARS = 300


class ErrorLine(NamedTuple):
    """The exit code and the line that a user sees of an error.

    Args:
      exit_code: exit code of the process.
      text: one line, without the name of the program.
    """

    exit_code: int
    text: str


class _Kind(NamedTuple):
    """A kind of system error: its exit code, and what to do about it."""

    exit_code: int
    remedy: str


_SPACE = _Kind(TRY_AGAIN, "free space where --output is")
_CONNECTION = _Kind(TRY_AGAIN, "check the disk and the connection")
_PERMISSIONS = _Kind(BAD_INPUT, "correct its permissions")
_OPEN_FILES = _Kind(TRY_AGAIN, "raise the limit of open files (ulimit -n)")
_BUSY = _Kind(TRY_AGAIN, "end the program that uses it")
_SYSTEM_ERRORS = {
    errno.ENOENT: _Kind(BAD_INPUT, "name an existing file or folder"),
    errno.ENOTDIR: _Kind(BAD_INPUT, "name a path whose parents are folders"),
    errno.EISDIR: _Kind(BAD_INPUT, "name a file"),
    errno.EEXIST: _Kind(BAD_INPUT, "name a path that does not exist, or a folder"),
    errno.ENAMETOOLONG: _Kind(BAD_INPUT, "name a shorter path"),
    errno.ELOOP: _Kind(BAD_INPUT, "name a path whose links lead somewhere"),
    errno.EINVAL: _Kind(BAD_INPUT, "name a path that this file system accepts"),
    errno.EILSEQ: _Kind(BAD_INPUT, "name a path that this file system accepts"),
    errno.EXDEV: _Kind(BAD_INPUT, "name an --output on one file system"),
    errno.ENXIO: _Kind(BAD_INPUT, "name a regular file or a folder, not a device"),
    errno.ENODEV: _Kind(BAD_INPUT, "name a regular file or a folder, not a device"),
    errno.ENOTTY: _Kind(BAD_INPUT, "name a regular file or a folder, not a device"),
    errno.ESPIPE: _Kind(BAD_INPUT, "name a regular file or a folder, not a pipe"),
    errno.EOPNOTSUPP: _Kind(BAD_INPUT, "name a path on a file system that supports this"),
    errno.EROFS: _Kind(BAD_INPUT, "name an --output that can be written"),
    errno.EFBIG: _Kind(BAD_INPUT, "raise the limit of file sizes (ulimit -f)"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _PERMISSIONS),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _SPACE),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _OPEN_FILES),
    **dict.fromkeys((errno.EBUSY, errno.ETXTBSY, errno.ENOTEMPTY), _BUSY),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT), _CONNECTION),
    **dict.fromkeys((errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED), _CONNECTION),
    **dict.fromkeys((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EREMOTEIO), _CONNECTION),
}
# Without a path, these errors are faults of this program.
_NEEDS_A_PATH = (errno.ENOENT, errno.EINVAL, errno.EEXIST)
_DAMAGE = re.compile("deserializ|corrupt|decompress|end of stream|parquet", re.IGNORECASE)
_MORE_MEMORY = (
    "lower --batch-size, or give this process more memory (ulimit -v, the container's limit), and "
    "run it again"
)


def describe(error: BaseException) -> ErrorLine | None:
    """Returns the line for an error that is expected, or None for a fault of this program."""
    if isinstance(error, CaptionerError):
        return ErrorLine(error.exit_code, _one_line(error))
    message = _shorten(error)
    if _is_out_of_memory(error):
        return ErrorLine(TRY_AGAIN, f"memory ran out ({message}); {_MORE_MEMORY}")
    if _is_out_of_threads(error):
        return ErrorLine(
            TRY_AGAIN,
            f"no more processes or threads can be started ({message}); raise the limit (ulimit -u)",
        )
    if _has_class(error, "pyarrow.lib", "ArrowException"):
        return ErrorLine(
            BAD_INPUT,
            f"a table does not contain what is expected ({message}); check the tables that are "
            "named",
        )
    if isinstance(error, OSError):
        return _describe_system_error(error)
    if isinstance(error, UnicodeError):
        return ErrorLine(
            BAD_INPUT, f"a text or a name is not valid UTF-8 ({message}); convert it to UTF-8"
        )
    if isinstance(error, ModuleNotFoundError) and not _is_own_module(error.name):
        return ErrorLine(
            BAD_INPUT,
            f"package {error.name!r} is not installed; install captioner with its requirements",
        )
    return None


def describe_unexpected(error: BaseException) -> ErrorLine:
    """Saves the traceback of a fault of this program, and returns the line that names the file.

    The traceback is printed if no file can be written, or if ``CAPTIONER_DEBUG`` is set.
    """
    message = _shorten(error)
    problem = f"unexpected {type(error).__name__}" + (f" ({message})" if message else "")
    path = None if os.environ.get(DEBUG) else save_traceback(error)
    if path is None:
        traceback.print_exception(error)
        return ErrorLine(TRY_AGAIN, f"{problem}; the traceback is above, please report it")
    return ErrorLine(
        TRY_AGAIN, f"{problem}; its traceback is in {path!r}, please report it with that file"
    )


def save_traceback(error: BaseException) -> str | None:
    """Writes a traceback to a new file in the cache's folder ``errors`` or the temporary folder.

    Returns:
      The path of the file, or None if neither folder can be written.
    """
    now = datetime.datetime.now(datetime.UTC)
    version = f"captioner {VERSION}"
    text = (
        f"{version}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{now.isoformat(timespec='seconds')}\n"
        f"{redact_arguments(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    )
    for folder in _traceback_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor, path = tempfile.mkstemp(
                prefix=f"{now:%Y%m%d-%H%M%S}-", suffix=".txt", dir=folder
            )
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except (OSError, CaptionerError):
            continue
        return path
    return None


def print_line(prog: str, line: ErrorLine) -> int:
    """Prints the line of an error on stderr, and returns the exit code."""
    print(f"{prog}: error: {escape_control_chars(line.text)}", file=sys.stderr, flush=True)
    return line.exit_code


def _traceback_folders() -> list[Path]:
    folders = []
    with contextlib.suppress(CaptionerError):
        folders.append(cache_folder.cache_dir() / "errors")
    with contextlib.suppress(OSError):
        folders.append(Path(temporary_folder.base()))
    return folders


def _describe_system_error(error: OSError) -> ErrorLine | None:
    if error.errno is None:
        return _describe_unnumbered_error(error)
    kind = _SYSTEM_ERRORS.get(error.errno)
    # pyarrow names the path in its message only.
    has_path = bool(error.filename) or "/" in str(error)
    if kind is None or (error.errno in _NEEDS_A_PATH and not has_path):
        return None
    problem = os.strerror(error.errno)
    if error.filename:
        path = error.filename
        problem += f": {os.fsdecode(path) if isinstance(path, bytes) else path!r}"
    elif not str(error.strerror or "").startswith(problem):
        problem += f": {_shorten(error)}"
    remedy = kind.remedy
    if kind is _SPACE and _is_temporary(error.filename):
        remedy = "free space in the folder for temporary files, or set TMPDIR to another"
    return ErrorLine(
        kind.exit_code, f"files can't be read or written ({problem}); {remedy} and run it again"
    )


def _describe_unnumbered_error(error: OSError) -> ErrorLine:
    """Returns the line for an error of pyarrow or a storage client, which has no error number."""
    message = _shorten(error)
    if _DAMAGE.search(str(error)):
        return ErrorLine(
            BAD_INPUT, f"a table is damaged ({message}); create it again, or name another"
        )
    return ErrorLine(
        TRY_AGAIN, f"the storage failed ({message}); check the connection and run it again"
    )


def _is_temporary(path: object) -> bool:
    folder = os.environ.get("TMPDIR")
    return isinstance(path, str) and bool(folder) and path.startswith(f"{folder}/")


def _is_own_module(name: str | None) -> bool:
    return not name or name.startswith("captioner")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _has_class(error, "tensorflow", "ResourceExhaustedError"):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # The loader of shared libraries reports this if the address space is limited.
    message = str(error)
    return isinstance(error, ImportError) and (
        "failed to map segment" in message or "Cannot allocate memory" in message
    )


def _is_out_of_threads(error: BaseException) -> bool:
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return True
    return isinstance(error, OSError) and error.errno == errno.EAGAIN and not error.filename


def _has_class(error: BaseException, package: str, name: str) -> bool:
    """Returns whether an error is of a class of this name, without importing its package."""
    return any(
        cls.__name__ == name and cls.__module__.startswith(package) for cls in type(error).__mro__
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _shorten(error: BaseException) -> str:
    line = _one_line(error)
    return line if len(line) <= _MAX_CHARS else f"{line[:_MAX_CHARS]}…"
