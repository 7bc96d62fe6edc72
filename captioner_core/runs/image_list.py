"""The list of a run's images, made before its job begins.

The list is kept in Parquet files in the run's staging folder, and workers read one row group at a
time. So the number of images is known before the job starts, independently of the tables that
the job writes, and memory stays flat however many images there are.
"""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from captioner_core.errors import CaptionerError
from captioner_core.images.listing import ListingCounts, SkippedEntry
from captioner_core.images.remote_listing import list_entries
from captioner_core.io import storage
from captioner_core.options import ImageOptions
from captioner_core.runs import commits
from captioner_core.runs.reuse import Failures
from captioner_core.tables.layout import RunLayout, join
from captioner_core.tables.schemas import FailureRow, ImageRef

_SCHEMA = pa.schema([(field.name, pa.string()) for field in dataclasses.fields(FailureRow)])
# A worker takes one row group at a time.
ROWS_PER_GROUP = 256
# Every worker reads the footer of a file, which must therefore stay small.
GROUPS_PER_FILE = 1024


class ImageListFile(NamedTuple):
    """A file of the list. These are all that a job's graph holds of its images.

    Args:
      uri: The Parquet file.
      groups: The number of its row groups.
    """

    uri: str
    groups: int


class BegunRun(NamedTuple):
    """An attempt at a run whose images are listed.

    Args:
      run: The layout to stage in.
      files: The files of the list.
      counts: What the images folder holds.
    """

    run: RunLayout
    files: list[ImageListFile]
    counts: ListingCounts


def begin_run(options: ImageOptions, failures: Failures | None) -> BegunRun:
    """Begins an attempt at a run and lists its images. An empty folder is reported on stderr.

    Args:
      options: The job's options.
      failures: If given, only these images are listed.

    Raises:
      CaptionerError: The folder cannot be read, holds files but no usable image, or would replace
        a run that has images by an empty one; or captioner may not write to the run's folder.
        The run is then as it was.
    """
    check_any_images(options.images, options.exclude, allow_empty=options.allow_empty)
    run = commits.begin_attempt(options.layout)
    with commits.abandon_on_refusal(run):
        files, counts = write_image_list(options.images, run, failures, options.exclude)
        _check_not_emptied(options, counts, failures)
    if counts.is_empty:
        print(
            f"images folder {options.images!r} is empty, so the run has no image", file=sys.stderr
        )
    return BegunRun(run, files, counts)


def write_image_list(
    folder: str, run: RunLayout, failures: Failures | None = None, exclude: Sequence[str] = ()
) -> tuple[list[ImageListFile], ListingCounts]:
    """Writes the list of the images below a folder.

    Args:
      folder: The images folder.
      run: The run in whose staging folder the list is written.
      failures: If given, only these images are listed, and all others are counted as found.
      exclude: Patterns of files and folders to leave out; see ``listing.PathPatterns``.

    Returns:
      The files of the list, and what the folder holds.

    Raises:
      CaptionerError: The folder is missing or cannot be read.
    """
    counts = ListingCounts(images=failures.kept if failures else 0)

    def rows() -> Iterator[dict[str, str | None]]:
        """Yields the rows of the list and counts every entry."""
        nonlocal counts
        for entry in list_entries(folder, exclude):
            listed = entry
            if failures and not isinstance(entry, SkippedEntry):
                retried = failures.retry_decision(entry)
                if retried is None:
                    continue
                listed = retried
            counts = counts.with_entry(listed)
            if not isinstance(listed, SkippedEntry):
                yield dataclasses.asdict(listed)

    return _write_files(rows(), run), counts


def _write_files(rows: Iterator[dict[str, str | None]], run: RunLayout) -> list[ImageListFile]:
    groups_of: dict[str, int] = {}
    uri = ""
    with contextlib.ExitStack() as open_file:
        while group := list(itertools.islice(rows, ROWS_PER_GROUP)):
            if groups_of.get(uri, GROUPS_PER_FILE) == GROUPS_PER_FILE:
                open_file.close()
                uri = join(run.staging, "listing", f"part-{len(groups_of):05d}.parquet")
                stream = open_file.enter_context(storage.output_stream(uri))
                writer = open_file.enter_context(pq.ParquetWriter(stream, _SCHEMA))
                groups_of[uri] = 0
            writer.write_table(pa.Table.from_pylist(group, _SCHEMA))
            groups_of[uri] += 1
    return [ImageListFile(uri, groups) for uri, groups in groups_of.items()]


def read_image_list(uri: str, group: int) -> list[ImageRef | FailureRow]:
    """Reads a row group of the list: images, and folders that could not be listed."""
    return [
        ImageRef(row["image_id"], row["image_uri"])
        if row["error_type"] is None
        else FailureRow(**row)
        for row in storage.read_row_group(uri, group).to_pylist()
    ]


def check_any_images(
    folder: str, exclude: Sequence[str] = (), *, allow_empty: bool = False
) -> None:
    """Refuses a folder that holds files but no usable image. Stops at the first image.

    Args:
      folder: The images folder.
      exclude: Patterns of files and folders to leave out.
      allow_empty: Whether the user wants a run over such a folder nevertheless.

    Raises:
      CaptionerError: No file in the folder is a usable image, or the folder is missing or cannot
        be read.
    """
    counts = ListingCounts()
    for entry in list_entries(folder, exclude):
        counts = counts.with_entry(entry)
        if counts.images or allow_empty:
            return
    if not counts.is_empty:
        raise CaptionerError(
            f"images folder {folder!r} holds no image that could be looked at, only "
            f"{counts.passed_over_text()}; name the folder of the images, or convert them to JPEG"
        )


def _check_not_emptied(
    options: ImageOptions, counts: ListingCounts, failures: Failures | None
) -> None:
    """Refuses to replace a run that has images by an empty one; see ``commits.check_not_emptied``.

    Raises:
      CaptionerError: The run has images, the folder has none, and --allow-empty is not given.
    """
    found = counts.images
    if failures is not None:
        # The counts include the run's other images, which were not looked for in the folder.
        entries = list_entries(options.images, options.exclude)
        found = int(any(not isinstance(entry, SkippedEntry) for entry in entries))
    commits.check_not_emptied(
        options.layout, options.images, found, allow_empty=options.allow_empty
    )
