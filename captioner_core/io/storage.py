"""Files and tables at local paths and URIs alike, through pyarrow's file systems.

S3 and Google's store are reached by pyarrow's own clients, which open a file some twenty times as
fast as Beam's; of any other scheme, whatever Beam knows. Where a rename is a copy, as in
object stores, nothing here needs it to be more: see ``runs``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError
from captioner_core.io.json_text import parse_json
from captioner_core.io.junk import is_passed_by_readers
from captioner_core.security.allowed_roots import check_scheme, local_path_of
from captioner_core.security.allowed_roots import is_remote as is_remote
from captioner_core.tables.layout import join

_SAID = b"captioner"  # under which a file of arrays keeps its facts


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a local path or URI, and the path within it.

    Raises:
      CaptionerError: no file system is known by that scheme, or it can't be set up.
    """
    if not is_remote(uri):
        return pafs.LocalFileSystem(), str(Path(local_path_of(uri)).absolute())
    check_scheme(uri)
    scheme, _, place = uri.partition("://")
    scheme = scheme.lower()
    bucket = place.partition("/")[0]
    try:
        if scheme in _STORES:
            return _STORES[scheme](bucket), place.rstrip("/")
        from beam_jobs.remote_files import (
            file_system as through_beam,
        )  # the core knows of Beam here alone

        return through_beam(uri), uri.rstrip("/")
    except (pa.ArrowException, OSError, ImportError, ValueError) as error:
        raise CaptionerError(
            f"{uri!r} can't be reached ({first_line(error)}); check scheme, name and credentials"
        ) from error


@functools.cache
def _s3(bucket: str) -> pafs.FileSystem:
    """A client of S3, or of a server that speaks it, which AWS's own variable names."""
    scheme, _, server = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    ).partition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not server:
        region = pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(
        **({"scheme": scheme, "endpoint_override": server} if server else {}),
        region=region or "us-east-1",
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )


@functools.cache
def _google(bucket: str) -> pafs.FileSystem:
    return pafs.FileSystem.from_uri(f"gs://{bucket}")[0]


_STORES = {"s3": _s3, "gs": _google}
_CONNECT_S, _REQUEST_S, _ATTEMPTS = 10, 60, 4


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    file_system, path = resolve(uri)
    return bool(file_system.get_file_info(path).type != pafs.FileType.NotFound)


def list_parts(uri: str) -> list[str]:
    """The URIs of a table's Parquet files, sorted: the file itself, or a folder's ``*.parquet``.

    Names that start with ``_`` or ``.`` are unfinished work and passed over.
    """
    file_system, path = resolve(uri)
    if file_system.get_file_info(path).type == pafs.FileType.File:
        return [uri]
    return [
        part
        for part in list_files(uri, ".parquet")
        if not is_passed_by_readers(part.rpartition("/")[2])
    ]


def list_files(uri: str, suffix: str) -> list[str]:
    """The URIs of a folder's files whose names end so, sorted; none where there is no folder."""
    file_system, path = resolve(uri)
    found = file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [item.base_name for item in found if item.type != pafs.FileType.Directory]
    return [join(uri, name) for name in sorted(names) if name.endswith(suffix)]


def open_table(uri: str, what: str = "table") -> pads.Dataset:
    """A table as a pyarrow dataset, read lazily.

    Raises:
      CaptionerError: nothing is there, or it is not Parquet.
    """
    parts = list_parts(uri)
    if not parts:
        raise CaptionerError(
            f"{what} {uri!r} holds no Parquet file; name a table's folder or its .parquet file"
        )
    try:
        return pads.dataset(
            [resolve(part)[1] for part in parts], format="parquet", filesystem=resolve(uri)[0]
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise CaptionerError(
            f"{what} {uri!r} can't be read as Parquet ({first_line(error)})"
        ) from error


def read_table(uri: str, columns: Sequence[str] | None = None, what: str = "table") -> pa.Table:
    """A whole table, or the named columns of it, in memory.

    Raises:
      CaptionerError: nothing is there, it is not Parquet, or a column is missing.
    """
    dataset = open_table(uri, what)
    missing = [name for name in columns or () if name not in dataset.schema.names]
    if missing:
        raise CaptionerError(
            f"{what} {uri!r} has no column {missing[0]!r}, only {', '.join(dataset.schema.names)}; name another table"
        )
    return dataset.to_table(columns=list(columns) if columns is not None else None)


def row_count(part: str) -> int:
    """Rows of one Parquet file, from its footer."""
    file_system, path = resolve(part)
    with file_system.open_input_file(path) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def row_group_count(part: str) -> int:
    """Row groups of one Parquet file, from its footer."""
    file_system, path = resolve(part)
    with file_system.open_input_file(path) as stream:
        return int(pq.ParquetFile(stream).metadata.num_row_groups)


def read_row_group(part: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """One row group of a Parquet file, or the named columns of it."""
    file_system, path = resolve(part)
    with file_system.open_input_file(path) as stream:
        return pq.ParquetFile(stream).read_row_group(group, columns=columns)


def read_bytes(uri: str) -> bytes:
    """Returns the bytes of a file."""
    file_system, path = resolve(uri)
    with file_system.open_input_stream(path) as stream:
        return bytes(stream.read())


def read_json(uri: str) -> Any:
    """The value of a JSON file."""
    return parse_json(read_bytes(uri))


def write_text(uri: str, text: str) -> None:
    """Writes a file whole or not at all, where the file system can rename.

    The temporary name is new each time, so that no file of somebody else's is written to.
    """
    file_system, path = resolve(uri)
    is_store = _is_store(file_system)  # what is put there is there as a whole or not at all
    temporary = "" if is_store else uuid4().hex
    with output_stream(f"{uri}.{temporary}.tmp" if temporary else uri) as stream:
        stream.write(text.encode("utf-8"))
    if temporary:
        file_system.move(f"{path}.{temporary}.tmp", path)


def write_json(uri: str, value: Any) -> None:
    """Writes JSON, indented, whole or not at all; NaN is refused."""
    write_text(uri, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def delete(uri: str) -> None:
    """Removes a file, or a folder with all in it; nothing there is no error, and a local link is left alone."""
    file_system, path = resolve(uri)
    if isinstance(file_system, pafs.LocalFileSystem) and os.path.islink(path):
        return
    kind = file_system.get_file_info(path).type
    if kind == pafs.FileType.Directory:
        file_system.delete_dir(path)
    elif kind == pafs.FileType.File:
        file_system.delete_file(path)


def move(source: str, target: str) -> None:
    """Renames a file within one file system, replacing the target; in an object store, copies and deletes it."""
    file_system, path = resolve(source)
    target_path = resolve(target)[1]
    _make_folder_of(file_system, target_path)
    file_system.move(path, target_path)


def _make_folder_of(file_system: pafs.FileSystem, path: str) -> None:
    if not _is_store(file_system):
        file_system.create_dir(path.rpartition("/")[0], recursive=True)


def _is_store(file_system: pafs.FileSystem) -> bool:
    """Whether it has objects under names, and no folders, so that one made would be an object too."""
    return file_system.type_name in ("s3", "gcs")


def write_arrays(
    uri: str, arrays: Mapping[str, pa.Array | npt.NDArray[Any]], facts: Mapping[str, Any]
) -> None:
    """Writes arrays of any lengths, and facts that JSON can say, as one Arrow file to be mapped.

    Args:
      uri: of the file.
      arrays: NumPy arrays of one or two dimensions, or Arrow arrays.
      facts: anything else.
    """
    shapes = {
        name: list(array.shape) for name, array in arrays.items() if isinstance(array, np.ndarray)
    }
    columns = []
    for array in arrays.values():
        flat = pa.array(array.reshape(-1)) if isinstance(array, np.ndarray) else array
        columns.append(pa.LargeListArray.from_arrays(pa.array([0, len(flat)], pa.int64()), flat))
    said = json.dumps({"shapes": shapes, "facts": facts}).encode()
    table = pa.table(columns, names=list(arrays)).replace_schema_metadata({_SAID: said})
    with output_stream(uri) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)


def map_arrays(uri: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays that ``write_arrays`` wrote, whose bytes stay in the file until they are read, and the facts.

    Booleans are read at once, since Arrow packs them.

    Raises:
      CaptionerError: it is no such file.
    """
    try:
        with pa.memory_map(local_copy(uri)) as mapped, pa.ipc.open_file(mapped) as reader:
            table = reader.read_all()
        said = json.loads(table.schema.metadata[_SAID])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise CaptionerError(
            f"file {uri!r} can't be read as arrays ({first_line(error)}); make it again"
        ) from error
    arrays: dict[str, Any] = {}
    for name in table.schema.names:
        values = table.column(name).chunk(0).values
        shape = said["shapes"].get(name)
        arrays[name] = (
            values if shape is None else values.to_numpy(zero_copy_only=False).reshape(shape)
        )
    return arrays, said["facts"]


def map_rows(uri: str, dim: int) -> npt.NDArray[np.float32]:
    """float32 [rows, dim] of a file of nothing but these numbers, read as they are used."""
    path = Path(local_copy(uri))
    if not path.stat().st_size:  # nothing to map
        return np.zeros((0, dim), np.float32)
    return np.memmap(path, np.float32, "r").reshape(-1, dim)


def output_stream(uri: str) -> Any:
    """A new file to write bytes to; a context manager."""
    file_system, path = resolve(uri)
    _make_folder_of(file_system, path)
    return file_system.open_output_stream(path)


def local_copy(uri: str) -> str:
    """The path of a file here: its own where it is local, else that of a copy kept until this process ends."""
    file_system, path = resolve(uri)
    return path if isinstance(file_system, pafs.LocalFileSystem) else _downloaded(uri)


@functools.cache
def _downloaded(uri: str) -> str:
    file_system, path = resolve(uri)
    target = Path(scratch_folder(), hashlib.sha256(uri.encode()).hexdigest())
    with file_system.open_input_stream(path) as stream, target.open("wb") as kept:
        shutil.copyfileobj(stream, kept)
    return str(target)


def scratch_folder() -> str:
    """A folder of this process', gone with it."""
    return _scratch().name


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="captioner-")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def vectors(column: pa.FixedSizeListArray) -> npt.NDArray[Any]:
    """A column of vectors without nulls as an array [rows, length]."""
    flat: npt.NDArray[Any] = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)
