"""The int8 form of Xception: what post-training quantisation found, and how it is applied.

A quantised network differs from the float32 network in three ways, and only these are stored:

- The numbers between two operations are rounded to 256 levels of a range.
- The numbers of a kernel are rounded to integers times a scale of each output channel.
- The biases contain the mean error of this rounding (Nagel et al. 2019,
  https://arxiv.org/abs/1906.04721, section 4.2).

The folder ``pretrained_int8`` is part of the package; ``captioner quantize`` makes such folders.
The int8 kernels follow from the float32 weights, so 0.5 MB describe a network of 21 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError

from captioner_core.errors import CaptionerError, first_line
from captioner_core.io.tensors import Tensors, parse_tensors
from captioner_core.process.openvino_setup import ops, ov

QUANTIZATION = "quantization.safetensors"
"""The file of tensors in the folder of a quantisation."""
MODEL_CARD = "MODEL_CARD.md"
SHIPPED = "pretrained_int8"
"""The folder in the package of the quantisation that comes with it."""
_LEVELS = 256
_OUTPUT = "fq_output_0"
_INPUT = "fq_input_"
_SCALE = "scale"
_BIAS = "bias"


def load_quantization() -> Tensors:
    """Returns the quantisation that comes with the package; see ``quantize_network``.

    Raises:
      CaptionerError: The file is missing or damaged.
    """
    return parse_quantization(resources.files("captioner_core") / SHIPPED)


def parse_quantization(folder: Traversable) -> Tensors:
    """Returns the quantisation in a folder that ``captioner quantize`` made.

    Raises:
      CaptionerError: The file is missing or damaged.
    """
    try:
        return parse_tensors((folder / QUANTIZATION).read_bytes())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CaptionerError(
            f"{QUANTIZATION} in {str(folder)!r} is missing or damaged ({first_line(error)}); "
            "install captioner again"
        ) from error


def quantize_network(network: ov.Model, quantization: Tensors) -> None:
    """Turns a float32 network into the int8 network that a quantisation describes.

    Args:
      network: The network of ``build_network``; it is changed.
      quantization: The tensors of ``read_quantization``.

    Raises:
      KeyError: The quantisation is of another network.
    """
    nodes = {node.get_friendly_name(): node for node in network.get_ops()}
    for name, tensor in quantization.items():
        node_name, _, kind = name.rpartition("/")
        node = nodes[node_name]
        if kind == _SCALE:
            _quantize_kernel(node, tensor)
        elif kind == _BIAS:
            bias = ops.constant(tensor)
            bias.set_friendly_name(name)
            node.input(1).replace_source_output(bias.output(0))
        elif kind == _OUTPUT:
            targets = node.output(0).get_target_inputs()
            rounded = _round_to_levels(node.output(0), tensor, name)
            for target in targets:
                target.replace_source_output(rounded)
        else:
            target = node.input(int(kind.removeprefix(_INPUT)))
            rounded = _round_to_levels(target.get_source_output(), tensor, name)
            target.replace_source_output(rounded)


def read_quantization(quantized: ov.Model) -> Mapping[str, npt.NDArray[np.float32]]:
    """Returns what distinguishes a quantised network from its float32 network.

    Args:
      quantized: The result of NNCF for a network of ``build_network``.

    Returns:
      Tensors by the name of an operation and what they describe: the lowest and the highest number
      of a range (``fq_output_0``, ``fq_input_N``), the scales of a kernel (``scale``), or a bias.
    """
    tensors = {}
    for node in quantized.get_ordered_ops():
        name = node.get_friendly_name()
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            tensors[name] = np.stack([_constant(node, 1), _constant(node, 2)])
        elif kind in ("Convolution", "GroupConvolution"):
            kernel = node.input_value(1).get_node()
            if kernel.get_type_name() == "Multiply":  # Of int8 numbers, as float32, and a scale.
                tensors[f"{name}/{_SCALE}"] = _constant(kernel, 1)
        elif (
            kind == "Add"
            and f"{name}/{_BIAS}" == node.input_value(1).get_node().get_friendly_name()
        ):
            tensors[f"{name}/{_BIAS}"] = _constant(node, 1)
    return tensors


def _quantize_kernel(convolution: ov.Node, scale: npt.NDArray[np.float32]) -> None:
    """Replaces the kernel of a convolution by int8 numbers and their scales.

    Args:
      convolution: A convolution with a float32 kernel [out, ...].
      scale: float32 [out, 1, ...].
    """
    kernel = _constant(convolution, 1)
    numbers = np.clip(np.rint(kernel / scale), -128, 127).astype(np.int8)
    restored = ops.multiply(ops.convert(ops.constant(numbers), np.float32), ops.constant(scale))
    convolution.input(1).replace_source_output(restored.output(0))


def _round_to_levels(numbers: ov.Output, limits: npt.NDArray[np.float32], name: str) -> ov.Output:
    """Returns numbers rounded to one of 256 levels between two limits.

    Args:
      numbers: The output of an operation.
      limits: float32 [2, ...], the lowest and the highest level.
      name: The name of the operation that rounds.
    """
    lowest = ops.constant(limits[0])
    highest = ops.constant(limits[1])
    rounded = ops.fake_quantize(numbers, lowest, highest, lowest, highest, _LEVELS)
    rounded.set_friendly_name(name)
    return rounded.output(0)


def _constant(node: ov.Node, number: int) -> npt.NDArray[np.float32]:
    """Returns a copy of the constant that is an input of an operation."""
    return np.array(node.input_value(number).get_node().get_data(), np.float32)
