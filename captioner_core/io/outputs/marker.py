"""The marker file: which files in an output folder did captioner make?

The marker ``.captioner-files`` lies in every folder that captioner writes. Each line is a JSON
value:

* The first line is an object that says that captioner made the folder, the kind of folder (such as
  ``dataset``), and the version of this format.
* Every further line is the path, below the folder, of a file or folder that captioner created
  there. Paths of folders end in ``/``.

A path is listed before its file is created. The list is therefore complete at every moment, even if
the process is killed. Whatever the marker does not list belongs to somebody else.
"""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json
from captioner_core.io.outputs.paths import error_reason
from captioner_core.security.paths import stays_below

MARKER = ".captioner-files"
"""Name of the marker file."""

PROGRAM = "captioner"
"""Value by which captioner's own files name the program that made them."""

FORMAT_VERSION = 1


def format_marker(kind: str, paths: Iterable[str]) -> bytes:
    """Returns the content of a marker.

    Args:
      kind: kind of the folder, such as ``dataset``.
      paths: paths to list, relative to the folder.
    """
    header = {"made_by": PROGRAM, "kind": kind, "format_version": FORMAT_VERSION}
    return b"".join(format_marker_line(value) for value in (header, *sorted(paths)))


def format_marker_line(value: object) -> bytes:
    """Returns one line of a marker, with its line end."""
    return json.dumps(value).encode("ascii") + b"\n"


def parse_marker(data: bytes, kind: str, label: str) -> set[str]:
    """Returns the paths that a marker lists.

    A last line without a line end is ignored: the process was killed while it wrote that line, and
    so the file had not been created yet.

    Args:
      data: content of the marker.
      kind: kind that the folder must have.
      label: option and folder, for error messages.

    Raises:
      CaptionerError: the marker is damaged, names another kind, or has a later format version.
    """
    complete_lines = data.split(b"\n")[:-1]
    damaged = CaptionerError(
        f"{label} has a damaged {MARKER}, so captioner cannot tell which files it made; name "
        "another folder, or move your own files away and delete this folder"
    )
    try:
        header, *paths = (parse_json(line) for line in complete_lines)
    except ValueError:
        raise damaged from None
    if (
        not isinstance(header, dict)
        or header.get("made_by") != PROGRAM
        or not isinstance(header.get("kind"), str)
    ):
        raise damaged
    if header.get("format_version") != FORMAT_VERSION:
        raise CaptionerError(
            f"{label} was made by a later version of captioner; use that version, or name another "
            "folder"
        )
    if header["kind"] != kind:
        raise CaptionerError(
            f"{label} is of kind {header['kind']!r} and not {kind!r}; name another folder"
        )
    if not all(_is_normal_path(path) for path in paths):
        raise damaged
    return set(paths)


def read_marker(folder: Path, label: str) -> bytes:
    """Returns the content of a folder's marker.

    Args:
      folder: folder that contains the marker.
      label: option and folder, for error messages.

    Raises:
      CaptionerError: the marker is not a regular file, or cannot be read.
    """
    # O_NOFOLLOW refuses a link; O_NONBLOCK keeps a named pipe from blocking the process.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(folder / MARKER, flags)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "it is not a regular file")
            return file.read()
    except OSError as error:
        raise CaptionerError(
            f"{label}: its {MARKER} cannot be read ({error_reason(error)}); name another folder"
        ) from error


def _is_normal_path(path: object) -> bool:
    """Returns whether a value is a normalized path below the folder, other than the marker's."""
    if not isinstance(path, str) or not stays_below(path):
        return False
    return str(PurePosixPath(path)) == path.removesuffix("/") and path not in (MARKER, ".", "./")
