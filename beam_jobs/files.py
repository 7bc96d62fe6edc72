"""Images on any file system."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images.image_ids import image_id_of
from captioner_core.images.listing import (
    Entry,
    ListingCounts,
    PathPatterns,
    SkippedEntry,
    list_images,
    skipped_file,
    skipped_folder,
)
from captioner_core.images.listing import read_bytes as read_local_bytes
from captioner_core.io import storage
from captioner_core.options import ImageOptions
from captioner_core.runs import commits
from captioner_core.runs.reuse import Failures
from captioner_core.tables.layout import RunLayout, join
from captioner_core.tables.schemas import LISTING, FailureRow, ImageRef

_LISTING_SCHEMA = pa.schema([(field.name, pa.string()) for field in dataclasses.fields(FailureRow)])
_GROUP_ROWS = 256  # what a worker takes at once
_DENIED = "ACCESS_DENIED"  # as S3's client says it in an error of no kind of its own
_NO_NAMES = {
    "": "%2F",
    ".": "%2E",
    "..": "%2E%2E",
}  # parts of a store's keys that no folder has, and how ids say them
_FILE_GROUPS = 1024  # a footer that every worker can read

ListingFile = tuple[str, int]
"""A file of a listing, and how many row groups it has: all that a job's graph holds of its images."""


def read_bytes(uri: str, max_bytes: int, folder: str) -> bytes:
    """The bytes of an image file below a folder.

    Raises:
      ImageError: it can't be read, or is larger than ``max_bytes``.
      OSError: the storage can't be reached, which is no fault of this image: the job is to end, not to fail them all.
    """
    if not storage.is_remote(uri):
        return read_local_bytes(uri, max_bytes, folder)
    file_system, path = storage.resolve(uri)
    try:
        with file_system.open_input_stream(path) as stream:
            data: bytes = stream.read(max_bytes + 1)
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise ImageError("unreadable", f"it can't be read ({storage.first_line(error)})") from error
    except OSError as error:
        if _DENIED in str(error):
            raise ImageError(
                "unreadable", "it can't be read (access denied); mend its permissions"
            ) from error
        raise
    if len(data) > max_bytes:
        raise ImageError(
            "too_large", f"it holds more than the {max_bytes} bytes that --max-bytes allows"
        )
    return data


def write_listing(
    folder: str, run: RunLayout, failures: Failures | None = None, exclude: Sequence[str] = ()
) -> tuple[list[ListingFile], ListingCounts]:
    """Lists the images below a folder into Parquet files that the workers read, a row group at a time.

    So the number of images found is known before the job, by other means than the tables
    that the job writes, and memory stays flat however many there are.

    Args:
      folder: of images.
      run: in whose staging folder the listing goes.
      failures: list these alone, and count the images that did not fail as found.
      exclude: patterns of what is left out; see ``listing.PathPatterns``.

    Returns:
      The files of the listing, and what was found.

    Raises:
      CaptionerError: the folder is missing or can't be read.
    """
    counts = ListingCounts(images=failures.kept if failures else 0)

    def rows() -> Iterator[dict[str, str | None]]:
        nonlocal counts
        for entry in list_entries(folder, exclude):
            found = (
                failures.retry_decision(entry)
                if failures and not isinstance(entry, SkippedEntry)
                else entry
            )
            if found is None:
                continue
            counts = counts.counting(found)
            if not isinstance(found, SkippedEntry):
                yield dataclasses.asdict(found)

    uri, groups = "", dict[str, int]()
    listed = rows()
    with contextlib.ExitStack() as files:
        while some := list(itertools.islice(listed, _GROUP_ROWS)):
            if groups.get(uri, _FILE_GROUPS) == _FILE_GROUPS:
                files.close()
                uri = join(run.staging, "listing", f"part-{len(groups):05d}.parquet")
                stream = files.enter_context(storage.output_stream(uri))
                writer = files.enter_context(pq.ParquetWriter(stream, _LISTING_SCHEMA))
                groups[uri] = 0
            writer.write_table(pa.Table.from_pylist(some, _LISTING_SCHEMA))
            groups[uri] += 1
    return list(groups.items()), counts


class Listed(NamedTuple):
    """A run's images, listed before its job begins.

    Args:
      run: the layout to stage in.
      files: of the listing; see ``write_listing``.
      counts: what was found.
    """

    run: RunLayout
    files: list[ListingFile]
    counts: ListingCounts


def begin_with_listing(options: ImageOptions, failures: Failures | None) -> Listed:
    """Begins an attempt at a run and lists its images; an empty folder is told on stderr.

    Args:
      options: of the job.
      failures: list these alone.

    Raises:
      CaptionerError: the folder can't be read, holds no image that could be looked at, or would empty the run, which
        is then as it was; or captioner may not write to the run's folder.
    """
    check_any_images(options.images, options.exclude, allow_empty=options.allow_empty)
    run = commits.begin_attempt(options.layout)
    with commits.abandon_on_refusal(run):
        files, counts = write_listing(options.images, run, failures, options.exclude)
        _check_not_emptied(options, counts, failures)
    if counts.is_empty:
        print(
            f"images folder {options.images!r} is empty, so the run has no image", file=sys.stderr
        )
    return Listed(run, files, counts)


def _check_not_emptied(
    options: ImageOptions, counts: ListingCounts, failures: Failures | None
) -> None:
    """Refuses to replace a run that has images by an empty one; see ``runs.check_not_emptied``.

    Args:
      options: of the job.
      counts: what the listing found.
      failures: that the listing was limited to; it counts the run's other images as found unseen.

    Raises:
      CaptionerError: the run has images, the folder has none, and --allow-empty was not given.
    """
    found = counts.images
    if failures is not None:
        found = sum(1 for _ in itertools.islice(_images_in(options.images, options.exclude), 1))
    commits.check_not_emptied(
        options.layout, options.images, found, allow_empty=options.allow_empty
    )


def _images_in(folder: str, exclude: Sequence[str]) -> Iterator[Entry]:
    return (entry for entry in list_entries(folder, exclude) if not isinstance(entry, SkippedEntry))


def read_listing(uri: str, group: int) -> list[ImageRef | FailureRow]:
    """What a row group of a listing's file holds: images, and folders that could not be listed."""
    return [
        ImageRef(row["image_id"], row["image_uri"])
        if row["error_type"] is None
        else FailureRow(**row)
        for row in storage.read_row_group(uri, group).to_pylist()
    ]


def check_any_images(
    folder: str, exclude: Sequence[str] = (), *, allow_empty: bool = False
) -> None:
    """Refuses a folder that holds something and no image; looks no further than the first image.

    Args:
      folder: of images.
      exclude: patterns of what is left out.
      allow_empty: whether a run over such a folder is wanted nevertheless.

    Raises:
      CaptionerError: nothing in the folder could be looked at, or the folder is missing or can't be read.
    """
    counts = ListingCounts()
    for entry in list_entries(folder, exclude):
        counts = counts.counting(entry)
        if counts.images or allow_empty:
            return
    if not counts.is_empty:
        raise CaptionerError(
            f"images folder {folder!r} holds no image that could be looked at, only {counts.passed_over_text()}; "
            "name the folder of the images, or convert them to JPEG"
        )


def list_entries(folder: str, exclude: Sequence[str] = ()) -> Iterator[Entry]:
    """Lists what lies below a folder, wherever it is; see ``listing.list_images``.

    Raises:
      CaptionerError: the folder is missing or can't be read.
    """
    return (
        _list_remote(folder, exclude) if storage.is_remote(folder) else list_images(folder, exclude)
    )


def _list_remote(folder: str, exclude: Sequence[str]) -> Iterator[Entry]:
    """What lies below a folder elsewhere, one folder at a time, in order of names."""
    file_system, root = storage.resolve(folder)
    try:
        if file_system.get_file_info(root).type != pafs.FileType.Directory:
            raise CaptionerError(
                f"images folder {folder!r} is not a folder; name one with --images"
            )
        first = _names(file_system, root.rstrip("/"))
    except OSError as error:
        raise CaptionerError(
            f"images folder {folder!r} can't be listed ({storage.first_line(error)}); check address and credentials"
        ) from error
    return _walk_remote(folder, file_system, first, PathPatterns(exclude))


def _walk_remote(
    folder: str,
    file_system: pafs.FileSystem,
    first: Iterator[tuple[str, pafs.FileInfo]],
    patterns: PathPatterns,
) -> Iterator[Entry]:
    open_folders = [("", first)]
    while open_folders:
        below, names = open_folders[-1]
        entry = next(names, None)
        if entry is None:
            open_folders.pop()
            continue
        name, found = entry
        image_id = image_id_of((below + name).encode("utf-8", "surrogateescape"))
        if found.type == pafs.FileType.File:
            reason = skipped_file(image_id, patterns)
            yield (
                SkippedEntry(image_id, reason)
                if reason
                else ImageRef(image_id, join(folder, below + name))
            )
        elif name in _NO_NAMES:
            message = (
                f"no path may have a part {name!r}, and what is below was not looked at; rename it"
            )
            yield FailureRow(
                LISTING,
                below + _NO_NAMES[name],
                f"{folder.rstrip('/')}/{below}{name}/",
                "unreadable",
                message,
            )
        elif reason := skipped_folder(image_id, patterns):
            yield SkippedEntry(image_id, reason)
        else:
            open_folders.append((f"{below}{name}/", _names(file_system, found.path)))


def _names(file_system: pafs.FileSystem, folder: str) -> Iterator[tuple[str, pafs.FileInfo]]:
    """A folder's entries by name, which is empty where a key goes on with a second slash."""
    entries = file_system.get_file_info(pafs.FileSelector(folder))
    named = ((found.path.removeprefix(folder).strip("/"), found) for found in entries)
    return iter(sorted(named, key=lambda entry: entry[0]))
