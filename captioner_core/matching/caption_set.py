"""Images and their encoded captions, in a form that is searched in memory and mapped from a file alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.io.arrays import map_arrays, write_arrays
from captioner_core.matching.outline import ProjectedVectors, make_outline
from captioner_core.runs.identity import image_key
from captioner_core.tables.schemas import GENERATED, HUMAN
from captioner_core.text.encoders.base import TextEncoder

RECORDS = pa.schema([("image_key", pa.string()), ("caption", pa.string()), ("source", pa.string())])
"""What captions come as: one row for each caption of each image; see ``identity`` for keys."""
_ENCODED_AT_ONCE = 65_536  # captions that are Python strings at a time

Floats = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CaptionSet:
    """Some images with all their captions, each distinct caption encoded once.

    An entry is one caption of one image from one source; entries are in order of caption, then image,
    then source, and so are captions and images by their text: numbers decide ties as the texts would.

    Args:
      image_keys: string [images], rising.
      captions: string [captions], distinct and rising.
      vectors: float32 [captions, dim], as the encoder made them.
      starts: int64 [captions + 1], where the entries of each caption begin.
      image: int64 [entries], the image of each.
      generated: bool [entries], whether a captioner wrote it.
      encoder: fingerprint of what made the vectors.
      outline: of the vectors, where the set is one to search.
      apart: bool [images], which are a group of their own, where the set is one that asks.
    """

    image_keys: pa.Array
    captions: pa.Array
    vectors: Floats
    starts: Int64Array
    image: Int64Array
    generated: npt.NDArray[np.bool_]
    encoder: str
    outline: ProjectedVectors | None = None
    apart: npt.NDArray[np.bool_] | None = None

    @cached_property
    def unknown(self) -> Int64Array:
        """Captions without a known word, which match nothing."""
        return np.flatnonzero(~self.vectors.any(axis=1))

    @cached_property
    def shared(self) -> Int64Array:
        """How many entries each caption has."""
        return np.diff(self.starts)

    @cached_property
    def caption(self) -> Int64Array:
        """int64 [entries], the caption of each."""
        return np.repeat(np.arange(len(self.captions)), self.shared)

    @cached_property
    def lone(self) -> tuple[Int64Array, Int64Array]:
        """The captions that one image has and no other, in order of that image; and the image of each."""
        if not len(self.captions):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        lowest, highest = (
            ufunc.reduceat(self.image, self.starts[:-1]) for ufunc in (np.minimum, np.maximum)
        )
        alone = np.flatnonzero(lowest == highest)
        alone = alone[np.argsort(lowest[alone], kind="stable")]
        return alone, lowest[alone]

    def places(self, image_keys: pa.Array) -> Int64Array:
        """int64, the number of each of some images here; -1 of those that are not."""
        return places_in(self.image_keys, image_keys)


def places_in(listed: pa.Array, wanted: pa.Array) -> Int64Array:
    """int64 [wanted], where each value is listed; -1 where it isn't."""
    found = pc.fill_null(pc.index_in(wanted, value_set=listed), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def first_of_runs(*columns: npt.NDArray[np.generic]) -> Int64Array:
    """int64, the rows that differ in any column from the one before."""
    again = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    return np.flatnonzero(np.append(True, ~again)[: len(columns[0])])


def make_records(
    image_ids: Sequence[str], captions: Sequence[str], sources: Sequence[str], collection: str = ""
) -> pa.Table:
    """Returns records of captions of images that belong to one collection.

    Args:
      image_ids: the image of each caption.
      captions: the captions.
      sources: ``generated`` or ``human`` for each.
      collection: the images' collection.
    """
    keys = [image_key(image_id, collection) for image_id in image_ids]
    return pa.table(
        [pa.array(listed, pa.string()) for listed in (keys, captions, sources)], schema=RECORDS
    )


def make_caption_set(records: pa.Table, encoder: TextEncoder, *, searched: bool) -> CaptionSet:
    """Encodes captions.

    Args:
      records: of the schema ``RECORDS``, in any order; what is there twice counts once.
      encoder: puts captions into the space of the cosine.
      searched: whether the set is to be searched, not only asked for.
    """
    image_keys, image = _ranked(records.column("image_key"))
    captions, caption = _ranked(records.column("caption"))
    generated = pc.equal(records.column("source"), GENERATED).to_numpy().astype(bool)
    # generated before human, as their names sort
    order = np.lexsort((~generated, image, caption))
    caption, image, generated = caption[order], image[order], generated[order]
    kept = first_of_runs(caption, image, generated)
    vectors = np.empty((len(captions), encoder.dim), np.float32)
    for start in range(0, len(captions), _ENCODED_AT_ONCE):
        texts = captions.slice(start, _ENCODED_AT_ONCE).to_pylist()
        vectors[start : start + len(texts)] = encoder.encode(texts)
    return CaptionSet(
        image_keys=image_keys,
        captions=captions,
        vectors=vectors,
        starts=np.searchsorted(caption[kept], np.arange(len(captions) + 1)),
        image=image[kept],
        generated=generated[kept],
        encoder=encoder.fingerprint,
        outline=make_outline(vectors) if searched else None,
    )


def _ranked(column: pa.ChunkedArray) -> tuple[pa.Array, Int64Array]:
    """The distinct values of a column of strings, rising as Python sorts them, and the place of each row's."""
    encoded = pc.dictionary_encode(one_chunk(column))
    order = pc.array_sort_indices(
        encoded.dictionary
    )  # by UTF-8 bytes, which is the order of code points
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), rank[encoded.indices.to_numpy()]


def one_chunk(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays([pa.array([], column.type), *column.chunks])
    )


def source_names(generated: npt.NDArray[np.bool_]) -> pa.Array:
    """``generated`` or ``human`` for each."""
    return pa.DictionaryArray.from_arrays(generated.astype(np.int8), [HUMAN, GENERATED]).cast(
        pa.string()
    )


def write_caption_set(made: CaptionSet, uri: str) -> None:
    """Writes a set as one Arrow file."""
    outline = made.outline
    write_arrays(
        uri,
        {
            "image_keys": made.image_keys,
            "captions": made.captions,
            "vectors": made.vectors,
            "starts": made.starts,
            "image": made.image,
            "generated": made.generated,
            **({"basis": outline.basis, "coarse": outline.coarse} if outline else {}),
            **({} if made.apart is None else {"apart": made.apart}),
        },
        {"encoder": made.encoder},
    )


def open_caption_set(uri: str) -> CaptionSet:
    """Maps a set that ``write_caption_set`` wrote; its arrays are read as they are used.

    Raises:
      CaptionerError: the file is of another kind.
    """
    arrays, facts = map_arrays(uri)
    try:
        outline = (
            ProjectedVectors(arrays.pop("basis"), arrays.pop("coarse"))
            if "basis" in arrays
            else None
        )
        return CaptionSet(**arrays, encoder=facts["encoder"], outline=outline)
    except (KeyError, TypeError) as error:
        raise CaptionerError(
            f"{uri!r} holds no captions to match ({error!r}); match again"
        ) from error
