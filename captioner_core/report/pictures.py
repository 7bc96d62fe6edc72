"""Finds the pictures of a run's images and makes the thumbnails that the page embeds.

Image ids and URIs come from tables that others may have written, so they are not trusted:

- An image id is followed only to a file below its dataset's images folder.
- A URI is followed only to a regular local file, or to a host that the run itself uses.
- Nothing outside the allowed roots is opened; see ``security.allowed_roots``.
- Files are decoded as images only, in separate processes.
"""

import base64
import io
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from markupsafe import Markup
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import decoder_pool, image_ids, listing
from captioner_core.io import storage
from captioner_core.runs.identity import collection_of_table
from captioner_core.security import allowed_roots, paths
from captioner_core.tables import layout

CARD_SIDE = 320
"""The longest side of the picture of a card's image, in pixels."""
MATCH_SIDE = 160
"""The longest side of the picture of a match, in pixels."""
MAX_BYTES = 268_435_456
DATA_URI_PREFIX = Markup("data:image/jpeg;base64,")

Location = bytes | str
"""Where an image is: a local path as bytes, or the URI of a remote file as text."""


@dataclass
class Picture:
    """A picture of the page, which is embedded once however often it is shown.

    Args:
      number: its number within the page.
      location: where the image is; None if that is not known.
      side: longest side of the thumbnail, in pixels.
      uses: how often the page shows it.
      width: width of the thumbnail, in pixels.
      height: height of the thumbnail, in pixels.
      data_uri: the thumbnail; empty if the image cannot be opened.
    """

    number: int
    location: Location | None
    side: int
    uses: int = 0
    width: int = 4
    height: int = 3
    data_uri: Markup = field(default_factory=Markup)


class Gallery:
    """The pictures of a page.

    ``show`` registers each use of a picture. ``load`` then opens every image once, at the largest
    size in which it is used.
    """

    def __init__(self) -> None:
        self._pictures: dict[Location | None, Picture] = {}

    def show(self, location: Location | None, side: int) -> Picture:
        """Registers one more use of a picture.

        Args:
          location: where the image is; None if that is not known.
          side: longest side in this use, in pixels.

        Returns:
          The picture, whose thumbnail is made by ``load``.
        """
        picture = self._pictures.setdefault(location, Picture(len(self._pictures), location, side))
        picture.side = max(picture.side, side)
        picture.uses += 1
        return picture

    def load(self) -> list[Picture]:
        """Makes all thumbnails.

        Returns:
          The pictures that the page shows more than once.
        """
        for picture in self._pictures.values():
            if picture.location is None:
                continue
            made = thumbnail(picture.location, picture.side)
            if made is not None:
                jpeg, (picture.width, picture.height) = made
                picture.data_uri = DATA_URI_PREFIX + base64.b64encode(jpeg).decode("ascii")
        return [
            picture for picture in self._pictures.values() if picture.data_uri and picture.uses > 1
        ]


def thumbnail(location: Location, side: int) -> tuple[bytes, tuple[int, int]] | None:
    """Returns a small JPEG of an image: upright, on white, without metadata.

    Args:
      location: a local path, or the URI of a remote file.
      side: longest side of the result, in pixels.

    Returns:
      The JPEG's bytes and its width and height; None if the image cannot be opened. The page then
      shows a box in place of the picture.
    """
    try:
        with _open(location) as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:  # The file may have grown since it was opened.
            return None
        return decoder_pool.make_thumbnail(data, side)
    except (ImageError, CaptionerError, OSError, pa.ArrowException):
        return None
    except ValueError:  # The path contains a NUL.
        return None


def _open(location: Location) -> BinaryIO:
    """Opens a regular file of at most ``MAX_BYTES`` within the allowed roots.

    Raises:
      OSError: it is anything else, or cannot be read.
    """
    if not allowed_roots.is_allowed(os.fsdecode(location)):
        raise PermissionError("outside the allowed roots")
    if isinstance(location, str) and "://" in location:
        file_system, path = storage.resolve(location)
        with file_system.open_input_file(path) as stream:
            if stream.size() > MAX_BYTES:
                raise OSError("too large")
            return io.BytesIO(stream.read())
    # O_NONBLOCK, so that a pipe does not block the report.
    descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
        os.close(descriptor)
        raise OSError("not a plain file, or too large")
    return os.fdopen(descriptor, "rb")


class _CaptionedImage(NamedTuple):
    image_id: str
    collection: str
    caption: str
    location: Location | None


class ImageFinder:
    """Finds the locations and captions of images in captions tables.

    Tables may hold different images with the same id; the collection tells them apart.

    Args:
      tables: captions tables of runs or datasets; those that cannot be read are ignored.
      wanted: ids of the images that may be looked up; only they are kept in memory.
      trusted: URIs that the user named. A remote image is fetched only from a host of these or of
        the tables.
    """

    def __init__(
        self, tables: Sequence[str], wanted: Iterable[str], trusted: Sequence[str]
    ) -> None:
        self._hosts = {_host(uri) for uri in (*trusted, *tables) if storage.is_remote(uri)}
        self._by_caption: dict[tuple[str, str | None, str], Location | None] = {}
        self._by_image: dict[tuple[str, str | None], Location | None] = {}
        self._captions: dict[tuple[str, str | None], list[str]] = {}
        ids = sorted(set(wanted))
        for table in dict.fromkeys(tables):
            for row in self._rows(table, ids):
                for collection in (row.collection, None):
                    image = (row.image_id, collection)
                    self._by_caption.setdefault((*image, row.caption), row.location)
                    self._by_image.setdefault(image, row.location)
                    self._captions.setdefault(image, []).append(row.caption)

    def location(
        self, image_id: str, caption: str = "", collection: str | None = None
    ) -> Location | None:
        """Returns where an image is, or None if that is not known.

        Args:
          image_id: the image.
          caption: a caption of the image. Tables with this caption are preferred to others.
          collection: the collection of the image; None accepts any collection, as the tables of
            earlier versions name none.
        """
        image = (image_id, collection)
        return self._by_caption.get((*image, caption), self._by_image.get(image))

    def captions(self, image_id: str, collection: str | None = None) -> list[str]:
        """Returns the distinct captions of an image in the order of the tables.

        Args:
          image_id: the image.
          collection: see ``location``.
        """
        return list(dict.fromkeys(self._captions.get((image_id, collection), ())))

    def _rows(self, table: str, ids: list[str]) -> Iterator[_CaptionedImage]:
        """Yields a table's rows about these images; nothing if the table cannot be read."""
        if not allowed_roots.is_allowed(table):
            return
        try:
            dataset = storage.open_table(table)
            collection = collection_of_table(table)
            has_uri = "image_uri" in dataset.schema.names
            columns = ["image_id", "caption", *(["image_uri"] if has_uri else [])]
            row_filter = id_filter(dataset, "image_id", ids)
            for batch in dataset.to_batches(columns=columns, filter=row_filter):
                for row in batch.to_pylist():
                    image_id = row["image_id"]
                    location = (
                        self._locate_uri(row["image_uri"])
                        if has_uri
                        else self._locate_in_dataset(table, image_id)
                    )
                    yield _CaptionedImage(image_id, collection, row["caption"] or "", location)
        except (CaptionerError, pa.ArrowException, OSError, KeyError):
            return  # If an index was moved away, the report lacks its pictures and nothing else.

    def _locate_uri(self, uri: str | None) -> Location | None:
        """Returns the location that a run's table states, if it is trusted."""
        if not uri:
            return None
        if storage.is_remote(uri):
            return uri if _host(uri) in self._hosts else None
        try:
            return os.fsencode(listing.local_path(uri))
        except ValueError:
            return None

    def _locate_in_dataset(self, table: str, image_id: str) -> Location | None:
        """Returns the location of a dataset's image, if it is below the images folder."""
        if storage.is_remote(table):
            folder = layout.join(table.rstrip("/").rpartition("/")[0], layout.DATASET_IMAGES)
            name = image_ids.file_name_of(image_id).decode("utf-8", "replace")
            is_below = paths.stays_below(image_id) and paths.stays_below(name)
            return layout.join(folder, name) if is_below else None
        file_system, path = storage.resolve(table)
        if not isinstance(file_system, pafs.LocalFileSystem):
            return None
        return image_ids.path_below(Path(path).parent / layout.DATASET_IMAGES, image_id)


def id_filter(table: pads.Dataset, column: str, ids: Iterable[str]) -> Any:
    """Returns the filter for rows with one of these ids.

    Args:
      table: the table to filter, whose texts may be of any Arrow type.
      column: the column of ids.
      ids: the ids.
    """
    kind = table.schema.field(column).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        # Without a cast, Parquet's statistics let pyarrow skip row groups.
        return pc.field(column).isin(pa.array(list(ids), kind))
    return pc.field(column).cast(pa.string()).isin(pa.array(list(ids), pa.string()))


def _host(uri: str) -> tuple[str, str]:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri, ""
    return parts.scheme, parts.netloc
