"""Divides captions into partitions for a distributed job, and compares two versions of them.

Captions are partitioned twice. First by image: there an image's current captions meet those of an
earlier run. Then by the caption that sorts first among an image's captions, for encoding and
searching. Both keep all captions of an image in one partition, so partitions have results for
different images. Images that share their only caption are in one partition as well, so it is
encoded and searched once, however many images have it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from captioner_core.matching.exact_search.arrays import BoolArray, Int64Array, positions_in

Hashes = npt.NDArray[np.uint64]


def partition_by_hash(
    table: pa.Table, column: str, n_partitions: int
) -> Iterator[tuple[int, pa.Table]]:
    """Partitions a table by a column of strings.

    Equal strings are in the same partition, in this process and on any other machine.

    Args:
      table: the rows.
      column: the name of the column.
      n_partitions: the number of partitions.

    Yields:
      The number of a partition that has rows, and these rows.
    """
    partition = _hash_strings(table.column(column).combine_chunks()) % np.uint64(n_partitions)
    yield from _split(table, partition.astype(np.int64))


def partition_by_first_caption(
    records: pa.Table, n_partitions: int
) -> Iterator[tuple[int, pa.Table]]:
    """Partitions captions by the caption that sorts first among those of the image.

    Args:
      records: all captions of some images, with columns ``image_key`` and ``caption``.
      n_partitions: the number of partitions.

    Yields:
      The number of a partition that has rows, and these rows.
    """
    first = records.group_by("image_key").aggregate([("caption", "min")])
    hashes = _hash_strings(first.column("caption_min").combine_chunks())
    partition = (hashes % np.uint64(n_partitions)).astype(np.int64)
    image = positions_in(
        first.column("image_key").combine_chunks(), records.column("image_key").combine_chunks()
    )
    yield from _split(records, partition[image])


def _split(table: pa.Table, partition: Int64Array) -> Iterator[tuple[int, pa.Table]]:
    table = table.combine_chunks()
    order = np.argsort(partition, kind="stable")
    numbers, starts = np.unique(partition[order], return_index=True)
    # The first piece, before the first start, is empty.
    for number, rows in zip(numbers.tolist(), np.split(order, starts)[1:], strict=True):
        # A slice would carry the whole table with it when it is sent to another worker.
        yield number, table.take(pa.array(rows))


class UnchangedRows(NamedTuple):
    """Which rows of two tables belong to images that are the same in both.

    Args:
      current: bool, for each row of the current table.
      previous: bool, for each row of the previous table.
    """

    current: BoolArray
    previous: BoolArray


def find_unchanged(current: pa.Table, previous: pa.Table) -> UnchangedRows:
    """Finds the images that have the same rows in both tables, in any order.

    Args:
      current: captions, with a column ``image_key``.
      previous: captions with the same columns.
    """
    current_digests, current_image = _image_digests(current)
    previous_digests, previous_image = _image_digests(previous)
    return UnchangedRows(
        np.isin(current_digests, previous_digests)[current_image],
        np.isin(previous_digests, current_digests)[previous_image],
    )


def _image_digests(table: pa.Table) -> tuple[Hashes, Int64Array]:
    """Returns a digest of each image's key and rows, and the position of each row's image."""
    keys = table.column("image_key").combine_chunks().dictionary_encode()
    image = keys.indices.to_numpy().astype(np.int64)
    # Columns are mixed in one after the other, so that a value that moves to another column counts.
    row_digests = np.zeros(len(table), np.uint64)
    for name in table.column_names:
        row_digests = _mix_bits(row_digests + _hash_strings(table.column(name).combine_chunks()))
    # The rows are added up, so their order does not count.
    digests = _hash_strings(keys.dictionary)
    np.add.at(digests, image, _mix_bits(row_digests))
    return digests, image


def _mix_bits(numbers: Hashes) -> Hashes:
    """Mixes the bits of numbers, so that inputs that differ in one bit differ in many afterwards.

    This is the finalizer of SplitMix64: Steele, Lea and Flood 2014
    (https://doi.org/10.1145/2660193.2660195).
    """
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _hash_strings(values: pa.Array) -> Hashes:
    """Returns a 64-bit hash of each string, which is the same in every process."""
    encoded = values.dictionary_encode()
    strings = encoded.dictionary.to_numpy(zero_copy_only=False)
    hashes = np.asarray(pd.util.hash_array(strings, categorize=False), np.uint64)
    return np.asarray(hashes[encoded.indices.to_numpy()])


def concat_tables(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    """Returns the rows of all tables in one table, cast to a schema."""
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
