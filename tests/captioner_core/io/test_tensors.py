"""Files of tensors: what is read is what was written, or an error."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from captioner_core.io.tensors import format_tensors, parse_tensors


def test_tensors_are_read_as_they_were_written():
    columns = np.arange(6, dtype=np.float32).reshape(2, 3).T  # not contiguous
    tensors = {"columns": columns, "half": np.ones(2, np.float16)}
    read = parse_tensors(format_tensors(tensors))
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read[name], tensor)


def test_a_changed_byte_within_a_tensor_is_an_error():
    data = bytearray(format_tensors({"a": np.ones(100, np.float32)}))
    data[-10] ^= 1
    with pytest.raises(ValueError, match="not those that were written"):
        parse_tensors(bytes(data))


def test_a_file_of_another_program_needs_no_checksum():
    data = save({"a": np.ones(3, np.float32)}, metadata={"format": "np"})
    np.testing.assert_array_equal(parse_tensors(data)["a"], [1, 1, 1])
