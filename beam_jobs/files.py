"""Images on any file system: local ones through the core, others through Beam's."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from captioner_core import storage
from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import IMAGE_SUFFIXES
from captioner_core.layout import RunLayout, join
from captioner_core.listing import Entry, ListingCounts, SkippedEntry, list_images
from captioner_core.listing import read_bytes as read_local_bytes
from captioner_core.reuse import Failures
from captioner_core.schemas import FailureRow, ImageRef

_LISTING_SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "image_uri", "error_type", "error_message")])
_GROUP_ROWS = 256  # what a worker takes at once
_FILE_GROUPS = 1024  # a footer that every worker can read

ListingPart = tuple[str, int]
"""A file of a listing, and a row group of it."""


def is_remote(uri: str) -> bool:
    """Whether a URI names something other than local files."""
    return "://" in uri and not uri.startswith("file://")


def read_bytes(uri: str, max_bytes: int) -> bytes:
    """An image file's bytes.

    Raises:
      ImageError: it can't be read, or is larger than ``max_bytes``.
    """
    if not is_remote(uri):
        return read_local_bytes(uri, max_bytes)
    try:
        with FileSystems.open(uri) as stream:
            data: bytes = stream.read(max_bytes + 1)
    except OSError as error:
        raise ImageError("unreadable", f"can't be read: {error}") from error
    if len(data) > max_bytes:
        raise ImageError("too_large", f"holds more than {max_bytes} bytes, the limit set by --max-bytes")
    return data


def write_listing(
    folder: str, run: RunLayout, failures: Failures | None = None
) -> tuple[list[ListingPart], ListingCounts]:
    """Lists the images below a folder into Parquet files that the workers read, a row group at a time.

    So the number of images found is known before the job, by other means than the tables
    that the job writes, and memory stays flat however many there are.

    Args:
      folder: of images.
      run: in whose staging folder the listing goes.
      failures: list these alone, and count the images that did not fail as found.

    Returns:
      The row groups of the listing, and what was found.

    Raises:
      CaptionerError: the folder is missing or can't be read.
    """
    counts = ListingCounts(images=failures.kept if failures else 0)

    def rows() -> Iterator[dict[str, str | None]]:
        nonlocal counts
        for entry in list_entries(folder):
            if failures and not isinstance(entry, SkippedEntry) and not failures.wants(entry.image_id):
                continue
            counts = counts.counting(entry)
            if not isinstance(entry, SkippedEntry):
                yield _row(entry)

    parts: list[ListingPart] = []
    listed = rows()
    with contextlib.ExitStack() as files:
        while some := list(itertools.islice(listed, _GROUP_ROWS)):
            file, group = divmod(len(parts), _FILE_GROUPS)
            if group == 0:
                files.close()
                uri = join(run.staging, "listing", f"part-{file:05d}.parquet")
                stream = files.enter_context(storage.output_stream(uri))
                writer = files.enter_context(pq.ParquetWriter(stream, _LISTING_SCHEMA))
            writer.write_table(pa.Table.from_pylist(some, _LISTING_SCHEMA))
            parts.append((uri, group))
    return parts, counts


def read_listing(part: ListingPart) -> list[ImageRef | FailureRow]:
    """What a row group of a listing holds: images, and folders that could not be listed."""
    return [
        ImageRef(row["image_id"], row["image_uri"]) if row["error_type"] is None else FailureRow(stage="list", **row)
        for row in storage.read_row_group(*part).to_pylist()
    ]


def list_entries(folder: str) -> Iterator[Entry]:
    """What lies below a folder, wherever it is; see ``listing.list_images``.

    Raises:
      CaptionerError: the folder is missing or can't be read.
    """
    return _list_remote(folder) if is_remote(folder) else list_images(folder)


def _row(entry: ImageRef | FailureRow) -> dict[str, str | None]:
    row: dict[str, str | None] = {"image_id": entry.image_id, "image_uri": entry.image_uri}
    if isinstance(entry, FailureRow):
        return {**row, "error_type": entry.error_type, "error_message": entry.error_message}
    return {**row, "error_type": None, "error_message": None}


def _list_remote(folder: str) -> Iterator[ImageRef | SkippedEntry]:
    root = folder.rstrip("/") + "/"
    try:
        (found,) = FileSystems.match([root + "**"])
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"images folder {folder!r} can't be listed ({error}); check address and credentials"
        ) from error
    for item in sorted(found.metadata_list, key=lambda item: item.path):
        image_id = item.path.removeprefix(root)
        if image_id.lower().endswith(tuple(IMAGE_SUFFIXES)):
            yield ImageRef(image_id, item.path)
        else:
            yield SkippedEntry(image_id, "other")
