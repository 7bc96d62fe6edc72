"""How captions are parted for a job: first by image, then by the caption that sorts first among an image's.

An image has all its captions in one part, so parts answer for different images. Images that share
their only caption are in one part, so it is encoded and searched once, however many they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.matching.caption_set import Int64Array, one_chunk

Hashes = npt.NDArray[np.uint64]


def partition_by_hash(table: pa.Table, column: str, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """A table in parts, by a column of strings: equal ones are in the same part, here and on any other machine."""
    yield from _parts(
        table, (_hashes(one_chunk(table.column(column))) % np.uint64(parts)).astype(np.int64)
    )


def by_first_caption(records: pa.Table, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """Captions in parts, by the first caption of their image; each image's must all be in the table."""
    first = records.group_by("image_key").aggregate([("caption", "min")])
    place = one_chunk(
        pc.index_in(records.column("image_key"), value_set=one_chunk(first.column("image_key")))
    )
    part = (_hashes(one_chunk(first.column("caption_min"))) % np.uint64(parts)).astype(np.int64)
    yield from _parts(records, part[place.to_numpy()])


def _parts(table: pa.Table, part: Int64Array) -> Iterator[tuple[int, pa.Table]]:
    if not len(part):
        return
    numbers, starts = np.unique(part[order := np.argsort(part, kind="stable")], return_index=True)
    whole = table.take(pa.array(order)).combine_chunks()
    for number, first, last in zip(numbers.tolist(), starts, [*starts[1:], len(part)], strict=True):
        # a slice would take the whole table along when it is sent
        yield number, whole.take(pa.array(np.arange(first, last)))


def unchanged(
    now: pa.Table, before: pa.Table
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whose images are in both tables with the same rows; bool for each row of either."""
    (one, one_place), (other, other_place) = _image_digests(now), _image_digests(before)
    same = np.intersect1d(one, other)
    return np.isin(one, same)[one_place], np.isin(other, same)[other_place]


def _image_digests(table: pa.Table) -> tuple[Hashes, Int64Array]:
    """A number for each image, of its key and all its rows in any order; and which is each row's."""
    keys = one_chunk(table.column("image_key")).dictionary_encode()
    place = keys.indices.to_numpy().astype(np.int64)
    # one after the other, so that a value that moves to another column counts
    row = np.zeros(len(table), np.uint64)
    for name in table.column_names:
        row = _mixed(row + _hashes(one_chunk(table.column(name))))
    digests = _hashes(keys.dictionary)
    np.add.at(digests, place, _mixed(row))
    return digests, place


def _mixed(numbers: Hashes) -> Hashes:
    """Numbers that differ in one bit become numbers that differ in many.

    Steele, Lea and Flood 2014 (https://doi.org/10.1145/2660193.2660195), the finalizer of SplitMix64.
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _hashes(values: pa.Array) -> Hashes:
    """64 bits of each string, the same in every process."""
    encoded = values.dictionary_encode()
    hashed = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False), categorize=False)
    return np.asarray(np.asarray(hashed, np.uint64)[encoded.indices.to_numpy()])


def concat_tables(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """All rows in one table of a schema."""
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
