"""The inverted index: distinct captions with their vectors, and the images that have each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.io.arrays import map_arrays, write_arrays
from captioner_core.matching.exact_search.arrays import (
    BoolArray,
    Float32Array,
    Int64Array,
    positions_in,
    run_starts,
)
from captioner_core.matching.exact_search.projection import ProjectedVectors, project_vectors
from captioner_core.runs.identity import image_key
from captioner_core.tables.schemas import GENERATED, HUMAN
from captioner_core.text.encoders.base import TextEncoder

RECORDS = pa.schema([("image_key", pa.string()), ("caption", pa.string()), ("source", pa.string())])
"""The form in which captions enter the search: one row for each caption of each image.

``runs.identity`` explains image keys. ``source`` is ``generated`` or ``human``.
"""
ENCODED_AT_ONCE = 65_536
"""Captions that exist as Python strings at a time."""


@dataclass(frozen=True)
class CaptionSet:
    """Images with all their captions, in which each distinct caption is encoded once.

    An image number is a position in ``image_keys``, a caption number a position in ``captions``.
    Both are sorted as text, so comparing two numbers decides a tie as comparing the texts would.

    A posting is one caption of one image from one source, as in an inverted index. Postings are
    sorted by caption, then by image, with generated captions before human ones.

    The arrays may be in memory or mapped from a file.

    Args:
      image_keys: string [images], distinct and ascending.
      captions: string [captions], distinct and ascending.
      vectors: float32 [captions, dim], as the encoder returned them: unit rows, or zeros.
      posting_starts: int64 [captions + 1]. The postings of caption ``c`` are those from
        ``posting_starts[c]`` up to ``posting_starts[c + 1]``.
      posting_image: int64 [postings], the image number.
      is_generated: bool [postings], whether a captioner wrote the caption.
      encoder: fingerprint of the encoder that made the vectors.
      projection: the projected vectors, if the set can be searched.
      is_singleton: bool [images], which images form a query group of their own, if the set holds
        queries.
    """

    image_keys: pa.Array
    captions: pa.Array
    vectors: Float32Array
    posting_starts: Int64Array
    posting_image: Int64Array
    is_generated: BoolArray
    encoder: str
    projection: ProjectedVectors | None = None
    is_singleton: BoolArray | None = None

    @cached_property
    def zero_vector_captions(self) -> Int64Array:
        """The numbers of captions without any word known to the encoder; they match nothing."""
        return np.flatnonzero(~self.vectors.any(axis=1))

    @cached_property
    def posting_counts(self) -> Int64Array:
        """int64 [captions], how many postings each caption has."""
        return np.diff(self.posting_starts)

    @cached_property
    def posting_caption(self) -> Int64Array:
        """int64 [postings], the caption number."""
        return np.repeat(np.arange(len(self.captions)), self.posting_counts)

    @cached_property
    def single_image_captions(self) -> tuple[Int64Array, Int64Array]:
        """The numbers of the captions that only one image has, and that image's number for each.

        Both arrays are sorted by the image.
        """
        if not len(self.captions):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        lowest = np.minimum.reduceat(self.posting_image, self.posting_starts[:-1])
        highest = np.maximum.reduceat(self.posting_image, self.posting_starts[:-1])
        captions = np.flatnonzero(lowest == highest)
        captions = captions[np.argsort(lowest[captions], kind="stable")]
        return captions, lowest[captions]

    def image_numbers(self, image_keys: pa.Array) -> Int64Array:
        """Returns the number of each image, or -1 if the image is not in this set."""
        return positions_in(self.image_keys, image_keys)


def make_records(
    image_ids: Sequence[str], captions: Sequence[str], sources: Sequence[str], collection: str = ""
) -> pa.Table:
    """Returns a table of captions, in the schema ``RECORDS``, for images of one collection.

    Args:
      image_ids: the image of each caption.
      captions: the captions.
      sources: ``generated`` or ``human``, for each caption.
      collection: the images' collection.
    """
    keys = [image_key(image_id, collection) for image_id in image_ids]
    columns = [pa.array(values, pa.string()) for values in (keys, captions, sources)]
    return pa.table(columns, schema=RECORDS)


def make_caption_set(records: pa.Table, encoder: TextEncoder, *, searched: bool) -> CaptionSet:
    """Encodes captions and indexes the images that have them.

    Args:
      records: captions in the schema ``RECORDS``, in any order. Equal rows count once.
      encoder: the encoder that turns captions into unit vectors.
      searched: whether the set will be searched. A set of queries needs no projection.
    """
    image_keys, image = _sorted_distinct(records.column("image_key"))
    captions, caption = _sorted_distinct(records.column("caption"))
    is_generated = pc.equal(records.column("source"), GENERATED).to_numpy().astype(bool)
    order = np.lexsort((~is_generated, image, caption))
    kept = order[run_starts(caption[order], image[order], is_generated[order])]
    vectors = np.empty((len(captions), encoder.dim), np.float32)
    for start in range(0, len(captions), ENCODED_AT_ONCE):
        texts = captions.slice(start, ENCODED_AT_ONCE).to_pylist()
        vectors[start : start + len(texts)] = encoder.encode(texts)
    return CaptionSet(
        image_keys=image_keys,
        captions=captions,
        vectors=vectors,
        posting_starts=np.searchsorted(caption[kept], np.arange(len(captions) + 1)),
        posting_image=image[kept],
        is_generated=is_generated[kept],
        encoder=encoder.fingerprint,
        projection=project_vectors(vectors) if searched else None,
    )


def _sorted_distinct(column: pa.ChunkedArray) -> tuple[pa.Array, Int64Array]:
    """Returns a column's distinct strings, ascending, and each row's position among them."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    # Arrow sorts strings by their UTF-8 bytes, which is the order of code points, as in Python.
    order = pc.array_sort_indices(encoded.dictionary)
    position = np.empty(len(order), np.int64)
    position[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), position[encoded.indices.to_numpy()]


def source_names(is_generated: BoolArray) -> pa.Array:
    """Returns ``generated`` or ``human`` for each value, as a string array."""
    names = pa.DictionaryArray.from_arrays(is_generated.astype(np.int8), [HUMAN, GENERATED])
    return names.cast(pa.string())


def write_caption_set(caption_set: CaptionSet, uri: str) -> None:
    """Writes a set as one Arrow file, which ``open_caption_set`` maps."""
    arrays = {
        "image_keys": caption_set.image_keys,
        "captions": caption_set.captions,
        "vectors": caption_set.vectors,
        "posting_starts": caption_set.posting_starts,
        "posting_image": caption_set.posting_image,
        "is_generated": caption_set.is_generated,
    }
    if caption_set.projection is not None:
        arrays["basis"] = caption_set.projection.basis
        arrays["coordinates"] = caption_set.projection.coordinates
    if caption_set.is_singleton is not None:
        arrays["is_singleton"] = caption_set.is_singleton
    write_arrays(uri, arrays, {"encoder": caption_set.encoder})


def open_caption_set(uri: str) -> CaptionSet:
    """Maps a set that ``write_caption_set`` wrote. Its arrays are read only as they are used.

    Raises:
      CaptionerError: the file is not a caption set.
    """
    arrays, metadata = map_arrays(uri)
    try:
        projection = None
        if "basis" in arrays:
            projection = ProjectedVectors(arrays.pop("basis"), arrays.pop("coordinates"))
        return CaptionSet(**arrays, encoder=metadata["encoder"], projection=projection)
    except (KeyError, TypeError) as error:
        raise CaptionerError(
            f"{uri!r} holds no captions to match ({error!r}); match again"
        ) from error
