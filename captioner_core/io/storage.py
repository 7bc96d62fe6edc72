"""Reading and writing of files and tables, at local paths and URIs alike.

All other modules use these functions, so that each of them works the same on a local disk and in an
object store. Files are reached through pyarrow's file systems:

* Local paths are read directly.
* ``s3://``, ``gs://`` and ``abfss://`` are read through pyarrow's own clients, which open a file
  about twenty times as fast as Beam's.

An object store renames a file by copying and deleting it. Nothing here depends on a rename being
atomic; see ``captioner_core.runs``.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import json_text, temporary_names
from captioner_core.io.junk import is_skipped_by_readers
from captioner_core.security.uris import check_scheme, local_path_of
from captioner_core.security.uris import is_remote as is_remote
from captioner_core.tables.layout import join

CONNECT_TIMEOUT_S = 10
REQUEST_TIMEOUT_S = 60
ATTEMPTS = 4

# --- Where a path or URI leads


def resolve(uri: str) -> tuple[pafs.FileSystem, str]:
    """Returns the file system of a local path or URI, and the path within it.

    Raises:
      CaptionerError: no file system is known for the scheme, or it cannot be set up.
    """
    if not is_remote(uri):
        return pafs.LocalFileSystem(), str(Path(local_path_of(uri)).absolute())
    check_scheme(uri)
    scheme, _, path = uri.partition("://")
    bucket, slash, key = path.rstrip("/").partition("/")
    client = _STORES.get(scheme.lower())
    if client is None:
        raise CaptionerError(
            f"{uri!r} can't be used, since captioner has no client for {scheme}; copy the files "
            f"to a local folder, or to one of {', '.join(f'{name}://' for name in _STORES)}"
        )
    try:
        # A client for Azure names the account, so its paths begin with the container alone.
        return client(bucket), bucket.partition("@")[0] + slash + key
    except (pa.ArrowException, OSError, ValueError) as error:
        raise CaptionerError(
            f"{uri!r} can't be reached ({first_line(error)}); check scheme, name and credentials"
        ) from error


@functools.cache
def _s3(bucket: str) -> pafs.FileSystem:
    """Returns a client of S3, or of the S3-compatible server that AWS's own variables name."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    scheme, _, server = endpoint.partition("://")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if not region and not server:
        region = pafs.resolve_s3_region(bucket)
    return pafs.S3FileSystem(
        **({"scheme": scheme, "endpoint_override": server} if server else {}),
        region=region or "us-east-1",
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@functools.cache
def _google(bucket: str) -> pafs.FileSystem:
    return pafs.FileSystem.from_uri(f"gs://{bucket}")[0]


@functools.cache
def _azure(container_at_host: str) -> pafs.FileSystem:
    """Returns a client of an Azure storage account.

    Args:
      container_at_host: such as ``photos@account.dfs.core.windows.net``.

    The key comes from ``AZURE_STORAGE_KEY`` or ``AZURE_STORAGE_CONNECTION_STRING``, as for Azure's
    own command line. Without them Azure's default credentials are used, such as those of the
    machine.
    """
    account, _, domain = container_at_host.partition("@")[2].partition(".")
    if not account:
        raise ValueError("the URI must begin with abfss://CONTAINER@ACCOUNT.dfs.core.windows.net")
    connection = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "")
    fields = dict(part.partition("=")[::2] for part in connection.split(";") if part)
    if fields.get("AccountName") != account:
        fields = {}
    key = fields.get("AccountKey") or os.environ.get("AZURE_STORAGE_KEY")
    endpoint = urlsplit(fields.get("BlobEndpoint", ""))
    servers = {}
    if endpoint.netloc:
        # Such as the emulator, which serves blobs and Data Lake Storage at one address.
        servers = {
            "blob_storage_scheme": endpoint.scheme,
            "blob_storage_authority": endpoint.netloc,
            "dfs_storage_scheme": endpoint.scheme,
            "dfs_storage_authority": endpoint.netloc,
        }
    elif domain and domain != "dfs.core.windows.net":
        servers = {
            "blob_storage_authority": "." + domain.replace("dfs.", "blob.", 1),
            "dfs_storage_authority": f".{domain}",
        }
    return pafs.AzureFileSystem(account, account_key=key or None, **servers)


_STORES = {"s3": _s3, "gs": _google, "abfss": _azure}


def forget_clients() -> None:
    """Lets the next access to a store read the environment's credentials and addresses anew."""
    for client in _STORES.values():
        client.cache_clear()


def exists(uri: str) -> bool:
    """Returns whether a file or folder exists."""
    file_system, path = resolve(uri)
    return bool(file_system.get_file_info(path).type != pafs.FileType.NotFound)


def list_files(uri: str, suffix: str) -> list[str]:
    """Returns the sorted URIs of a folder's files whose names end in ``suffix``.

    Subfolders are not searched. The list is empty if the folder does not exist.
    """
    file_system, path = resolve(uri)
    entries = file_system.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    names = [entry.base_name for entry in entries if entry.type != pafs.FileType.Directory]
    return [join(uri, name) for name in sorted(names) if name.endswith(suffix)]


# --- Tables


def list_parts(uri: str) -> list[str]:
    """Returns the sorted URIs of a table's Parquet files.

    Names that begin with ``_`` or ``.`` are skipped, because they are unfinished work.

    Args:
      uri: a folder of ``*.parquet`` files, or one file, which is then the only part.
    """
    file_system, path = resolve(uri)
    if file_system.get_file_info(path).type == pafs.FileType.File:
        return [uri]
    return [
        part
        for part in list_files(uri, ".parquet")
        if not is_skipped_by_readers(part.rpartition("/")[2])
    ]


def open_table(uri: str, what: str = "table") -> pads.Dataset:
    """Opens a table as a pyarrow dataset, whose rows are read only when they are used.

    Args:
      uri: a folder of ``*.parquet`` files, or one file.
      what: noun for the table in error messages.

    Raises:
      CaptionerError: the table does not exist, or is not Parquet.
    """
    parts = list_parts(uri)
    if not parts:
        raise CaptionerError(
            f"{what} {uri!r} contains no Parquet file; name a table's folder or its .parquet file"
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
    """Reads a table into memory.

    Args:
      uri: a folder of ``*.parquet`` files, or one file.
      columns: names of the columns to read; None reads all.
      what: noun for the table in error messages.

    Raises:
      CaptionerError: the table does not exist, is not Parquet, or lacks one of the columns.
    """
    dataset = open_table(uri, what)
    existing = dataset.schema.names
    missing = [name for name in columns or () if name not in existing]
    if missing:
        raise CaptionerError(
            f"{what} {uri!r} has no column {missing[0]!r}, only {', '.join(existing)}; name "
            "another table"
        )
    return dataset.to_table(columns=list(columns) if columns is not None else None)


def row_count(part: str) -> int:
    """Returns the number of rows of one Parquet file, according to its footer."""
    file_system, path = resolve(part)
    with file_system.open_input_file(path) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def row_group_count(part: str) -> int:
    """Returns the number of row groups of one Parquet file, according to its footer."""
    file_system, path = resolve(part)
    with file_system.open_input_file(path) as stream:
        return int(pq.ParquetFile(stream).metadata.num_row_groups)


def read_row_group(part: str, group: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads one row group of a Parquet file into memory.

    Args:
      part: the Parquet file.
      group: index of the row group.
      columns: names of the columns to read; None reads all.
    """
    file_system, path = resolve(part)
    with file_system.open_input_file(path) as stream:
        return pq.ParquetFile(stream).read_row_group(group, columns=columns)


# --- Files


def read_bytes(uri: str) -> bytes:
    """Reads a whole file."""
    file_system, path = resolve(uri)
    with file_system.open_input_stream(path) as stream:
        return bytes(stream.read())


def read_json(uri: str) -> Any:
    """Reads a JSON file and returns its value."""
    return json_text.parse_json(read_bytes(uri))


def output_stream(uri: str) -> Any:
    """Opens a new file for writing bytes, as a context manager; creates the folders above it."""
    file_system, path = resolve(uri)
    _make_parents(file_system, path)
    return file_system.open_output_stream(path)


def write_text(uri: str, text: str) -> None:
    """Writes a text file completely or not at all, in UTF-8.

    A file system that can rename gets the file under a new temporary name first. An object store
    needs no such name, because it shows an object only once it is complete.
    """
    file_system, path = resolve(uri)
    written = uri if _is_object_store(file_system) else temporary_names.temporary_name(uri)
    with output_stream(written) as stream:
        stream.write(text.encode("utf-8"))
    if written != uri:
        _move(file_system, resolve(written)[1], path)


def write_json(uri: str, value: Any) -> None:
    """Writes a value as indented JSON, completely or not at all.

    Raises:
      ValueError: the value contains NaN or an infinite number, which JSON cannot represent.
    """
    write_text(uri, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def delete(uri: str) -> None:
    """Deletes a file, or a folder with everything in it.

    Does nothing if the path does not exist, or is a link on a local disk.
    """
    file_system, path = resolve(uri)
    if isinstance(file_system, pafs.LocalFileSystem) and os.path.islink(path):
        return
    file_type = file_system.get_file_info(path).type
    if file_type == pafs.FileType.Directory:
        file_system.delete_dir(path)
    elif file_type == pafs.FileType.File:
        file_system.delete_file(path)


def move(source: str, target: str) -> None:
    """Renames a file within one file system, and replaces the target.

    An object store copies the file and deletes the old one.
    """
    file_system, path = resolve(source)
    target_path = resolve(target)[1]
    _make_parents(file_system, target_path)
    _move(file_system, path, target_path)


def _move(file_system: pafs.FileSystem, path: str, target_path: str) -> None:
    try:
        file_system.move(path, target_path)
    except pa.ArrowNotImplementedError:
        # Azure renames only in accounts with a hierarchical namespace.
        file_system.copy_file(path, target_path)
        file_system.delete_file(path)


def _make_parents(file_system: pafs.FileSystem, path: str) -> None:
    if not _is_object_store(file_system):
        file_system.create_dir(path.rpartition("/")[0], recursive=True)


def _is_object_store(file_system: pafs.FileSystem) -> bool:
    """Returns whether a file system has only objects, so that a folder would be an object too."""
    return file_system.type_name in ("s3", "gcs", "abfs")


# --- Local copies


def local_copy(uri: str) -> str:
    """Returns the local path of a file; a remote file is downloaded once for this process."""
    file_system, path = resolve(uri)
    return path if isinstance(file_system, pafs.LocalFileSystem) else _download(uri)


@functools.cache
def _download(uri: str) -> str:
    file_system, path = resolve(uri)
    target = Path(scratch_folder(), hashlib.sha256(uri.encode()).hexdigest())
    with file_system.open_input_stream(path) as stream, target.open("wb") as copy:
        shutil.copyfileobj(stream, copy)
    return str(target)


def scratch_folder() -> str:
    """Returns a temporary folder that is deleted when this process ends."""
    return _temporary_directory().name


@functools.cache
def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="captioner-")
