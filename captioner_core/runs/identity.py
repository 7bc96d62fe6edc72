"""Identifies images across runs and datasets by collection and image id.

An image id is a path below an images folder, such as ``2024/IMG_1.jpg``. Two folders may hold
different images with the same id, so the image id alone does not identify an image. The
*collection* is the name of the folder or dataset that the image belongs to. Each run states it
once in its manifest, and each dataset once in its ``dataset.json``. Collection and image id
together identify an image in every table.

Searches need a single value for each image, so both are joined to an *image key*:
``IMAGE_ID NUL COLLECTION``. NUL is the lowest character, so keys sort by image id first and by
collection second. Matches with equal scores are therefore ordered by their image ids.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.images.listing import local_path
from captioner_core.io import outputs, storage
from captioner_core.io.json_text import JsonObject
from captioner_core.options import check_collection
from captioner_core.tables import layout

COLLECTION: Final = "collection"
"""The field of ``manifest.json`` and ``dataset.json`` that names the collection of their images."""
COLLECTIONS: Final = "collections"
"""The field of ``manifest.json`` that lists all collections that a run matched.

Manifests of versions that did not know collections lack it.
"""
IMAGE_KEY = "image_key"
QUERY_KEY = "query_key"
MATCH_KEY = "match_key"
BEST_MATCH_KEY = "best_match_key"

# Each key column with the columns that it is made from.
_KEY_COLUMNS = (
    (IMAGE_KEY, "image_id", COLLECTION),
    (QUERY_KEY, "query_image_id", "query_collection"),
    (MATCH_KEY, "match_image_id", "match_collection"),
    (BEST_MATCH_KEY, "best_match_image_id", "best_match_collection"),
)
_SEPARATOR = "\0"
_DIGEST_LENGTH = 8
_READABLE_LENGTH = 80


class ImageIdentities(NamedTuple):
    """The image ids and collections of some images, as two string arrays of equal length."""

    image_id: pa.Array
    collection: pa.Array


def image_key(image_id: str, collection: str) -> str:
    """Returns the key of one image.

    >>> image_key("a/1.jpg", "day1") < image_key("a/1.jpg", "day2") < image_key("a/10.jpg", "day1")
    True
    """
    return f"{image_id}{_SEPARATOR}{collection}"


def image_keys(image_ids: pa.Array, collections: pa.Array | str) -> pa.Array:
    """Returns the keys of images as a string array, with null where the image id is null.

    Args:
      image_ids: string array, chunked or not.
      collections: string array of the same length, or the one collection of all images.
    """
    return pc.binary_join_element_wise(image_ids, collections, _SEPARATOR)


def split_keys(keys: pa.Array) -> ImageIdentities:
    """Returns the image ids and collections of keys, with null where a key is null.

    >>> [part.to_pylist() for part in split_keys(pa.array([image_key("a/1.jpg", "day1"), None]))]
    [['a/1.jpg', None], ['day1', None]]
    """
    # Split at the last NUL: an image id from outside may contain one, a collection cannot.
    parts = pc.split_pattern(keys, _SEPARATOR, max_splits=1, reverse=True)
    return ImageIdentities(pc.list_element(parts, 0), pc.list_element(parts, 1))


def with_keys(table: pa.Table, run_collection: str = "") -> pa.Table:
    """Returns a table with a key column, such as ``query_key``, for each column of image ids.

    Args:
      table: rows of one of a run's tables.
      run_collection: the collection of image ids for which the table has no collection column.
    """
    for key, ids, collection in _KEY_COLUMNS:
        if ids in table.column_names:
            collections = (
                table.column(collection) if collection in table.column_names else run_collection
            )
            table = table.append_column(key, image_keys(table.column(ids), collections))
    return table


def default_collection(images: str) -> str:
    """Returns the collection of an images folder that nobody named.

    It consists of the folder's name and eight digits of the SHA-256 of its whole path. So the
    same folder always has the same collection, and two folders of the same name have different
    ones.

    Args:
      images: a local path or a URI. Links in a local path are resolved.
    """
    path = (
        images.rstrip("/").encode("utf-8", "surrogateescape")
        if storage.is_remote(images)
        else os.path.realpath(local_path(images))
    )
    *parents, name = path.split(b"/")
    if name == layout.DATASET_IMAGES.encode() and parents:
        name = parents[-1]  # Every dataset's folder is called "images", so use its parent's name.
    readable = re.sub(r"[^\w.-]", "-", name.decode("utf-8", "replace"))[:_READABLE_LENGTH]
    digest = hashlib.sha256(path).hexdigest()[:_DIGEST_LENGTH]
    return f"{readable or 'root'}-{digest}"


def collection_of_images(images: str, requested: str | None = None) -> str:
    """Returns the collection of a run over an images folder.

    Args:
      images: the images folder.
      requested: the name that the user gave. If it is None, the images folder of a dataset gets
        the dataset's collection, and any other folder its default collection.

    Raises:
      CaptionerError: the dataset's ``dataset.json`` states an invalid collection.
    """
    if requested is not None:
        return requested
    folder, _, name = images.rstrip("/").rpartition("/")
    if name == layout.DATASET_IMAGES:
        stated = _read_collection(layout.join(folder or ".", layout.DATASET_SUMMARY))
        if stated is not None:
            return stated
    return default_collection(images)


def collection_of_table(uri: str) -> str:
    """Returns the collection of the images of a captions or features table.

    For a run's table this is the collection in the run's manifest, for a dataset's table the one
    in ``dataset.json``. Earlier versions stated none in these files; then it is the default
    collection of the images folder.

    Args:
      uri: the folder of a run's table, a dataset's ``captions.parquet``, or one Parquet file of
        either.

    Raises:
      CaptionerError: the manifest or ``dataset.json`` states an invalid collection.
    """
    folder, _, name = uri.rstrip("/").rpartition("/")
    folder = folder or ("/" if uri.startswith("/") else ".")
    run_dir = _run_dir_of(folder, name)
    if run_dir is not None:
        manifest = _read_object(layout.join(run_dir, layout.MANIFEST))
        if manifest is not None:
            return collection_of_run(manifest, uri)
    if name in (layout.CAPTIONS, layout.FEATURES):
        return default_collection(uri)  # Without its manifest, nothing names the run's images.
    stated = _read_collection(layout.join(folder, layout.DATASET_SUMMARY))
    return stated or default_collection(layout.join(folder, layout.DATASET_IMAGES))


def collection_of_run(manifest: Mapping[str, Any], run_dir: str) -> str:
    """Returns the collection of a run's own images.

    Args:
      manifest: the run's manifest.
      run_dir: the run's folder or one of its tables. It is named in messages, and stands in for
        the images folder if the manifest does not name that.

    Raises:
      CaptionerError: the manifest states an invalid collection.
    """
    stated = manifest.get(COLLECTION)
    if stated is not None:
        return _check_stated(stated, run_dir)
    options = manifest.get("options")
    images = options.get("images") if isinstance(options, dict) else None
    return default_collection(images if isinstance(images, str) else run_dir)


def _run_dir_of(folder: str, name: str) -> str | None:
    """Returns the folder of the run that a table may belong to, or None.

    Args:
      folder: the parent of ``name``.
      name: the last component of the table's URI: the table's folder or one of its files.
    """
    if name in (layout.CAPTIONS, layout.FEATURES):
        return folder
    parent, _, table = folder.rpartition("/")
    return parent if table in (layout.CAPTIONS, layout.FEATURES) and parent else None


def _read_collection(uri: str) -> str | None:
    stated = (_read_object(uri) or {}).get(COLLECTION)
    return None if stated is None else _check_stated(stated, uri)


def _read_object(uri: str) -> JsonObject | None:
    """Returns the JSON object in a file; None if the file is absent or holds anything else.

    A damaged file is not reported here: the code that needs its other contents does that.
    """
    return outputs.parse_object(storage.read_bytes(uri)) if storage.exists(uri) else None


def _check_stated(stated: object, source: str) -> str:
    if not isinstance(stated, str):
        raise CaptionerError(
            f"{source!r} states the collection {stated!r}, which is not a text; correct the file"
        )
    check_collection(source, stated)
    return stated
