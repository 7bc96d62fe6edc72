"""Files of large arrays that are memory-mapped, so that only the parts in use occupy memory.

``write_arrays`` and ``map_arrays`` store named arrays and metadata in one Arrow file. ``map_rows``
reads a file of raw float32 numbers.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import storage
from captioner_core.io.json_text import JsonObject

_METADATA_KEY = b"captioner"
"""Key, in the metadata of the Arrow schema, of the arrays' shapes and the caller's metadata."""


def write_arrays(
    uri: str, arrays: Mapping[str, pa.Array | npt.NDArray[Any]], metadata: Mapping[str, Any]
) -> None:
    """Writes named arrays, whose lengths may differ, and metadata to one Arrow file.

    Args:
      uri: file to write.
      arrays: NumPy arrays of one or two dimensions, or Arrow arrays.
      metadata: further values, which must be representable in JSON.
    """
    shapes = {
        name: list(array.shape) for name, array in arrays.items() if isinstance(array, np.ndarray)
    }
    columns = []
    for array in arrays.values():
        flat = pa.array(array.reshape(-1)) if isinstance(array, np.ndarray) else array
        # Columns of a table must be equally long, so each array is stored as one list in one row.
        columns.append(pa.LargeListArray.from_arrays(pa.array([0, len(flat)], pa.int64()), flat))
    description = json.dumps({"shapes": shapes, "facts": metadata}).encode()
    table = pa.table(columns, names=list(arrays))
    table = table.replace_schema_metadata({_METADATA_KEY: description})
    with storage.output_stream(uri) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def map_arrays(uri: str) -> tuple[dict[str, Any], JsonObject]:
    """Maps the arrays of a file that ``write_arrays`` wrote; bytes are read when they are used.

    Arrays of booleans are an exception: Arrow packs eight of them into a byte, so they are read at
    once.

    Returns:
      The arrays by name, as NumPy or Arrow arrays as they were written, and the metadata.

    Raises:
      CaptionerError: the file cannot be read, or is not such a file.
    """
    try:
        with (
            pa.memory_map(storage.local_copy(uri)) as mapped,
            pa.ipc.open_file(mapped) as reader,
        ):
            table = reader.read_all()
        description = json.loads(table.schema.metadata[_METADATA_KEY])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CaptionerError(
            f"file {uri!r} can't be read as arrays ({first_line(error)}); create it again"
        ) from error
    arrays = {}
    for name in table.schema.names:
        values = table.column(name).chunk(0).values
        shape = description["shapes"].get(name)
        arrays[name] = (
            values if shape is None else values.to_numpy(zero_copy_only=False).reshape(shape)
        )
    return arrays, description["facts"]


def map_rows(uri: str, dim: int) -> npt.NDArray[np.float32]:
    """Maps a file of raw float32 numbers as float32 [rows, dim]; rows are read when used."""
    path = Path(storage.local_copy(uri))
    if not path.stat().st_size:  # An empty file cannot be mapped.
        return np.zeros((0, dim), np.float32)
    return np.memmap(path, np.float32, "r").reshape(-1, dim)


def stack_vectors(column: pa.FixedSizeListArray) -> npt.NDArray[Any]:
    """Returns a column of vectors, without nulls, as an array [rows, vector length]."""
    flat: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def unit_rows(column: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    """Returns the vectors of a column as float32 [rows, dim], each scaled to length 1.

    Vectors of zeros stay zeros.
    """
    rows = stack_vectors(column).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1))
