"""Single output files: may this file be replaced, and how is it replaced safely?

A single file has no marker beside it. Captioner recognizes its own files by their content instead:
pictures name captioner in their metadata, and JSON files have known fields.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.io.outputs.marker import PROGRAM
from captioner_core.io.outputs.paths import (
    Inputs,
    check_not_input,
    check_reachable,
    error_reason,
)
from captioner_core.io.temporary_names import temporary_name

PNG_SOFTWARE = "Software"
"""Keyword of the PNG text chunk that names the program that made a picture."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_END = 33  # Signature (8 bytes), and the chunk IHDR with length, type and checksum (25).
_SVG_CREATOR = b"<dc:title>captioner</dc:title>"


def is_own_picture(first_bytes: bytes) -> bool:
    """Returns whether captioner made a picture, according to its PNG or SVG metadata.

    Args:
      first_bytes: beginning of the file; 4096 bytes are enough.
    """
    if first_bytes.startswith(_PNG_SIGNATURE):
        text = f"{PNG_SOFTWARE}\0{PROGRAM}".encode()
        # A PNG chunk is its length (4 bytes, big-endian), its type and its data.
        software_chunk = len(text).to_bytes(4, "big") + b"tEXt" + text
        return first_bytes[_PNG_HEADER_END:].startswith(software_chunk)
    return first_bytes.lstrip().startswith(b"<?xml") and _SVG_CREATOR in first_bytes


def check_output_file(
    path: str | os.PathLike[str],
    *,
    is_own: Callable[[bytes], bool],
    option: str = "--output",
    inputs: Inputs | None = None,
    makes_parents: bool = False,
) -> None:
    """Refuses, before any work, a file that captioner may not write; changes nothing.

    Args:
      path: the file, which need not exist.
      is_own: tells from the content of an existing file whether captioner made it.
      option: option that names the file, for error messages.
      inputs: what the command reads; the file must not be one of them.
      makes_parents: whether the folder of the file may be missing, because it will be created.

    Raises:
      CaptionerError: the file is an input, exists and was not made by captioner, is a folder, a
        device or a link, or its folder is missing or cannot be written to.
    """
    text = os.fspath(path)
    label = f"{option} {text!r}"
    check_not_input(text, option, inputs or {})
    try:
        mode = os.lstat(text).st_mode
    except (FileNotFoundError, NotADirectoryError):
        _check_parent(text, option, makes_parents)
        return
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{label} cannot be written ({error_reason(error)}); name another file"
        ) from error
    if stat.S_ISLNK(mode):
        raise CaptionerError(
            f"{label} is a link, and captioner does not write through links; name another file"
        )
    if not stat.S_ISREG(mode):
        file_type = "a folder" if stat.S_ISDIR(mode) else "a device or a special file"
        raise CaptionerError(f"{label} is {file_type}; name a file")
    _check_parent(text, option, makes_parents)
    try:
        content = Path(text).read_bytes()
    except OSError as error:
        raise CaptionerError(
            f"{label} exists and cannot be read ({error_reason(error)}); name another file"
        ) from error
    if not is_own(content):
        raise CaptionerError(
            f"{label} exists and captioner did not make it; name another file, or move that one "
            "away"
        )


def _check_parent(path: str, option: str, makes_parents: bool) -> None:
    parent = os.path.dirname(path) or "."
    check_reachable(parent, option)
    if not makes_parents and not os.path.isdir(parent):
        raise CaptionerError(
            f"{option} {path!r} is in a folder that does not exist; create the folder first"
        )


@contextlib.contextmanager
def replacing(
    path: str | os.PathLike[str],
    *,
    is_own: Callable[[bytes], bool],
    option: str = "--output",
    makes_parents: bool = False,
) -> Iterator[Path]:
    """Replaces a file by the one that the block writes to a temporary path.

    If the block raises an error, the temporary file is deleted and the old file stays as it is.

    Args:
      path: file to create or replace.
      is_own: tells from the content of an existing file whether captioner made it.
      option: option that names the file, for error messages.
      makes_parents: whether to create the folder of the file.

    Yields:
      The temporary path, in the folder of the file.

    Raises:
      CaptionerError: see ``check_output_file``, which runs before the block and again before the
        file is replaced.
    """
    check_output_file(path, is_own=is_own, option=option, makes_parents=makes_parents)
    target = Path(path)
    if makes_parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(temporary_name(".captioner"))
    try:
        yield temporary
        check_output_file(path, is_own=is_own, option=option)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
