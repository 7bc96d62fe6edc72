"""Keeps the compiled graphs of OpenVINO in the cache folder, from where they load fast.

To read the weights, build int8 Xception and compile it takes 0.8 seconds; to load the compiled
graph takes 0.2 seconds. A graph is compiled again when anything that it depends on has changed, and
whenever its file is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from captioner_core.features.engines.processor import instruction_limit, processor_flags
from captioner_core.features.quantization import QUANTIZATION, SHIPPED
from captioner_core.io.temporary_names import is_temporary_name, temporary_name
from captioner_core.process.cache_folder import cache_dir
from captioner_core.process.openvino_setup import ov
from captioner_core.weights import assets

_FOLDER = "graphs"
_DEVICE = "CPU"
_DIGEST_BYTES = 32
# The modules and the data that decide what the graph computes.
_SOURCES = (
    "engines/openvino_engine.py",
    "quantization.py",
    "xception_graph.py",
    "xception_weights.py",
)


def compile_or_load(
    name: str, build: Callable[[], ov.Model], config: Mapping[str, str]
) -> ov.CompiledModel:
    """Returns a compiled graph, from the cache if it is there, and keeps it there otherwise.

    Args:
      name: The name of the graph's file. A later version of the graph replaces an earlier one.
      build: Builds the graph of Xception.
      config: The options of OpenVINO.

    Raises:
      CaptionerError: The weights are not in the cache.
    """
    core = ov.Core()
    key = _key(config)
    file = cache_dir() / _FOLDER / f"{name}.graph"
    loaded = _load(core, file, key, config)
    if loaded is not None:
        return loaded
    compiled = core.compile_model(build(), _DEVICE, dict(config))
    # A cache that cannot be written, such as one of many users, only costs time.
    with contextlib.suppress(OSError):
        _save(file, key, compiled)
    return compiled


def _key(config: Mapping[str, str]) -> bytes:
    """Returns the SHA-256 of all that a compiled graph depends on."""
    package = resources.files("captioner_core")
    sources = [package / "features" / name for name in _SOURCES]
    files = [*sources, package / SHIPPED / QUANTIZATION]
    facts = {
        "openvino": ov.__version__,
        "processor": sorted(processor_flags()),
        "instruction limit": instruction_limit(),
        "config": dict(config),
        "weights": assets.xception_digests(),
        "sources": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()


def _load(
    core: ov.Core, file: Path, key: bytes, config: Mapping[str, str]
) -> ov.CompiledModel | None:
    """Returns the graph in a file, or None if there is none with this key, or if it is damaged."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    content = memoryview(data)[2 * _DIGEST_BYTES :]
    header = key + hashlib.sha256(content).digest()
    if data[: len(header)] != header:
        return None
    try:
        return core.import_model(io.BytesIO(content), _DEVICE, dict(config))
    except RuntimeError:  # OpenVINO does not read what it has written on another system.
        return None


def _save(file: Path, key: bytes, compiled: ov.CompiledModel) -> None:
    """Writes a graph with its key and its SHA-256, whole or not at all.

    Raises:
      OSError: The cache cannot be written.
    """
    content = compiled.export_model().getvalue()
    file.parent.mkdir(parents=True, exist_ok=True)
    for path in file.parent.iterdir():
        # A process that was killed has left it. One that still writes it merely keeps no graph.
        if is_temporary_name(path.name, file.name):
            path.unlink(missing_ok=True)
    temporary = file.with_name(temporary_name(file.name))
    try:
        temporary.write_bytes(key + hashlib.sha256(content).digest() + content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
