"""Tensors of an ``.npz`` archive, judged by their headers before anything is inflated.

An archive of a few kilobytes can claim, and inflate to, any number of gigabytes. So names,
types, shapes and sizes are read first, whoever uses the tensors compares them with what it
needs, and only then are tensors read. Nothing is unpickled: only plain floats are taken.
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

MAX_TENSORS = 4096
MAX_TENSOR_BYTES = 4 << 30  # of all tensors of an archive
_SUFFIX = ".npy"
_VERSION = (1, 0)  # what NumPy writes unless a header is longer than 64 KiB
_MAX_HEADER_BYTES = 1024
_CHUNK = 1 << 20
_DTYPES = (np.dtype("<f4"), np.dtype("<f2"))


class StoredTensors:
    """An archive of float tensors; a context manager.

    Args:
      file: its path, or a stream that can seek.

    Attributes:
      shapes: of each tensor, by its name.

    Raises:
      ValueError: a member is no float32 or float16 tensor in C order and little-endian, its size differs from what
        its shape needs, its name is odd or there twice, or there are too many.
      zipfile.BadZipFile: it is no zip archive, or damaged.
    """

    def __init__(self, file: Path | IO[bytes]) -> None:
        self._archive = zipfile.ZipFile(file)
        try:
            members = check_members(
                self._archive, max_members=MAX_TENSORS, max_bytes=MAX_TENSOR_BYTES
            )
            self._members = {info.filename.removesuffix(_SUFFIX): info for info in members}
            if len(self._members) != len(members):
                raise ValueError("it holds a tensor twice")
            self._dtypes: dict[str, np.dtype[Any]] = {}
            self.shapes: Mapping[str, tuple[int, ...]] = {
                name: self._check(name) for name in self._members
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
        """A tensor, float32 or float16."""
        return np.frombuffer(b"".join(self.chunks(name)), self._dtypes[name]).reshape(
            self.shapes[name]
        )

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a tensor's values, some at a time."""
        with self._archive.open(self._members[name]) as stream:
            _read_header(stream)
            while chunk := stream.read(_CHUNK):
                yield chunk

    def _check(self, name: str) -> tuple[int, ...]:
        info = self._members[name]
        with self._archive.open(info) as stream:
            shape, dtype = _read_header(stream)
            header_bytes = stream.tell()
        if not info.filename.endswith(_SUFFIX) or min(shape, default=0) < 0:
            raise ValueError(f"{info.filename!r} is no tensor")
        if info.file_size != header_bytes + math.prod(shape) * dtype.itemsize:
            raise ValueError(
                f"tensor {name!r} holds {info.file_size} bytes, which are not {dtype} {shape}"
            )
        self._dtypes[name] = dtype
        return shape


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    if np.lib.format.read_magic(stream) != _VERSION:
        raise ValueError("a tensor is of an unknown version of NumPy's format")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(
        stream, max_header_size=_MAX_HEADER_BYTES
    )
    if fortran_order or dtype not in _DTYPES:
        order = " in Fortran order" if fortran_order else ""
        raise ValueError(
            f"a tensor is {dtype.str}{order}; float32 or float16, little-endian, in C order is needed"
        )
    return shape, dtype
