"""What identifies an image where tables of several runs and datasets meet.

An image id is a path below an images folder, so two folders may hold different images under one id.
The *collection* names the folder or dataset that an image belongs to; every run and every dataset
states it once. Collection and image id together identify an image in every table.

Searches need one value for each image, so the two are joined into an *image key*:
``IMAGE_ID NUL COLLECTION``. NUL is the lowest character, so keys sort by image id first and by
collection second, and ties between matches are decided by the image id.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.images.listing import local_path
from captioner_core.io import outputs, storage
from captioner_core.options import check_collection
from captioner_core.tables import layout

COLLECTION = "collection"
"""The field of ``manifest.json`` and of ``dataset.json`` that states the collection of the own images."""
COLLECTIONS = "collections"
"""The field of ``manifest.json`` that lists the collections that were matched; earlier versions wrote none."""
IMAGE_KEY, QUERY_KEY, MATCH_KEY, BEST_MATCH_KEY = (
    "image_key",
    "query_key",
    "match_key",
    "best_match_key",
)
"""The columns that ``with_keys`` adds."""
_KEYED = (
    (IMAGE_KEY, "image_id", COLLECTION),
    (QUERY_KEY, "query_image_id", "query_collection"),
    (MATCH_KEY, "match_image_id", "match_collection"),
    (BEST_MATCH_KEY, "best_match_image_id", "best_match_collection"),
)
_SEPARATOR = "\0"
_DIGEST_LENGTH = 8
_READABLE_LENGTH = 80


class ImageIdentities(NamedTuple):
    """Two string arrays of the same length that identify images together."""

    image_id: pa.Array
    collection: pa.Array


def image_key(image_id: str, collection: str) -> str:
    """Returns the key of one image.

    >>> image_key("a/1.jpg", "day1") < image_key("a/1.jpg", "day2") < image_key("a/10.jpg", "day1")
    True
    """
    return f"{image_id}{_SEPARATOR}{collection}"


def image_keys(image_ids: pa.Array, collections: pa.Array | str) -> pa.Array:
    """Returns the keys of images, as a string array; null where the image id is null.

    Args:
      image_ids: string array, chunked or not.
      collections: string array of the same length, or the one collection of all.
    """
    return pc.binary_join_element_wise(image_ids, collections, _SEPARATOR)


def split_keys(keys: pa.Array) -> ImageIdentities:
    """Returns what the keys were joined from; null where a key is null.

    >>> [part.to_pylist() for part in split_keys(pa.array([image_key("a/1.jpg", "day1"), None]))]
    [['a/1.jpg', None], ['day1', None]]
    """
    # The last separator counts: a stranger's image id may hold a NUL, a collection never does.
    parts = pc.split_pattern(keys, _SEPARATOR, max_splits=1, reverse=True)
    return ImageIdentities(pc.list_element(parts, 0), pc.list_element(parts, 1))


def with_keys(table: pa.Table, own: str = "") -> pa.Table:
    """Returns a table with a column of keys, such as ``query_key``, for each column of image ids.

    Args:
      table: rows of a run's table.
      own: the collection of images for which the table has no column that names it.
    """
    for key, ids, collection in _KEYED:
        if ids in table.column_names:
            collections = table.column(collection) if collection in table.column_names else own
            table = table.append_column(key, image_keys(table.column(ids), collections))
    return table


def default_collection(images: str) -> str:
    """Returns the name of the collection that is made from an images folder.

    It is the folder's own name and eight digits of the SHA-256 of its whole path. So two days of
    one camera are two collections, and the same folder always has the same one.

    Args:
      images: a local path or a URI. Links in a local path are resolved.
    """
    if storage.is_remote(images):
        path = images.rstrip("/").encode("utf-8", "surrogateescape")
    else:
        path = os.path.realpath(local_path(images))
    *parents, name = path.split(b"/")
    if name == layout.DATASET_IMAGES.encode() and parents:
        name = parents[-1]  # "images" says nothing: the folder of the dataset does
    readable = re.sub(r"[^\w.-]", "-", name.decode("utf-8", "replace"))[:_READABLE_LENGTH]
    digest = hashlib.sha256(path).hexdigest()[:_DIGEST_LENGTH]
    return f"{readable or 'root'}-{digest}"


def collection_of_images(images: str, asked: str | None = None) -> str:
    """Returns the collection of a run over an images folder.

    Args:
      images: the folder.
      asked: the name that the user gave; None for the folder's own. The images folder of a
        dataset belongs to the dataset's collection.

    Raises:
      CaptionerError: the dataset's own file names a collection that breaks the rules.
    """
    if asked is not None:
        return asked
    folder, _, name = images.rstrip("/").rpartition("/")
    if name == layout.DATASET_IMAGES:
        stated = _stated(layout.join(folder or ".", layout.DATASET_SUMMARY))
        if stated is not None:
            return stated
    return default_collection(images)


def collection_of_table(uri: str) -> str:
    """Returns the collection of the images of a captions or features table.

    A run's table has the collection that its manifest states, a dataset's that of its
    ``dataset.json``. What earlier versions made states none: there it is made from the images folder.

    Args:
      uri: the folder of a run's table, a dataset's ``captions.parquet``, or one Parquet file of either.

    Raises:
      CaptionerError: the manifest or the dataset's file names a collection that breaks the rules.
    """
    folder, _, name = uri.rstrip("/").rpartition("/")
    folder = folder or ("/" if uri.startswith("/") else ".")
    run_dir = _run_dir_of(folder, name)
    if run_dir is not None:
        manifest = _read_object(layout.join(run_dir, layout.MANIFEST))
        if manifest is not None:
            return collection_of_run(manifest, uri)
    if name in (layout.CAPTIONS, layout.FEATURES):
        return default_collection(uri)  # a run without its manifest; nothing else names its images
    stated = _stated(layout.join(folder, layout.DATASET_SUMMARY))
    return stated or default_collection(layout.join(folder, layout.DATASET_IMAGES))


def collection_of_run(manifest: Mapping[str, Any], run_dir: str) -> str:
    """Returns the collection of a run's own images.

    Args:
      manifest: of the run.
      run_dir: the run's folder or one of its tables, for messages, and where the manifest names no images folder.

    Raises:
      CaptionerError: the manifest names a collection that breaks the rules.
    """
    stated = manifest.get(COLLECTION)
    if stated is not None:
        return _checked(stated, run_dir)
    options = manifest.get("options")
    images = options.get("images") if isinstance(options, dict) else None
    return default_collection(images if isinstance(images, str) else run_dir)


def _run_dir_of(folder: str, name: str) -> str | None:
    """The folder of the run that ``folder/name``, a table or a file of one, may belong to."""
    if name in (layout.CAPTIONS, layout.FEATURES):
        return folder
    parent, _, table = folder.rpartition("/")
    return parent if table in (layout.CAPTIONS, layout.FEATURES) and parent else None


def _stated(uri: str) -> str | None:
    summary = _read_object(uri)
    stated = None if summary is None else summary.get(COLLECTION)
    return None if stated is None else _checked(stated, uri)


def _read_object(uri: str) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file, or it holds what whoever needs the file complains of."""
    return outputs.parse_object(storage.read_bytes(uri)) if storage.exists(uri) else None


def _checked(stated: object, where: str) -> str:
    if not isinstance(stated, str):
        raise CaptionerError(
            f"{where!r} states the collection {stated!r}, which is no text; mend the file"
        )
    check_collection(where, stated)
    return stated
