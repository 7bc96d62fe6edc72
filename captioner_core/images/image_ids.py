"""Converts between image ids and file names: every name has one id, and every id one name."""

import os
import re
from pathlib import Path

from captioner_core.security.paths import has_path_prefix, stays_below

# A backslash in a file name that would look like the start of an escape.
_AMBIGUOUS_BACKSLASH = re.compile(rb"\\(?=x[0-9A-Fa-f]{2})")
# An escape that ``image_id_of`` writes: for a backslash, or for a byte that is not UTF-8, which is
# never an ASCII byte.
_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")
_OTHER_BACKSLASH = re.compile(r"\\(?!x(?:5c|[89a-f][0-9a-f]))")


def image_id_of(name: bytes) -> str:
    r"""Returns the image id of a file.

    Bytes that are not UTF-8 become ``\xNN``. A backslash in the name that is followed by ``x`` and
    two hexadecimal digits becomes ``\x5c``, so that no two files share an id.

    Args:
      name: the file's path below the images folder, with ``/`` between folders.

    >>> image_id_of(b"caf\xe9.jpg"), image_id_of(rb"caf\xe9.jpg")
    ('caf\\xe9.jpg', 'caf\\x5cxe9.jpg')
    """
    if b"\\" in name:
        name = _AMBIGUOUS_BACKSLASH.sub(rb"\\x5c", name)
    return name.decode("utf-8", "backslashreplace")


def file_name_of(image_id: str) -> bytes:
    r"""Returns the path of an image's file below the images folder; the inverse of ``image_id_of``.

    Args:
      image_id: an image id. What ``image_id_of`` would not write as an escape is left unchanged.

    >>> file_name_of(r"caf\xe9.jpg"), file_name_of(r"caf\x5cxe9.jpg")
    (b'caf\xe9.jpg', b'caf\\xe9.jpg')
    """
    if "\\x" not in image_id:
        return image_id.encode("utf-8", "surrogateescape")
    # Text and the digits of escapes alternate.
    return b"".join(
        bytes.fromhex(part) if number % 2 else part.encode("utf-8", "surrogateescape")
        for number, part in enumerate(_ESCAPE.split(image_id))
    )


def with_slashes(name: str) -> str:
    r"""Returns a source's file name with ``/`` between folders where it has backslashes.

    Escapes in an image id keep their backslashes.

    >>> with_slashes(r"day1\IMG_1.jpg"), with_slashes(r"day1\caf\xe9.jpg")
    ('day1/IMG_1.jpg', 'day1/caf\\xe9.jpg')
    """
    return _OTHER_BACKSLASH.sub("/", name)


def path_of(folder: Path, image_id: str) -> Path:
    """Returns the path of an image's file in a folder of images."""
    return folder / os.fsdecode(file_name_of(image_id))


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
