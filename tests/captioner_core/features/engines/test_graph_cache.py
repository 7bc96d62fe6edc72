"""Compiled graphs in the cache give the same features, and a wrong one is never used."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from captioner_core.features import load_backbone
from captioner_core.features.engines import load_engine
from captioner_core.features.engines.graph_cache import compile_or_load
from captioner_core.io.temporary_names import temporary_name
from captioner_core.process.openvino_setup import ops, ov
from captioner_core.weights import assets

pytestmark = pytest.mark.assets
PIXELS = np.random.default_rng(0).integers(0, 256, (3, 299, 299, 3), dtype=np.uint8)
CONFIG = {"PERFORMANCE_HINT": "LATENCY"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Returns an empty cache, in which only the weights are."""
    weights = assets.xception_weights().parent
    folder = tmp_path / "cache"
    shutil.copytree(weights, folder / weights.name)
    monkeypatch.setenv("CAPTIONER_CACHE", str(folder))
    return folder


class DoublingGraph:
    """A small graph that multiplies by two, and counts how often it is built."""

    def __init__(self) -> None:
        self.builds = 0

    def build(self) -> ov.Model:
        """Returns the graph."""
        self.builds += 1
        number = ops.parameter([1], np.float32)
        return ov.Model([ops.multiply(number, np.array([2], np.float32))], [number], "double")

    def run(self, config=CONFIG) -> float:
        """Returns what the graph, compiled or from the cache, makes of 3."""
        request = compile_or_load("double", self.build, config).create_infer_request()
        (result,) = request.infer([np.array([3], np.float32)]).values()
        return float(result[0])


def test_a_graph_is_built_once(cache):
    graph = DoublingGraph()
    assert [graph.run(), graph.run(), graph.run()] == [6, 6, 6]
    assert graph.builds == 1
    assert [path.name for path in (cache / "graphs").iterdir()] == ["double.graph"]


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty"])
def test_a_damaged_graph_is_built_again(cache, damage):
    graph = DoublingGraph()
    graph.run()
    file = cache / "graphs" / "double.graph"
    data = file.read_bytes()
    changed = data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    file.write_bytes({"truncated": data[:-1], "changed": changed, "empty": b""}[damage])
    assert [graph.run(), graph.run()] == [6, 6]
    assert graph.builds == 2, "the cache holds a whole graph again"


def test_another_processor_or_other_options_get_a_graph_of_their_own(cache, monkeypatch):
    """A graph of int8 numbers, used without VNNI, would give wrong features."""
    graph = DoublingGraph()
    graph.run()
    graph.run({**CONFIG, "INFERENCE_PRECISION_HINT": "f32"})
    assert graph.builds == 2
    graph.run()
    assert graph.builds == 3
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    graph.run()
    assert graph.builds == 4
    monkeypatch.setattr(
        "captioner_core.features.engines.graph_cache.processor_flags", lambda: {"avx2"}
    )
    graph.run()
    assert graph.builds == 5


def test_what_a_killed_process_left_is_removed(cache):
    folder = cache / "graphs"
    folder.mkdir()
    (folder / temporary_name("double.graph")).write_bytes(b"half a graph")
    (folder / "double.graph.notes.txt").write_text("a file of somebody else")
    graph = DoublingGraph()
    assert graph.run() == 6
    assert {path.name for path in folder.iterdir()} == {"double.graph", "double.graph.notes.txt"}


def test_a_cache_that_cannot_be_written_costs_only_time(cache):
    (cache / "graphs").write_text("a file in the place of the folder")
    graph = DoublingGraph()
    assert [graph.run(), graph.run()] == [6, 6]
    assert graph.builds == 2


@pytest.mark.parametrize("precision", load_engine("openvino").precisions())
def test_features_from_the_cache_are_those_of_the_compiled_graph(cache, precision):
    first = load_backbone("xception", precision, "openvino").features(PIXELS)
    assert [path.name for path in (cache / "graphs").iterdir()] == [f"xception-{precision}.graph"]
    again = load_backbone("xception", precision, "openvino").features(PIXELS)
    np.testing.assert_array_equal(again.averages, first.averages)
    np.testing.assert_array_equal(again.grid, first.grid)
