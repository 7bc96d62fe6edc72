"""Image ids and the names of files that they stand for: one id for each name, and back."""

from __future__ import annotations

import os
import re
from pathlib import Path

from captioner_core.security.paths import has_path_prefix, stays_below

# A backslash in a name that an id's reader could take for the beginning of an escape
_LOOKS_LIKE_ESCAPE = re.compile(rb"\\(?=x[0-9A-Fa-f]{2})")
# What ``image_id_of`` writes: a backslash, and bytes that are not UTF-8, which are never ASCII
_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")
_NO_ESCAPE = re.compile(r"\\(?!x(?:5c|[89a-f][0-9a-f]))")


def image_id_of(name: bytes) -> str:
    r"""Returns the id of a file by its path below the images folder.

    Bytes that are not UTF-8 become ``\xNN``. A backslash that stands before ``x`` and two
    hexadecimal digits in the name itself becomes ``\x5c``, so that two files never share an id.

    Args:
      name: the path, with ``/``.

    >>> image_id_of(b"caf\xe9.jpg"), image_id_of(rb"caf\xe9.jpg")
    ('caf\\xe9.jpg', 'caf\\x5cxe9.jpg')
    """
    if b"\\" in name:
        name = _LOOKS_LIKE_ESCAPE.sub(rb"\\x5c", name)
    return name.decode("utf-8", "backslashreplace")


def file_name_of(image_id: str) -> bytes:
    r"""Returns the path below the images folder that an id stands for; it undoes ``image_id_of``.

    Args:
      image_id: an id; one that ``image_id_of`` would not make stands for itself as far as it is no
        escape.

    >>> file_name_of(r"caf\xe9.jpg"), file_name_of(r"caf\x5cxe9.jpg")
    (b'caf\xe9.jpg', b'caf\\xe9.jpg')
    """
    if "\\x" not in image_id:
        return image_id.encode("utf-8", "surrogateescape")
    parts = _ESCAPE.split(image_id)  # text and the digits of escapes in turn
    return b"".join(
        bytes.fromhex(part) if number % 2 else part.encode("utf-8", "surrogateescape")
        for number, part in enumerate(parts)
    )


def with_slashes(name: str) -> str:
    r"""Returns an image id of a source that may write backslashes between folders; escapes stay as they are.

    >>> with_slashes(r"day1\IMG_1.jpg"), with_slashes(r"day1\caf\xe9.jpg")
    ('day1/IMG_1.jpg', 'day1/caf\\xe9.jpg')
    """
    return _NO_ESCAPE.sub("/", name)


def path_of(folder: Path, image_id: str) -> Path:
    """Returns the path below a folder that an id stands for."""
    return folder / os.fsdecode(file_name_of(image_id))


def id_of_path(path: Path, folder: Path) -> str:
    """Returns the id of a path below a folder."""
    return image_id_of(os.fsencode(path.relative_to(folder).as_posix()))


def path_below(folder: str | os.PathLike[str], image_id: str) -> bytes | None:
    """Returns the real path of the file that an image id names below a folder.

    Args:
      folder: folder of images.
      image_id: id of the image, which may come from somebody else's table.

    Returns:
      The path with links resolved, or None if the id, ``..`` or a link leads out of the folder.
    """
    name = os.fsdecode(file_name_of(image_id))
    if not stays_below(image_id) or not stays_below(name):
        return None
    real_folder = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(real_folder, name))
    if path == real_folder or not has_path_prefix(path, real_folder):
        return None
    return os.fsencode(path)
