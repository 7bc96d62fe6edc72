"""The images below a local folder, one at a time, and their bytes.

A listing never holds more than one folder's entries, comes in a fixed order and follows
no link that leaves the folder. Folder links are not walked at all: what lies behind one
inside the folder is listed under its own name anyway, and loops can't happen.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote_to_bytes

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import IMAGE_SUFFIXES
from captioner_core.schemas import LISTING, FailureRow, ImageRef

OTHER, LINK = "other", "link"


@dataclass(frozen=True, slots=True)
class SkippedEntry:
    """Something that is no image by the rules: another file, or a link not followed."""

    image_id: str
    reason: str


Entry = ImageRef | SkippedEntry | FailureRow


@dataclass(frozen=True)
class ListingCounts:
    """What a listing found; a folder that can't be read counts as an image found and failed."""

    images: int = 0
    other: int = 0
    links: int = 0

    def counting(self, entry: Entry) -> ListingCounts:
        """These counts and one entry more."""
        if not isinstance(entry, SkippedEntry):
            return dataclasses.replace(self, images=self.images + 1)
        if entry.reason == LINK:
            return dataclasses.replace(self, links=self.links + 1)
        return dataclasses.replace(self, other=self.other + 1)

    def as_manifest(self) -> dict[str, int]:
        return {
            "images_found": self.images,
            "files_passed_over": self.other + self.links,
            "links_passed_over": self.links,
        }


def list_images(folder: str) -> Iterator[Entry]:
    """Everything below a folder, in order of names.

    Args:
      folder: a local path.

    Raises:
      CaptionerError: at once, where the folder is missing, no folder, or can't be read.
    """
    root = os.fsencode(os.path.abspath(folder))
    if not os.path.isdir(root):
        raise CaptionerError(f"images folder {folder!r} is not a folder; name one with --images")
    try:
        os.scandir(root).close()
    except OSError as error:
        raise CaptionerError(
            f"images folder {folder!r} can't be read ({error.strerror}); mend its permissions"
        ) from error
    return _walk(root, os.path.realpath(root))


def _walk(root: bytes, real_root: bytes) -> Iterator[Entry]:
    # A stack of its own: a thousand folders within each other would be too deep for recursion
    open_folders = [_scan(root, b"")]
    while open_folders:
        found = next(open_folders[-1], None)
        if found is None:
            open_folders.pop()
        elif isinstance(found, FailureRow):
            yield found
        else:
            entry, relative = found
            if entry.is_dir(follow_symlinks=False):
                open_folders.append(_scan(entry.path, relative + b"/"))
            else:
                yield _classified(entry, relative, real_root)


def _scan(folder: bytes, below: bytes) -> Iterator[tuple[os.DirEntry[bytes], bytes] | FailureRow]:
    """A folder's entries by name, each with its path below the root; one failure where it can't be listed."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
        for entry in entries:  # where the file system doesn't say what an entry is, asking can fail too
            entry.is_dir(follow_symlinks=False)
    except OSError as error:
        image_id = _text(below.rstrip(b"/"))
        message = f"the folder can't be listed ({error.strerror}); what is in it was not looked at"
        yield FailureRow(LISTING, image_id, _uri(folder), "unreadable", message)
        return
    for entry in entries:
        yield entry, below + entry.name


def _classified(entry: os.DirEntry[bytes], relative: bytes, real_root: bytes) -> Entry:
    image_id = _text(relative)
    if entry.is_symlink() and not _stays_below(entry.path, real_root):
        return SkippedEntry(image_id, LINK)
    has_suffix = image_id.lower().endswith(IMAGE_SUFFIXES)
    return ImageRef(image_id, _uri(entry.path)) if has_suffix and entry.is_file() else SkippedEntry(image_id, OTHER)


def _stays_below(link: bytes, real_root: bytes) -> bool:
    """Whether a link leads to a file below the root; loops and dangling links don't."""
    try:
        target = os.path.realpath(link, strict=True)
    except OSError:
        return False
    return _is_below(target, real_root) and os.path.isfile(target)


def _is_below(real_path: bytes, real_root: bytes) -> bool:
    return real_path.startswith(real_root.rstrip(b"/") + b"/")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _uri(path: bytes) -> str:
    """The path as it is; a name that is no UTF-8 can't be text, so it becomes a ``file://`` URI."""
    try:
        return path.decode("utf-8")
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(path)


def local_path(image_uri: str) -> bytes:
    """The path that ``image_uri`` of a local image stands for."""
    if image_uri.startswith("file://"):
        return unquote_to_bytes(image_uri.removeprefix("file://"))
    return os.fsencode(image_uri)


def read_bytes(image_uri: str, max_bytes: int, folder: str | None = None) -> bytes:
    """A local image file's bytes.

    Args:
      image_uri: a path or a ``file://`` URI.
      max_bytes: that it may hold.
      folder: that it must lie below now, whatever was there when it was listed; anywhere where None.

    Raises:
      ImageError: ``unreadable``, ``too_large`` or ``changed``.
    """
    try:
        path = local_path(image_uri)
        # Without O_NONBLOCK, a pipe put there since the listing would never open
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if folder is not None:
                _check_below(descriptor, path, folder)
            return _read_regular(descriptor, max_bytes)
        finally:
            os.close(descriptor)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError("unreadable", f"it can't be read ({reason}); mend its permissions or the disk") from error


def _changed() -> ImageError:
    return ImageError("changed", "it changed while it was read; once it is whole, run again with --only-failures")


def _check_below(descriptor: int, path: bytes, folder: str) -> None:
    """Makes sure that the opened file is one below the folder: no link was put in its way since it was listed."""
    target = os.path.realpath(path)
    if not _is_below(target, os.path.realpath(os.fsencode(folder))):
        raise ImageError("unreadable", "it is now a link that leaves the images folder, which is not followed")
    if not os.path.samestat(os.stat(target), os.fstat(descriptor)):
        raise _changed()


def _read_regular(descriptor: int, max_bytes: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("unreadable", "it is no longer a regular file")
    too_large = ImageError("too_large", f"it holds more than the {max_bytes} bytes that --max-bytes allows")
    if status.st_size > max_bytes:
        raise too_large
    with open(descriptor, "rb", closefd=False) as stream:
        # One byte more than it should hold: a file that grows meanwhile is held to the limit too.
        # Some network file systems say 0 of every file.
        data = stream.read((status.st_size or max_bytes) + 1)
    if len(data) > max_bytes:
        raise too_large
    now = os.fstat(descriptor)
    if (now.st_size, now.st_mtime_ns) != (status.st_size, status.st_mtime_ns) or len(data) < now.st_size:
        raise _changed()
    return data
