"""Images on any file system: local ones through the core, others through Beam's."""

from __future__ import annotations

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
from captioner_core.schemas import FailureRow, ImageRef

_LISTING_SCHEMA = pa.schema([(name, pa.string()) for name in ("image_id", "image_uri", "error_type", "error_message")])
_ROWS_AT_ONCE = 10_000


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


def write_listing(folder: str, run: RunLayout) -> tuple[str, ListingCounts]:
    """Lists the images below a folder into a Parquet file that the workers read.

    So the number of images found is known before the job, by other means than the tables
    that the job writes, and memory stays flat however many there are.

    Returns:
      The URI of the listing, and what was found.

    Raises:
      CaptionerError: the folder is missing or can't be read.
    """
    uri = join(run.staging, "listing", "part-00000.parquet")
    counts = ListingCounts()
    entries = list_entries(folder)
    with storage.output_stream(uri) as stream, pq.ParquetWriter(stream, _LISTING_SCHEMA) as writer:
        rows: list[dict[str, str | None]] = []
        for entry in entries:
            counts = counts.counting(entry)
            if isinstance(entry, SkippedEntry):
                continue
            rows.append(_row(entry))
            if len(rows) == _ROWS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, _LISTING_SCHEMA))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, _LISTING_SCHEMA))
    return uri, counts


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
