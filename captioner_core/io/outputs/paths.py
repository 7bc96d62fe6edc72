"""Checks of any output path: can it be written, and is it none of the inputs of the command?"""

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.security.uris import is_remote, local_path_of

Inputs = Mapping[str, Sequence[str | os.PathLike[str]]]
"""Names of options, such as ``--images``, with the paths or URIs that each of them names."""

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


def check_reachable(path: str | os.PathLike[str], option: str) -> None:
    """Refuses a folder that can neither be used nor be created.

    Args:
      path: the folder, which need not exist.
      option: option that names the folder, for error messages.

    Raises:
      CaptionerError: the path is not local, is a file or a device or lies below one, is a link to
        nothing, or may not be written to.
    """
    text = os.fspath(path)
    if _local_path(text) is None:
        raise CaptionerError(
            f"{option} {text!r} is not a local path, which this command needs; name a local folder"
        )
    try:
        existing = _nearest_existing(text)
        mode = os.stat(existing).st_mode
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{option} {text!r} cannot be used ({error_reason(error)}); name another folder"
        ) from error
    if not stat.S_ISDIR(mode):
        file_type = "a file" if stat.S_ISREG(mode) else "a device or a special file"
        is_path_itself = existing == os.path.abspath(text)
        position = "is" if is_path_itself else f"lies below {existing!r}, which is"
        raise CaptionerError(
            f"{option} {text!r} {position} {file_type} and not a folder; name another folder"
        )
    check_writable(existing, f"{option} {text!r}")


def check_writable(folder: str, label: str) -> None:
    """Refuses an existing folder that may not be written to.

    Args:
      folder: the folder.
      label: option and path, for error messages.

    Raises:
      CaptionerError: its file system is read-only, or permissions are missing.
    """
    if os.access(folder, os.W_OK | os.X_OK):
        return
    is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
    reason = os.strerror(errno.EROFS if is_read_only else errno.EACCES)
    raise CaptionerError(
        f"{label} cannot be written to ({reason}: {folder!r}); correct the permissions, or name "
        "another folder"
    )


def check_not_input(path: str | os.PathLike[str], option: str, inputs: Inputs) -> None:
    """Refuses an output that is an input, or a folder that contains one.

    Paths are compared after links are resolved, and files also by their identity. So neither
    another spelling nor a symbolic or hard link hides an input.

    Args:
      path: the output.
      option: option that names the output, for error messages.
      inputs: what the command reads.

    Raises:
      CaptionerError: the output is or contains an input.
    """
    output = os.path.realpath(path)
    for input_option, input_paths in inputs.items():
        for input_path in input_paths:
            if is_same_or_below(input_path, output):
                raise CaptionerError(
                    f"{option} {os.fspath(path)!r} is or contains {input_option} "
                    f"{os.fspath(input_path)!r}, which is read; name another {option}"
                )


def is_same_or_below(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Returns whether a path is a folder (or file) or lies below it, after links are resolved.

    Args:
      path: path or URI; a URI of an object store is never below a local folder.
      folder: local folder or file.
    """
    local = _local_path(os.fspath(path))
    if local is None:
        return False
    real_path = os.path.realpath(local)
    real_folder = os.path.realpath(folder)
    return any(
        candidate == real_folder or _is_same_file(candidate, real_folder)
        for candidate in (real_path, *map(str, Path(real_path).parents))
    )


def make_folders(path: str | os.PathLike[str], label: str) -> None:
    """Creates a folder and its parents, unless they exist.

    Args:
      path: the folder.
      label: option and path, for error messages.

    Raises:
      CaptionerError: the folder cannot be created there.
      OSError: the disk is full or fails, so another try may succeed.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise
        raise CaptionerError(
            f"{label} cannot be created ({error_reason(error)}); name another folder"
        ) from error


def error_reason(error: Exception) -> str:
    """Returns the system's description of an error, without its number and path."""
    return getattr(error, "strerror", None) or str(error)


def _nearest_existing(path: str) -> str:
    """Returns the path itself, or its nearest parent that exists, as an absolute path.

    Raises:
      OSError: a part of the path cannot be examined, or is a link to nothing.
      ValueError: the path contains a NUL character.
    """
    existing = os.path.abspath(path)
    while True:
        try:
            is_link = stat.S_ISLNK(os.lstat(existing).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            existing = os.path.dirname(existing)
            continue
        if is_link:
            os.stat(existing)  # Raises an error if the link leads nowhere.
        return existing


def _is_same_file(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def _local_path(uri: str) -> str | None:
    """Returns the path of a local file, or None for a URI of an object store."""
    return None if is_remote(uri) else local_path_of(uri)
