"""Columns of tables that users bring, in whatever type their tool wrote them.

pandas writes categories, Polars large or view strings, Spark binary columns, and other tools several
captions in a list. These functions turn a column into plain strings where its meaning is clear, and
name the table, the column and the row where it is not. Row numbers count from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError
from captioner_core.io.storage import first_line, is_remote
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split

_IS_LIST = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_IS_STRING = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_IS_BINARY = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_ROW = Callable[[int], int]
"""Maps an element's position in an array to the number of its row in the table."""


def text_column(
    column: pa.Array | pa.ChunkedArray, what: str, uri: str, first_row: int = 1
) -> pa.Array:
    """Returns a column of text as plain strings, none of them null.

    Strings of any width, categories (dictionaries) and bytes in UTF-8 are text.

    Args:
      column: the column, or a batch of it.
      what: the column's name, for messages.
      uri: the table, for messages.
      first_row: number of the batch's first row in the table.

    Returns:
      string [rows].

    Raises:
      CaptionerError: the column is of another type, a value is null, or bytes are not UTF-8.
    """
    return _as_text(_plain(column), what, uri, lambda position: first_row + position)


def split_column(column: pa.Array | pa.ChunkedArray, uri: str, first_row: int = 1) -> pa.Array:
    """Returns a dataset's column ``split`` as the names train, dev and test.

    Args:
      column: the column, or a batch of it.
      uri: the table, for messages.
      first_row: number of the batch's first row in the table.

    Returns:
      string [rows].

    Raises:
      CaptionerError: a split is null, no text, or not known.
    """
    names = text_column(column, "split", uri, first_row)
    encoded = names.dictionary_encode()
    known = [canonical_split(name) for name in encoded.dictionary.to_pylist()]
    if None in known:
        unknown = encoded.dictionary[known.index(None)].as_py()
        row = first_row + pc.index(names, unknown).as_py()
        raise _refused(uri, "split", row, f"{unknown!r} is no split; write {SPLIT_NAMES}")
    return pa.array(known, pa.string()).take(encoded.indices)


def explode_captions(
    batch: pa.RecordBatch, uri: str, column: str = "caption", first_row: int = 1
) -> pa.RecordBatch:
    """Returns the rows of a table with a single caption in each, as plain strings.

    A row with a list of captions becomes a row for each of them, with the other columns repeated; a
    row with an empty list becomes none.

    Args:
      batch: rows of the table.
      uri: the table, for messages.
      column: the name of the column with captions.
      first_row: number of the batch's first row in the table.

    Raises:
      CaptionerError: the captions are neither text nor lists of text, one is null, or bytes are not
        UTF-8.
    """
    values = _plain(batch.column(column))
    if not any(is_list(values.type) for is_list in _IS_LIST):
        texts = text_column(values, column, uri, first_row)
        return batch.set_column(batch.schema.get_field_index(column), column, texts)
    _refuse_null(values, column, uri, lambda position: first_row + position)
    parents = pc.list_parent_indices(values)

    def row(position: int) -> int:
        return first_row + int(parents[position].as_py())

    texts = _as_text(_plain(pc.list_flatten(values)), column, uri, row)
    columns = {name: batch.column(name) for name in batch.schema.names if name != column}
    # pyarrow cannot take rows of the view types, so these are made plain first.
    repeated = {name: _plain(values).take(parents) for name, values in columns.items()}
    repeated[column] = texts
    return pa.record_batch({name: repeated[name] for name in batch.schema.names})


def vector_column(column: pa.Array | pa.ChunkedArray, what: str, uri: str) -> pa.Array:
    """Returns a column of vectors as fixed-size lists, as other tools' plain lists of one length are too.

    Args:
      column: the column, or a batch of it.
      what: the column's name, for messages.
      uri: the table, for messages.

    Raises:
      CaptionerError: the column holds no lists, nulls, or lists of several lengths.
    """
    values = _plain(column)
    if pa.types.is_fixed_size_list(values.type) and not values.null_count:
        return values
    if not any(is_list(values.type) for is_list in _IS_LIST):
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: {values.type} is no list; extract the features again"
        )
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(lengths) > 1 or None in lengths:
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: its vectors are null or of several lengths; extract the features again"
        )
    return pa.FixedSizeListArray.from_arrays(pc.list_flatten(values), lengths[0] if lengths else 0)


def is_view(kind: pa.DataType) -> bool:
    """Returns whether a type is one of the view types, which pyarrow's filters can't read."""
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


@contextmanager
def readable_table(uri: str) -> Iterator[None]:
    """Turns what pyarrow raises while the block reads a table into one line.

    Raises:
      CaptionerError: the table is damaged, its parts don't fit together, or a column is there twice.
    """
    try:
        yield
    except pa.ArrowException as error:
        raise CaptionerError(
            f"table {uri!r} can't be read ({first_line(error)}); write it again"
        ) from error
    except OSError as error:
        if error.errno is not None or is_remote(uri):
            raise  # the disk's or the network's fault, not the table's
        raise CaptionerError(
            f"table {uri!r} can't be read ({first_line(error)}); write it again"
        ) from error


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns a column as one array, without dictionary, run ends, extension or view type."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        return _plain(array.storage)
    if pa.types.is_dictionary(array.type):
        return _plain(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return _plain(pc.run_end_decode(array))
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    if pa.types.is_string_view(array.type):
        return array.cast(pa.large_string())
    return array


def _as_text(array: pa.Array, what: str, uri: str, row: _ROW) -> pa.Array:
    _refuse_null(array, what, uri, row)
    if pa.types.is_null(array.type):  # without rows, or it would be refused
        return pa.array([], pa.string())
    if not any(is_text(array.type) for is_text in (*_IS_STRING, *_IS_BINARY)):
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: it holds {array.type}; write it as text"
        )
    data = array.cast(pa.large_binary())  # Parquet's strings may be any bytes
    try:
        return data.cast(pa.string())
    except pa.ArrowInvalid as error:
        for position, value in enumerate(data.to_pylist()):
            if not _is_utf8(value):
                raise _refused(
                    uri, what, row(position), f"{value[:40]!r} is not UTF-8; write it as text"
                ) from error
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: {first_line(error)}; write it in smaller row groups"
        ) from error


def _refuse_null(array: pa.Array, what: str, uri: str, row: _ROW) -> None:
    if array.null_count:
        position = pc.index(array.is_null(), True).as_py()
        raise _refused(
            uri, what, row(position), f"it is null; write the {what} or take the row out"
        )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _refused(uri: str, what: str, row: int, message: str) -> CaptionerError:
    return CaptionerError(f"table {uri!r}, column {what!r}, row {row}: {message}")
