"""Files of float tensors in the safetensors format, which may come from somebody else.

Such a file is a JSON header and the bytes of the tensors. Nothing in it is compressed or executed,
so it needs no more memory than its own size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from captioner_core.io.json_text import parse_json

WEIGHTS = "weights.safetensors"
"""The file of tensors in the folder of a model or an encoder."""
EARLIER_WEIGHTS = "weights.npz"
"""The name of this file in folders that an earlier version wrote."""
CONVERT = f"convert its {EARLIER_WEIGHTS} with captioner's tools/convert_weights.py FOLDER"
"""What to do about a folder of an earlier version."""
MAX_HEADER_BYTES = 1 << 20
"""Largest size of a header in bytes: parsed, a header takes eleven times as much memory."""
_CHECKSUM = "sha256"
_LENGTH_BYTES = 8  # A file begins with the length of its header, little-endian.

Tensors = Mapping[str, npt.NDArray[np.floating[Any]]]
"""Float tensors by name."""


def format_tensors(tensors: Tensors) -> bytes:
    """Returns the content of a file with these tensors."""
    # safetensors would write wrong values for an array that is not contiguous.
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    return save(tensors, metadata={_CHECKSUM: _checksum(tensors)})


def parse_tensors(data: bytes) -> Tensors:
    """Returns the tensors that ``format_tensors`` turned into bytes, as float32 or float16.

    Raises:
      ValueError: a tensor is of another type, the header is too large, or the tensors are not
        those of the checksum, which files of other programs may lack.
      KeyError: a tensor is of a type that NumPy does not have.
      safetensors.SafetensorError: the data are damaged.
    """
    header_bytes = int.from_bytes(data[:_LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {header_bytes} bytes, more than {MAX_HEADER_BYTES}")
    tensors: Tensors = load(data)
    header = parse_json(data[_LENGTH_BYTES : _LENGTH_BYTES + header_bytes])
    if header.get("__metadata__", {}).get(_CHECKSUM) not in (None, _checksum(tensors)):
        raise ValueError("its tensors are not those that were written")
    for name, tensor in tensors.items():
        if tensor.dtype not in (np.float32, np.float16):
            raise ValueError(f"tensor {name!r} is {tensor.dtype}; it must be float32 or float16")
    return tensors


def content(tensors: Tensors) -> Iterator[bytes]:
    """Yields the names and the values of tensors as bytes, in the order of their names."""
    for name in sorted(tensors):
        yield name.encode("utf-8")
        yield tensors[name].tobytes()


def _checksum(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for part in content(tensors):
        digest.update(part)
    return digest.hexdigest()
