"""Reads columns of tables that users bring, whichever Arrow type their tool wrote.

pandas writes categories, Polars writes large strings or string views, Spark writes binary columns,
and some tools write several captions as a list. These functions convert such columns to plain
strings. If the meaning of a value is not clear, the error names the table, the column and the
row; rows are numbered from 1.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc

from captioner_core.errors import CaptionerError, first_line
from captioner_core.security.uris import is_remote
from captioner_core.tables.splits import SPLIT_NAMES, canonical_split

_LIST_KINDS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_TEXT_KINDS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
    pa.types.is_binary_view,
)
_RowNumber = Callable[[int], int]
"""A function from a value's position in an array to the number of its row in the table."""


def text_column(
    column: pa.Array | pa.ChunkedArray, what: str, uri: str, first_row: int = 1
) -> pa.Array:
    """Returns a column of text as plain strings, none of them null.

    Strings of all types, categories (dictionaries) and UTF-8 bytes are accepted as text.

    Args:
      column: the column, or a batch of it.
      what: the column's name, for messages.
      uri: the table's URI, for messages.
      first_row: the number of the batch's first row in the table.

    Returns:
      string [rows].

    Raises:
      CaptionerError: the column has another type, a value is null, or bytes are not UTF-8.
    """
    return _to_text(_to_plain_array(column), what, uri, lambda position: first_row + position)


def split_column(column: pa.Array | pa.ChunkedArray, uri: str, first_row: int = 1) -> pa.Array:
    """Returns a dataset's column ``split`` with the names train, dev and test.

    Args:
      column: the column, or a batch of it.
      uri: the table's URI, for messages.
      first_row: the number of the batch's first row in the table.

    Returns:
      string [rows].

    Raises:
      CaptionerError: a split is null, is not text, or is unknown.
    """
    names = text_column(column, "split", uri, first_row)
    encoded = names.dictionary_encode()
    splits = [canonical_split(name) for name in encoded.dictionary.to_pylist()]
    if None in splits:
        unknown = encoded.dictionary[splits.index(None)].as_py()
        row = first_row + pc.index(names, unknown).as_py()
        raise _row_error(uri, "split", row, f"{unknown!r} is no split; write {SPLIT_NAMES}")
    return pa.array(splits, pa.string()).take(encoded.indices)


def explode_captions(
    batch: pa.RecordBatch, uri: str, column: str = "caption", first_row: int = 1
) -> pa.RecordBatch:
    """Returns a table's rows with one caption in each, as a plain string.

    A row with a list of captions is replaced by one row for each caption, in which the other
    columns are repeated. A row with an empty list is dropped.

    Args:
      batch: rows of the table.
      uri: the table's URI, for messages.
      column: the name of the captions column.
      first_row: the number of the batch's first row in the table.

    Raises:
      CaptionerError: the captions are neither text nor lists of text, a caption is null, or bytes
        are not UTF-8.
    """
    values = _to_plain_array(batch.column(column))
    if not _is_list(values.type):
        texts = text_column(values, column, uri, first_row)
        return batch.set_column(batch.schema.get_field_index(column), column, texts)
    _check_no_nulls(values, column, uri, lambda position: first_row + position)
    parents = pc.list_parent_indices(values)
    captions = _to_plain_array(pc.list_flatten(values))
    texts = _to_text(
        captions, column, uri, lambda position: first_row + int(parents[position].as_py())
    )
    # pyarrow cannot take rows of the view types, so the other columns are made plain first.
    columns = {
        name: texts if name == column else _to_plain_array(batch.column(name)).take(parents)
        for name in batch.schema.names
    }
    return pa.record_batch(columns)


def vector_column(column: pa.Array | pa.ChunkedArray, what: str, uri: str) -> pa.Array:
    """Returns a column of vectors as fixed-size lists.

    Some tools write vectors as lists of variable size. They are accepted if all lists of the
    column have the same length.

    Args:
      column: the column, or a batch of it.
      what: the column's name, for messages.
      uri: the table's URI, for messages.

    Raises:
      CaptionerError: the column does not hold lists, holds nulls, or holds lists of several
        lengths.
    """
    values = _to_plain_array(column)
    if pa.types.is_fixed_size_list(values.type) and not values.null_count:
        return values
    if not _is_list(values.type):
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: {values.type} is no list; extract the features again"
        )
    lengths = pc.unique(pc.list_value_length(values)).to_pylist()
    if len(lengths) > 1 or None in lengths:
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: its vectors are null or of several lengths; "
            "extract the features again"
        )
    return pa.FixedSizeListArray.from_arrays(pc.list_flatten(values), lengths[0] if lengths else 0)


def is_view(kind: pa.DataType) -> bool:
    """Returns whether a type is a string or binary view, which pyarrow cannot filter by."""
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


@contextmanager
def readable_table(uri: str) -> Iterator[None]:
    """Turns pyarrow's errors about a table that the block reads into a CaptionerError.

    Raises:
      CaptionerError: the table is damaged, its parts have different columns, or a column occurs
        twice.
      OSError: the disk or the network failed.
    """
    try:
        yield
    except pa.ArrowException as error:
        raise CaptionerError(
            f"table {uri!r} can't be read ({first_line(error)}); write it again"
        ) from error
    except OSError as error:
        if error.errno is not None or is_remote(uri):
            raise  # The disk or the network failed; the table may be fine.
        raise CaptionerError(
            f"table {uri!r} can't be read ({first_line(error)}); write it again"
        ) from error


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _LIST_KINDS)


def _to_plain_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Returns a column as one array without dictionary, run-end, extension or view type."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ExtensionArray):
        return _to_plain_array(array.storage)
    if pa.types.is_dictionary(array.type):
        return _to_plain_array(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return _to_plain_array(pc.run_end_decode(array))
    if pa.types.is_binary_view(array.type):
        return array.cast(pa.large_binary())
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


def _to_text(array: pa.Array, what: str, uri: str, row_number: _RowNumber) -> pa.Array:
    _check_no_nulls(array, what, uri, row_number)
    if pa.types.is_null(array.type):
        return pa.array([], pa.string())  # It has no rows, or the check above had refused it.
    if not any(is_kind(array.type) for is_kind in _TEXT_KINDS):
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: it holds {array.type}; write it as text"
        )
    data = array.cast(pa.large_binary())  # Even strings may hold invalid UTF-8 in Parquet files.
    try:
        return data.cast(pa.string())
    except pa.ArrowInvalid as error:
        for position, value in enumerate(data.to_pylist()):
            if not _is_utf8(value):
                raise _row_error(
                    uri,
                    what,
                    row_number(position),
                    f"{value[:40]!r} is not UTF-8; write it as text",
                ) from error
        raise CaptionerError(
            f"table {uri!r}, column {what!r}: {first_line(error)}; write it in smaller row groups"
        ) from error


def _check_no_nulls(array: pa.Array, what: str, uri: str, row_number: _RowNumber) -> None:
    if array.null_count:
        row = row_number(pc.index(array.is_null(), True).as_py())
        raise _row_error(uri, what, row, f"it is null; write the {what} or remove the row")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _row_error(uri: str, what: str, row: int, message: str) -> CaptionerError:
    return CaptionerError(f"table {uri!r}, column {what!r}, row {row}: {message}")
