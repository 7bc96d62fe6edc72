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
from captioner_core.process.processors import count_processors
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS

# Each processor computes its own images, so that none waits for another one that has other work.
# Two images at a time are as fast as more, and need less memory.
_BATCH = 2
# A job's default batch of 32 images keeps no more than these busy; beyond, several processors
# share the work of one.
_MAX_STREAMS = 16
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
        processors = count_processors()
        streams = min(processors, _MAX_STREAMS)
        config = {
            "INFERENCE_PRECISION_HINT": _INFERENCE_TYPES[precision],
            "INFERENCE_NUM_THREADS": str(processors),
            "NUM_STREAMS": str(streams),
            # Other processes on this machine would be tied to the same processors.
            "ENABLE_CPU_PINNING": "NO",
        }
        if quantization is None:
            compiled = compile_or_load(f"xception-{precision}", partial(_build, precision), config)
        else:
            compiled = ov.Core().compile_model(_build(precision, quantization), "CPU", config)
        self._requests = ov.AsyncInferQueue(compiled, streams)
        self._lock = threading.Lock()

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns the features of a batch of any size; see ``FeatureNetwork``."""
        count = len(pixels)
        averages = np.empty((count, FEATURE_DIM), np.float32)
        grid = np.empty((count, GRID_CELLS, CELL_DIM), np.float32)

        def keep(request: ov.InferRequest, start: int) -> None:
            """Copies what a request has computed for the images from a position on."""
            end = min(start + _BATCH, count)
            averages[start:end] = request.get_output_tensor(0).data[: end - start]
            grid[start:end] = request.get_output_tensor(1).data[: end - start]

        with self._lock:
            self._requests.set_callback(keep)
            for start in range(0, count, _BATCH):
                self._requests.start_async([_fill(pixels[start : start + _BATCH])], start)
            self._requests.wait_all()
        return Features(averages, grid)


def _fill(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns images as a whole batch.

    The graph always gets as many images, so that a row cannot depend on the size of its batch.
    """
    missing = _BATCH - len(pixels)
    if not missing:
        return pixels
    return np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])


def _build(precision: str, quantization: Tensors | None = None) -> ov.Model:
    """Returns the graph of Xception in a precision; see ``OpenVinoXception``."""
    network = build_network(_BATCH)
    if precision == "int8":
        quantize_network(network, quantization or load_quantization())
    return add_pooling(network)
