"""The interface of an engine, the table of the engines, and the choice of engine and precision.

A job is given its engine and its precision when it starts, so that all its workers compute the
same. A worker whose machine lacks them says so itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.features.base import Features
from captioner_core.options import AUTO, DEFAULT_ENGINE, ENGINES, ImageOptions

ImageOptionsT = TypeVar("ImageOptionsT", bound=ImageOptions)

# Name -> module and class. The modules load the engines' libraries, so they are imported only when
# needed.
_ENGINES = {
    "openvino": ("captioner_core.features.engines.openvino_engine", "OpenVinoEngine"),
    "tensorflow": ("captioner_core.features.engines.tensorflow_engine", "TensorFlowEngine"),
}
_INSTRUCTIONS = {"bfloat16": "AVX512_BF16 or AMX", "int8": "AVX512_VNNI, AVX_VNNI or AMX"}
GPU_DRIVER = Path("/proc/driver/nvidia/gpus")


class FeatureNetwork(Protocol):
    """Xception in the memory of an engine."""

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> Features:
        """Returns the features of a batch of images.

        Args:
          pixels: uint8 [batch, 299, 299, 3], RGB. A batch may have any size.
        """


class Engine(Protocol):
    """A library that runs the feature network on a kind of device."""

    name: str

    def precisions(self) -> tuple[str, ...]:
        """Returns the precisions that this machine has in hardware, the best for users first.

        The first one is the fastest whose captions and matches are as good as those of float32.
        """

    def load_xception(self, precision: str) -> FeatureNetwork:
        """Returns Xception with its weights, which must already be in the cache.

        Args:
          precision: One of ``options.PRECISIONS``.

        Raises:
          CaptionerError: The weights are not in the cache, or the engine cannot compute in this
            precision on this machine.
        """


def load_engine(name: str) -> Engine:
    """Returns an engine.

    Args:
      name: One of ``options.ENGINES``.

    Raises:
      CaptionerError: The engine is not known, or its library is not installed.
    """
    if name not in _ENGINES:
        raise CaptionerError(f"engine {name!r} is not known; choose one of {', '.join(ENGINES)}")
    module, class_name = _ENGINES[name]
    try:
        engine: Engine = getattr(importlib.import_module(module), class_name)()
    except ImportError as error:
        raise CaptionerError(
            f"--engine {name} needs a package that is not installed ({error}); install captioner "
            "with its requirements, or choose another engine"
        ) from error
    return engine


def resolve_engine(options: ImageOptionsT, *, is_local: bool) -> ImageOptionsT:
    """Returns options that name the engine and the precision that a job uses, in place of "auto".

    The choice does not depend on the runner, so that all runners give the same rows.

    Args:
      options: The options of a job.
      is_local: Whether the job runs on this machine.

    Raises:
      CaptionerError: The job runs on this machine, which lacks the requested precision, or the
        engine's library is not installed.
    """
    engine, precision = choose_engine(options.engine, options.precision, is_local=is_local)
    return dataclasses.replace(options, engine=engine, precision=precision)


def choose_engine(
    engine: str = AUTO, precision: str = AUTO, *, is_local: bool = True
) -> tuple[str, str]:
    """Returns the engine and the precision that a job uses.

    Args:
      engine: One of ``options.ENGINE_CHOICES``; "auto" means TensorFlow on a machine with an NVIDIA
        GPU, and OpenVINO on any other.
      precision: One of ``options.PRECISION_CHOICES``; "auto" means the fastest that this machine
        has in hardware, among those whose captions and matches are as good as in float32.
      is_local: Whether the job runs on this machine, which must then have the precision.

    Raises:
      CaptionerError: See ``resolve_engine``.
    """
    if engine == AUTO:
        engine = "tensorflow" if _has_gpu() else DEFAULT_ENGINE
    if precision == AUTO:
        precision = load_engine(engine).precisions()[0]
    elif is_local:
        check_precision(precision, load_engine(engine))
    return engine, precision


def check_precision(precision: str, engine: Engine) -> None:
    """Refuses a precision that an engine cannot use, or would only emulate on this machine.

    Raises:
      CaptionerError: The machine or the engine lacks the precision.
    """
    precisions = engine.precisions()
    if precision not in precisions:
        raise CaptionerError(
            f"--precision {precision} needs {_needs(precision, engine.name)}, which this machine "
            f"lacks; choose --precision {' or '.join(precisions)}"
        )


def _needs(precision: str, engine: str) -> str:
    """Returns what a precision needs that a machine may lack."""
    if engine == "tensorflow":
        return "a GPU of compute capability 8.0" if precision == "bfloat16" else "--engine openvino"
    return f"a processor with {_INSTRUCTIONS[precision]}"


def _has_gpu() -> bool:
    """Returns whether this process may use an NVIDIA GPU; without loading TensorFlow."""
    is_hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not is_hidden and GPU_DRIVER.is_dir() and any(GPU_DRIVER.iterdir())
