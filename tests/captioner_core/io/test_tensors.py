"""Files of tensors: what is read is what was written, or an error."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from captioner_core.io.tensors import format_tensors, parse_tensors


def test_a_changed_byte_within_a_tensor_is_an_error():
    data = bytearray(format_tensors({"a": np.ones(100, np.float32)}))
    data[-10] ^= 1
    with pytest.raises(ValueError, match="not those that were written"):
        parse_tensors(bytes(data))


def test_a_file_of_another_program_needs_no_checksum():
    data = save({"a": np.ones(3, np.float32)}, metadata={"format": "np"})
    np.testing.assert_array_equal(parse_tensors(data)["a"], [1, 1, 1])
