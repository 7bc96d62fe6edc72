"""Reading of ``.npz`` archives of float tensors that may come from somebody else.

An archive of a few kilobytes can claim, and expand to, any number of gigabytes. A ``StoredTensors``
therefore first reads only the headers: names, types, shapes and sizes. The caller compares these
with what it needs, and only then are the values read. Nothing is unpickled, because only plain
floats are accepted.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from captioner_core.security.archives import check_members

MAX_TENSOR_BYTES = 4 << 30
"""Largest size of all tensors of an archive together, in bytes."""

_SUFFIX = ".npy"
_VERSION = (1, 0)  # NumPy writes this version of the format unless a header exceeds 64 KiB.
_MAX_HEADER_BYTES = 1024
_CHUNK_BYTES = 1 << 20
_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))


class StoredTensors:
    """An open archive of float tensors; a context manager.

    Args:
      file: path of the archive, or a stream that can seek.

    Attributes:
      shapes: the shape of each tensor, by its name.

    Raises:
      ValueError: a member is not a little-endian float32 or float16 tensor in C order, its size
        does not match its shape, a name occurs twice, the archive has too many or too large
        members, or a member is unsafe (see ``check_members``).
      zipfile.BadZipFile: the file is not a zip archive, or is damaged.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file)
        try:
            members = check_members(self._archive, max_members=4096, max_bytes=MAX_TENSOR_BYTES)
            self._members = {info.filename.removesuffix(_SUFFIX): info for info in members}
            if len(self._members) != len(members):
                raise ValueError("it contains a tensor twice")
            self._dtypes: dict[str, np.dtype[Any]] = {}
            self.shapes: Mapping[str, tuple[int, ...]] = {
                name: self._check_header(name) for name in self._members
            }
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._archive.close()

    def read(self, name: str) -> npt.NDArray[np.floating[Any]]:
        """Reads a tensor, as float32 or float16 in its stored shape."""
        values = np.frombuffer(b"".join(self.chunks(name)), self._dtypes[name])
        return values.reshape(self.shapes[name])

    def chunks(self, name: str) -> Iterator[bytes]:
        """Reads the bytes of a tensor's values, in chunks of at most 1 MiB."""
        with self._archive.open(self._members[name]) as stream:
            _read_header(stream)
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def _check_header(self, name: str) -> tuple[int, ...]:
        """Checks a tensor's type and size, remembers its type, and returns its shape."""
        info = self._members[name]
        with self._archive.open(info) as stream:
            shape, dtype = _read_header(stream)
            header_bytes = stream.tell()
        if not info.filename.endswith(_SUFFIX) or min(shape, default=0) < 0:
            raise ValueError(f"{info.filename!r} is not a tensor")
        if info.file_size != header_bytes + math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"tensor {name!r} has {info.file_size} bytes, which do not match {dtype} {shape}"
            )
        self._dtypes[name] = dtype
        return shape


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if np.lib.format.read_magic(stream) != _VERSION:
        raise ValueError("a tensor has an unknown version of NumPy's format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(
        stream, max_header_size=_MAX_HEADER_BYTES
    )
    if fortran_order or dtype not in _DTYPES:
        order = " in Fortran order" if fortran_order else ""
        raise ValueError(
            f"a tensor is {dtype.str}{order}; it must be float32 or float16, little-endian, in "
            "C order"
        )
    return shape, dtype
