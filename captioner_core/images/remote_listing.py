"""Lists and reads the images of a folder on any storage that captioner can reach.

Local folders are listed by ``listing``; this module adds object stores, and the two functions
that choose by the form of the address.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, ImageError, first_line
from captioner_core.images import image_ids, listing
from captioner_core.images.listing import (
    Entry,
    PathPatterns,
    SkippedEntry,
    list_images,
    skipped_file,
    skipped_folder,
)
from captioner_core.io import storage
from captioner_core.tables.layout import join
from captioner_core.tables.schemas import LISTING, FailureRow, ImageRef

# S3's client reports a refused read as an OSError without a type of its own.
_ACCESS_DENIED = "ACCESS_DENIED"
# Keys of an object store may have parts that no path can have. Image ids state them escaped.
_ESCAPED_PARTS = {"": "%2F", ".": "%2E", "..": "%2E%2E"}


def list_entries(folder: str, exclude: Sequence[str] = ()) -> Iterator[Entry]:
    """Lists the images below a folder, local or in a store.

    Args:
      folder: A path or URI.
      exclude: Patterns of files and folders to leave out; see ``listing.PathPatterns``.

    Returns:
      The entries, one folder at a time, in order of their names; see ``listing.list_images``.

    Raises:
      CaptionerError: The folder is missing or cannot be listed.
    """
    if storage.is_remote(folder):
        return _list_remote_folder(folder, exclude)
    return list_images(folder, exclude)


def read_bytes(uri: str, max_bytes: int, folder: str | None = None) -> bytes:
    """Reads an image file, local or in a store.

    Args:
      uri: The image's path or URI.
      max_bytes: The size above which an image is a failure.
      folder: The images folder. A local image must not lie outside it. None accepts a file
        anywhere.

    Raises:
      ImageError: The file cannot be read, or is larger than ``max_bytes``.
      OSError: The storage cannot be reached. This is not the image's fault, so the job must stop
        instead of counting every image as a failure.
    """
    if not storage.is_remote(uri):
        return listing.read_bytes(uri, max_bytes, folder)
    file_system, path = storage.resolve(uri)
    try:
        with file_system.open_input_stream(path) as stream:
            data: bytes = stream.read(max_bytes + 1)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ImageError("unreadable", f"it can't be read ({first_line(error)})") from error
    except OSError as error:
        if _ACCESS_DENIED not in str(error):
            raise
        raise ImageError(
            "unreadable", "it can't be read (access denied); mend its permissions"
        ) from error
    if len(data) > max_bytes:
        raise ImageError(
            "too_large", f"it holds more than the {max_bytes} bytes that --max-bytes allows"
        )
    return data


class _NamedInfo(NamedTuple):
    """An entry of a folder as a store describes it.

    Args:
      name: The entry's name in its folder. It is empty where a key has two slashes in a row.
      info: Its type and full path.
    """

    name: str
    info: pafs.FileInfo


def _list_remote_folder(folder: str, exclude: Sequence[str]) -> Iterator[Entry]:
    file_system, root = storage.resolve(folder)
    try:
        if file_system.get_file_info(root).type != pafs.FileType.Directory:
            raise CaptionerError(
                f"images folder {folder!r} is not a folder; name one with --images"
            )
        entries = _sorted_entries(file_system, root.rstrip("/"))
    except OSError as error:
        raise CaptionerError(
            f"images folder {folder!r} can't be listed ({first_line(error)}); "
            "check address and credentials"
        ) from error
    return _walk(folder, file_system, entries, PathPatterns(exclude))


def _walk(
    folder: str,
    file_system: pafs.FileSystem,
    entries: Iterator[_NamedInfo],
    patterns: PathPatterns,
) -> Iterator[Entry]:
    # A stack instead of recursion: keys may be nested more deeply than Python recurses.
    open_folders = [("", entries)]
    while open_folders:
        prefix, remaining = open_folders[-1]
        entry = next(remaining, None)
        if entry is None:
            open_folders.pop()
            continue
        name, info = entry
        image_id = image_ids.image_id_of((prefix + name).encode("utf-8", "surrogateescape"))
        if info.type == pafs.FileType.File:
            reason = skipped_file(image_id, patterns)
            if reason:
                yield SkippedEntry(image_id, reason)
            else:
                yield ImageRef(image_id, join(folder, prefix + name))
        elif name in _ESCAPED_PARTS:
            yield _unlistable_folder(folder, prefix, name)
        elif reason := skipped_folder(image_id, patterns):
            yield SkippedEntry(image_id, reason)
        else:
            open_folders.append((f"{prefix}{name}/", _sorted_entries(file_system, info.path)))


def _unlistable_folder(folder: str, prefix: str, name: str) -> FailureRow:
    message = f"no path may have a part {name!r}, and what is below was not looked at; rename it"
    image_id = prefix + _ESCAPED_PARTS[name]
    uri = f"{folder.rstrip('/')}/{prefix}{name}/"
    return FailureRow(LISTING, image_id, uri, "unreadable", message)


def _sorted_entries(file_system: pafs.FileSystem, folder: str) -> Iterator[_NamedInfo]:
    entries = file_system.get_file_info(pafs.FileSelector(folder))
    named = (_NamedInfo(info.path.removeprefix(folder).strip("/"), info) for info in entries)
    return iter(sorted(named, key=lambda entry: entry.name))
