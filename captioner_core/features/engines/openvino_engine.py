"""Xception on CPUs with OpenVINO, in float32, bfloat16 or int8."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np
import numpy.typing as npt

from captioner_core.features.base import Features
from captioner_core.features.engines.base import check_precision
from captioner_core.features.engines.graph_cache import compile_or_load
from captioner_core.features.engines.processor import has_bfloat16, has_int8
from captioner_core.features.quantization import load_quantization, quantize_network
from captioner_core.features.xception_graph import add_pooling, build_network
from captioner_core.io.tensors import Tensors
from captioner_core.process.openvino_setup import ov

# The caches of a processor hold the feature maps of 8 images, so larger batches are not faster.
_BATCH = 8
_INFERENCE_TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""The type of all operations that are not quantised."""


class OpenVinoEngine:
    """The engine for CPUs."""

    name = "openvino"

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions that this processor has; see ``Engine.precisions``."""
        available = {"int8": has_int8(), "bfloat16": has_bfloat16(), "float32": True}
        return tuple(precision for precision, is_available in available.items() if is_available)

    def load_xception(self, precision: str) -> OpenVinoXception:
        """Returns Xception with its weights; see ``Engine.load_xception``."""
        check_precision(precision, self)
        return OpenVinoXception(precision)


class OpenVinoXception:
    """Xception as a compiled graph; threads may share it and take turns.

    Args:
      precision: One of ``options.PRECISIONS``.
      quantization: The quantisation of int8. None uses the one that comes with the package.
    """

    def __init__(self, precision: str, quantization: Tensors | None = None) -> None:
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _INFERENCE_TYPES[precision],
        }
        if quantization is None:
            compiled = compile_or_load(f"xception-{precision}", partial(_build, precision), config)
        else:
            compiled = ov.Core().compile_model(_build(precision, quantization), "CPU", config)
        self._request = compiled.create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns the features of a batch of any size; see ``FeatureNetwork``."""
        parts = [
            self._run(pixels[start : start + _BATCH]) for start in range(0, len(pixels), _BATCH)
        ]
        return Features(
            np.concatenate([part.averages for part in parts]),
            np.concatenate([part.grid for part in parts]),
        )

    def _run(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns the features of at most ``_BATCH`` images.

        The graph always gets as many images, so that a row cannot depend on the size of its batch.
        """
        count = len(pixels)
        if count < _BATCH:
            pixels = np.concatenate(
                [pixels, np.zeros((_BATCH - count, *pixels.shape[1:]), np.uint8)]
            )
        with self._lock:
            self._request.infer([pixels])
            averages, grid = (self._request.get_output_tensor(number).data for number in (0, 1))
            return Features(averages[:count].copy(), grid[:count].copy())


def _build(precision: str, quantization: Tensors | None = None) -> ov.Model:
    """Returns the graph of Xception in a precision; see ``OpenVinoXception``."""
    network = build_network(_BATCH)
    if precision == "int8":
        quantize_network(network, quantization or load_quantization())
    return add_pooling(network)
