"""A quantisation can be read from NNCF's network, stored, and applied again."""

from __future__ import annotations

import numpy as np
import openvino as ov
import pytest

from captioner_cli.main import main
from captioner_core.datasets import sample
from captioner_core.errors import CaptionerError
from captioner_core.features import quantization
from captioner_core.features.quantization import (
    MODEL_CARD,
    QUANTIZATION,
    load_quantization,
    quantize_network,
    read_quantization,
)
from captioner_core.features.xception_graph import build_network
from captioner_core.io.tensors import parse_tensors


def kernels(network):
    """Returns the int8 kernels of the convolutions of a network by name."""
    found = {}
    for node in network.get_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            scaled = node.input_value(1).get_node()
            numbers = scaled.input_value(0).get_node().input_value(0).get_node()
            assert numbers.get_element_type() == ov.Type.i8
            found[node.get_friendly_name()] = np.array(numbers.get_data(), np.int16)
    return found


def test_the_packaged_quantisation_covers_every_convolution():
    network = build_network(1)
    tensors = load_quantization()
    quantize_network(network, tensors)
    found = kernels(network)
    assert len(found) == 74, "34 separable convolutions and 6 others"
    assert max(np.abs(kernel).max() for kernel in found.values()) <= 127
    again = read_quantization(network)
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)


def test_a_damaged_quantisation_is_one_clear_error(monkeypatch, tmp_path):
    (tmp_path / quantization.SHIPPED).mkdir()
    monkeypatch.setattr(quantization.resources, "files", lambda _package: tmp_path)
    with pytest.raises(CaptionerError, match="missing or damaged"):
        load_quantization()
    (tmp_path / quantization.SHIPPED / QUANTIZATION).write_bytes(b"\x01" * 100)
    with pytest.raises(CaptionerError, match="missing or damaged"):
        load_quantization()


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
