"""A quantisation can be read from NNCF's network, stored, and applied again."""

from __future__ import annotations

import numpy as np
import pytest

from captioner_cli.main import main
from captioner_core.datasets import sample
from captioner_core.errors import CaptionerError
from captioner_core.features.quantization import (
    MODEL_CARD,
    QUANTIZATION,
    load_quantization,
    parse_quantization,
    quantize_network,
    read_quantization,
)
from captioner_core.features.xception_graph import build_network
from captioner_core.io.tensors import parse_tensors
from captioner_core.process.openvino_setup import ov


def kernels(network):
    """Returns the int8 kernels of the convolutions of a network by name."""
    found = {}
    for node in network.get_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            scaled = node.input_value(1).get_node()
            if scaled.get_type_name() == "Constant":
                continue  # It stays in float32.
            numbers = scaled.input_value(0).get_node().input_value(0).get_node()
            assert numbers.get_element_type() == ov.Type.i8
            found[node.get_friendly_name()] = np.array(numbers.get_data(), np.int16)
    return found


def test_the_packaged_quantisation_covers_every_convolution_but_the_last():
    network = build_network(1)
    tensors = load_quantization()
    quantize_network(network, tensors)
    found = kernels(network)
    assert len(found) == 72, "34 separable convolutions but one, and 6 others"
    assert "block14_sepconv2/convolution" not in found, "its outputs are the features"
    assert max(np.abs(kernel).max() for kernel in found.values()) <= 127
    again = read_quantization(network)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


@pytest.mark.parametrize("content", [None, b"", b"\x01" * 100])
def test_a_damaged_quantisation_is_one_clear_error(tmp_path, content):
    if content is not None:
        (tmp_path / QUANTIZATION).write_bytes(content)
    with pytest.raises(CaptionerError, match="is missing or damaged"):
        parse_quantization(tmp_path)


@pytest.mark.slow
def test_the_command_quantises_and_says_how_near_it_is(tmp_path, capsys):
    pytest.importorskip("nncf")
    dataset = tmp_path / "sample"
    sample.build(dataset, images=60)
    target = tmp_path / "int8"
    command = ["quantize", "--dataset", str(dataset), "--images", "8", "--output", str(target)]
    assert main(command) == 0
    assert "8 images of split train, seed 0" in capsys.readouterr().out
    tensors = parse_tensors((target / QUANTIZATION).read_bytes())
    assert tensors.keys() == load_quantization().keys()
    assert "mean cosine of 0.9" in (target / MODEL_CARD).read_text()
