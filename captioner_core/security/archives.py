"""Zip archives that others have made, judged by their directory before anything is inflated."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterable
from pathlib import PurePosixPath

_ENCRYPTED = 0x1
# bzip2 and LZMA have decoders of their own; what LZMA takes of memory is the archive's to say
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_members(
    archive: zipfile.ZipFile, *, max_members: int, max_bytes: int
) -> list[zipfile.ZipInfo]:
    """The members of an archive, if all of them are harmless.

    No member inflates to more than the directory says: ``zipfile`` stops reading there.

    Args:
      archive: open for reading.
      max_members: most members, folders included.
      max_bytes: most bytes of all members, inflated.

    Raises:
      ValueError: one would lie outside its folder, is a link, encrypted, neither stored nor deflated, or begins outside
        the archive; or they are too many or too large.
    """
    members = archive.infolist()
    if len(members) > max_members:
        raise ValueError(f"it holds {len(members)} entries, more than {max_members}")
    for info in members:
        if is_outside(info.filename):
            raise ValueError(f"entry {info.filename!r} would lie outside its folder")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise ValueError(f"entry {info.filename!r} is a link")
        if info.flag_bits & _ENCRYPTED:
            raise ValueError(f"entry {info.filename!r} is encrypted")
        if info.compress_type not in _METHODS:
            raise ValueError(
                f"entry {info.filename!r} is packed by method {info.compress_type}; deflate it"
            )
        if info.header_offset < 0:
            raise ValueError(f"entry {info.filename!r} begins before the archive does")
    if (size := total_bytes(members)) > max_bytes:
        raise ValueError(f"it would inflate to {size} bytes, more than {max_bytes}")
    return members


def total_bytes(members: Iterable[zipfile.ZipInfo]) -> int:
    """Bytes of members, inflated."""
    return sum(info.file_size for info in members)


def is_outside(name: str) -> bool:
    """Whether a file of this name could land outside the folder that it is put into, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or ":" in path.parts[0]
        or "\0" in name
    )
