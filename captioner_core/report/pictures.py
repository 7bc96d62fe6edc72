"""Where a run's pictures are, and the thumbnails of them that the page embeds.

Ids and URIs come out of tables that others may have written, so an id is followed only
below its dataset's images, a URI only to a plain local file or to the storage that the run
itself is on, nothing outside the allowed roots (see ``places``), and what is found there is
read by the decoders of image formats alone, in processes of their own.
"""

from __future__ import annotations

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
from captioner_core.images import decoder_pool
from captioner_core.images.image_ids import file_name_of
from captioner_core.io import storage
from captioner_core.runs.identity import collection_of_table
from captioner_core.security.allowed_roots import is_allowed, path_below, stays_below
from captioner_core.tables import layout

CARD_SIDE = 320
MATCH_SIDE = 160
MAX_BYTES = 268_435_456
MAX_PIXELS = 100_000_000

Location = bytes | str  # a local path, or the URI of a file elsewhere


@dataclass
class Picture:
    """A picture of the page, embedded once however often it is shown.

    Args:
      number: names it within the page.
      location: where the image is, None where that is not known.
      side: longest side of the thumbnail, in pixels.
      uses: how often the page shows it.
      width: of the thumbnail, in pixels.
      height: of the thumbnail, in pixels.
      data_uri: the thumbnail, empty where the image can't be opened.
    """

    number: int
    location: Location | None
    side: int
    uses: int = 0
    width: int = 4
    height: int = 3
    data_uri: Markup = field(default_factory=Markup)


class Gallery:
    """The pictures of a page; each location is opened once, after all uses are known."""

    def __init__(self) -> None:
        self._pictures: dict[Location | None, Picture] = {}

    def show(self, location: Location | None, side: int) -> Picture:
        """The picture at a location, to be shown once more, at most ``side`` pixels long."""
        picture = self._pictures.setdefault(location, Picture(len(self._pictures), location, side))
        picture.side = max(picture.side, side)
        picture.uses += 1
        return picture

    def load(self) -> list[Picture]:
        """Makes all thumbnails; returns the pictures that are shown more than once."""
        for picture in self._pictures.values():
            made = (
                thumbnail(picture.location, picture.side) if picture.location is not None else None
            )
            if made is not None:
                jpeg, (picture.width, picture.height) = made
                picture.data_uri = Markup("data:image/jpeg;base64,") + base64.b64encode(
                    jpeg
                ).decode("ascii")
        return [
            picture for picture in self._pictures.values() if picture.data_uri and picture.uses > 1
        ]


def thumbnail(location: Location, side: int) -> tuple[bytes, tuple[int, int]] | None:
    """A small JPEG of an image in its own proportions, upright, on white, without its metadata.

    Args:
      location: a local path, or the URI of a file elsewhere.
      side: longest side of the result, in pixels.

    Returns:
      The JPEG's bytes with its width and height, or None where the image can't be opened; the page then shows a
      box in place of the picture.
    """
    try:
        with _open(location) as stream:
            data = stream.read(MAX_BYTES + 1)  # it may have grown
        return (
            decoder_pool.thumbnail(data, side, max_pixels=MAX_PIXELS)
            if len(data) <= MAX_BYTES
            else None
        )
    except (
        ImageError,
        CaptionerError,
        OSError,
        ValueError,
        pa.ArrowException,
    ):  # ValueError: a NUL in the path
        return None


def _open(location: Location) -> BinaryIO:
    if not is_allowed(os.fsdecode(location)):
        raise PermissionError("outside the allowed roots")
    if isinstance(location, str) and "://" in location:
        file_system, path = storage.resolve(location)
        with file_system.open_input_file(path) as stream:
            if stream.size() > MAX_BYTES:
                raise OSError("too large")
            return io.BytesIO(stream.read())
    descriptor = os.open(
        location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    )  # a pipe must not hold up the report
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
    """Knows where the images of some captions tables are, and what they say of them.

    Two tables may hold different images under one id; the collection tells them apart.

    Args:
      tables: captions tables, of runs or datasets; those that can't be read are passed over.
      wanted: ids of the images asked for; of no other is anything kept.
      trusted: URIs of the user's own; a remote image is fetched only from a host of theirs.
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
        """Returns where an image is, or None.

        Args:
          image_id: of the image.
          caption: the table that has the image with this caption goes before others that have it.
          collection: that the image belongs to; any where None, as in tables of earlier versions.
        """
        image = (image_id, collection)
        return self._by_caption.get((*image, caption), self._by_image.get(image))

    def captions(self, image_id: str, collection: str | None = None) -> list[str]:
        """Returns all captions of an image, as the tables list them, each once; see ``location``."""
        return list(dict.fromkeys(self._captions.get((image_id, collection), ())))

    def _rows(self, table: str, ids: list[str]) -> Iterator[_CaptionedImage]:
        if not is_allowed(table):
            return
        try:
            dataset = storage.open_table(table)
            collection = collection_of_table(table)
            has_uri = "image_uri" in dataset.schema.names
            columns = ["image_id", "caption", *(["image_uri"] if has_uri else [])]
            chosen = id_filter(dataset, "image_id", ids)
            for batch in dataset.to_batches(columns=columns, filter=chosen):
                for image_id, caption, *uri in zip(
                    *(batch.column(name).to_pylist() for name in columns), strict=True
                ):
                    where = self._of_uri(uri[0]) if has_uri else self._of_dataset(table, image_id)
                    yield _CaptionedImage(image_id, collection, caption or "", where)
        except (CaptionerError, pa.ArrowException, OSError, KeyError):
            return  # an index moved away costs the pictures of it, not the report

    def _of_uri(self, uri: str | None) -> Location | None:
        if not uri:
            return None
        if storage.is_remote(uri):
            return uri if _host(uri) in self._hosts else None
        from captioner_core.images.listing import local_path

        try:
            return os.fsencode(local_path(uri))
        except ValueError:
            return None

    def _of_dataset(self, table: str, image_id: str) -> Location | None:
        if storage.is_remote(table):
            folder = layout.join(table.rstrip("/").rpartition("/")[0], layout.DATASET_IMAGES)
            name = file_name_of(image_id).decode("utf-8", "replace")
            return (
                layout.join(folder, name) if stays_below(image_id) and stays_below(name) else None
            )
        file_system, path = storage.resolve(table)
        if not isinstance(file_system, pafs.LocalFileSystem):
            return None
        return path_below(Path(path).parent / layout.DATASET_IMAGES, image_id)


def id_filter(table: pads.Dataset, column: str, ids: Iterable[str]) -> Any:
    """The filter for rows whose id is one of these, whichever type of text the table's writer chose."""
    kind = table.schema.field(column).type
    plain = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    field = (
        pc.field(column) if plain else pc.field(column).cast(pa.string())
    )  # statistics help where there's no cast
    return field.isin(pa.array(list(ids), kind if plain else pa.string()))


def _host(uri: str) -> tuple[str, str]:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri, ""
    return parts.scheme, parts.netloc
