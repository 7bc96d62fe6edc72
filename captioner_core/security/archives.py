"""Checks of zip archives that may come from somebody else, before anything is unpacked."""

import stat
import zipfile
from pathlib import PurePosixPath

_ENCRYPTED_FLAG = 0x1
# bzip2 and LZMA have decoders of their own, and an archive decides how much memory LZMA uses.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def check_members(
    archive: zipfile.ZipFile, *, max_members: int, max_bytes: int
) -> list[zipfile.ZipInfo]:
    """Returns the members of an archive if all of them are safe to unpack.

    ``zipfile`` stops reading a member at the size that the archive's directory states. So the check
    of the stated sizes limits what is unpacked.

    Args:
      archive: archive that is open for reading.
      max_members: largest number of members, folders included.
      max_bytes: largest size of all members together after unpacking, in bytes.

    Raises:
      ValueError: a member would lie outside its folder, is a link, is encrypted, is neither stored
        nor deflated, or begins outside the archive; or the members are too many or too large.
    """
    members = archive.infolist()
    if len(members) > max_members:
        raise ValueError(f"it contains {len(members)} entries, more than {max_members}")
    for info in members:
        if problem := _find_problem(info):
            raise ValueError(f"entry {info.filename!r} {problem}")
    if (size := sum(info.file_size for info in members)) > max_bytes:
        raise ValueError(f"it would inflate to {size} bytes, more than {max_bytes}")
    return members


def _find_problem(info: zipfile.ZipInfo) -> str | None:
    """Returns why a member is unsafe, as the predicate of a sentence, or None."""
    method = info.compress_type
    problems = {
        "would lie outside its folder": is_outside(info.filename),
        "is a link": stat.S_ISLNK(info.external_attr >> 16),
        "is encrypted": info.flag_bits & _ENCRYPTED_FLAG,
        f"is packed by method {method}; deflate it": method not in _METHODS,
        "begins before the archive does": info.header_offset < 0,
    }
    return next((problem for problem, is_found in problems.items() if is_found), None)


def is_outside(name: str) -> bool:
    """Returns whether a file of this name could lie outside its folder on any operating system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return (
        path.is_absolute()
        or ".." in path.parts
        or not path.parts
        or ":" in path.parts[0]
        or "\0" in name
    )
