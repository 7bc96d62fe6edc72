"""What each kind of error becomes: one line with the value, the rule and the remedy, and an exit code.

An error that is foreseen here is the user's or the machine's to mend. Any other is a fault of this program: its
traceback is saved to a file, which the line names.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import platform
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import captioner_core
from captioner_core.errors import CaptionerError
from captioner_core.security.redaction import escape_control_chars, redact_arguments

DEBUG = "CAPTIONER_DEBUG"
"""Environment variable that has tracebacks printed instead of saved."""

BAD_INPUT = 2
"""Exit code for what the user must change."""
TRY_AGAIN = 1
"""Exit code for what another try may mend, once there is space, memory or a connection again."""

_LONGEST = 300


class ErrorLine(NamedTuple):
    """What a user is told of an error.

    Args:
      exit_code: of the process.
      text: one line, without the program's name.
    """

    exit_code: int
    text: str


class _Kind(NamedTuple):
    exit_code: int
    remedy: str


_SPACE = _Kind(TRY_AGAIN, "free space where --output is")
_CONNECTION = _Kind(TRY_AGAIN, "mend the disk or the connection")
_PERMISSIONS = _Kind(BAD_INPUT, "mend its permissions")
_OPEN_FILES = _Kind(TRY_AGAIN, "raise the limit of open files (ulimit -n)")
_BUSY = _Kind(TRY_AGAIN, "end what uses it")
_SYSTEM_ERRORS = {
    errno.ENOENT: _Kind(BAD_INPUT, "name a file or folder that is there"),
    errno.ENOTDIR: _Kind(BAD_INPUT, "name a path whose parents are folders"),
    errno.EISDIR: _Kind(BAD_INPUT, "name a file"),
    errno.EEXIST: _Kind(BAD_INPUT, "name a path that is free, or a folder"),
    errno.ENAMETOOLONG: _Kind(BAD_INPUT, "name a shorter path"),
    errno.ELOOP: _Kind(BAD_INPUT, "name a path whose links lead somewhere"),
    errno.EINVAL: _Kind(BAD_INPUT, "name a path that this file system takes"),
    errno.EILSEQ: _Kind(BAD_INPUT, "name a path that this file system takes"),
    errno.EXDEV: _Kind(BAD_INPUT, "name an --output on one file system"),
    errno.ENXIO: _Kind(BAD_INPUT, "name a regular file or a folder, no device"),
    errno.ENODEV: _Kind(BAD_INPUT, "name a regular file or a folder, no device"),
    errno.ENOTTY: _Kind(BAD_INPUT, "name a regular file or a folder, no device"),
    errno.ESPIPE: _Kind(BAD_INPUT, "name a regular file or a folder, no pipe"),
    errno.EOPNOTSUPP: _Kind(BAD_INPUT, "name a path on a file system that can do this"),
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
_NEEDS_A_NAME = (
    errno.ENOENT,
    errno.EINVAL,
    errno.EEXIST,
)  # without a path these are mistakes of this program
_DAMAGE = re.compile("deserializ|corrupt|decompress|end of stream|parquet", re.IGNORECASE)
_NO_MEMORY = "memory ran out"
_MORE_MEMORY = "lower --batch-size, or let this process have more (ulimit -v, the container's limit), and run it again"


def describe(error: BaseException) -> ErrorLine | None:
    """Returns the line for an error that is foreseen, or None."""
    if isinstance(error, CaptionerError):
        return ErrorLine(error.exit_code, _one_line(error))
    if _is_lack_of_memory(error):
        return ErrorLine(TRY_AGAIN, f"{_NO_MEMORY} ({_shortened(error)}); {_MORE_MEMORY}")
    if _is_lack_of_threads(error):
        return ErrorLine(
            TRY_AGAIN,
            f"no more processes or threads can be started ({_shortened(error)}); raise the limit (ulimit -u)",
        )
    if _is_of(error, "pyarrow.lib", "ArrowException"):
        return ErrorLine(
            BAD_INPUT,
            f"a table does not hold what is expected ({_shortened(error)}); check the tables that are named",
        )
    if isinstance(error, OSError):
        return _describe_system_error(error)
    if isinstance(error, UnicodeError):
        return ErrorLine(
            BAD_INPUT,
            f"a text or a name is no valid UTF-8 ({_shortened(error)}); convert it to UTF-8",
        )
    if isinstance(error, ModuleNotFoundError) and not (error.name or "captioner").startswith(
        "captioner"
    ):
        return ErrorLine(
            BAD_INPUT,
            f"package {error.name!r} is not installed; install captioner with its requirements",
        )
    return None


def describe_unforeseen(error: BaseException) -> ErrorLine:
    """Saves the traceback of an error that is not foreseen, and returns the line that names the file.

    The traceback is printed where no file can be written, or where ``CAPTIONER_DEBUG`` is set.
    """
    kind = type(error).__name__
    said = _shortened(error)
    what = f"unexpected {kind}" + (f" ({said})" if said else "")
    saved = None if os.environ.get(DEBUG) else save_traceback(error)
    if saved is None:
        traceback.print_exception(error)
        return ErrorLine(TRY_AGAIN, f"{what}; the traceback is above, please report it")
    return ErrorLine(
        TRY_AGAIN, f"{what}; its traceback is in {saved!r}, please report it with that file"
    )


def save_traceback(error: BaseException) -> str | None:
    """Writes a traceback to the cache's folder ``errors``, or to the temporary folder.

    Returns:
      The file's path, or None where neither folder can be written.
    """
    now = datetime.datetime.now(datetime.UTC)
    text = (
        f"captioner {captioner_core.__version__}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{now.isoformat(timespec='seconds')}\n"
        f"{redact_arguments(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    )
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, path = tempfile.mkstemp(
                prefix=f"{now:%Y%m%d-%H%M%S}-", suffix=".txt", dir=folder
            )
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except (OSError, CaptionerError):
            continue
        return path
    return None


def _folders() -> Sequence[Path]:
    from captioner_core.process import temporary_folder
    from captioner_core.process.cache_folder import cache_dir

    usable = []
    with contextlib.suppress(CaptionerError):
        usable.append(cache_dir() / "errors")
    with contextlib.suppress(OSError):
        usable.append(Path(temporary_folder.base()))
    return usable


def _describe_system_error(error: OSError) -> ErrorLine | None:
    if error.errno is None and _DAMAGE.search(str(error)):  # pyarrow's, of a file's content
        return ErrorLine(
            BAD_INPUT, f"a table is damaged ({_shortened(error)}); make it again, or name another"
        )
    if error.errno is None:  # a storage client's, which has no number for it
        return ErrorLine(
            TRY_AGAIN,
            f"the storage failed ({_shortened(error)}); mend the connection and run it again",
        )
    kind = _SYSTEM_ERRORS.get(error.errno)
    if kind is None or (
        error.errno in _NEEDS_A_NAME and not error.filename and not _names_a_path(error)
    ):
        return None
    what = os.strerror(error.errno)
    if error.filename:
        path = error.filename
        what += f": {os.fsdecode(path) if isinstance(path, bytes) else path!r}"
    elif not str(error.strerror or "").startswith(what):
        what += f": {_shortened(error)}"
    remedy = kind.remedy
    if kind is _SPACE and _is_temporary(error.filename):
        remedy = "free space in the folder for temporary files, or set TMPDIR to another"
    return ErrorLine(
        kind.exit_code, f"files can't be read or written ({what}); {remedy} and run it again"
    )


def _names_a_path(error: OSError) -> bool:
    """Whether it is pyarrow's, whose message names the file."""
    return "/" in str(error)


def _is_temporary(path: object) -> bool:
    folder = os.environ.get("TMPDIR")
    return isinstance(path, str) and bool(folder) and path.startswith(f"{folder}/")


def _is_lack_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or _is_of(error, "tensorflow", "ResourceExhaustedError"):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    # what the loader of shared libraries says where the address space is limited
    said = str(error)
    return isinstance(error, ImportError) and (
        "failed to map segment" in said or "Cannot allocate memory" in said
    )


def _is_lack_of_threads(error: BaseException) -> bool:
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return True
    return isinstance(error, OSError) and error.errno == errno.EAGAIN and not error.filename


def _is_of(error: BaseException, package: str, name: str) -> bool:
    """Whether an error is of a class of some package's, which need not be loaded to ask."""
    return any(
        one.__name__ == name and one.__module__.startswith(package) for one in type(error).__mro__
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _shortened(error: BaseException) -> str:
    line = _one_line(error)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def print_line(prog: str, line: ErrorLine) -> int:
    """Prints the line of an error on stderr, and returns the exit code."""
    print(f"{prog}: error: {escape_control_chars(line.text)}", file=sys.stderr, flush=True)
    return line.exit_code
