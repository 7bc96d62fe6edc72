"""The contract that every engine must fulfil in every precision, checked with the real weights."""

from __future__ import annotations

import numpy as np
import pytest

from captioner_cli.main import main
from captioner_core.datasets import sample
from captioner_core.errors import CaptionerError
from captioner_core.features import load_backbone
from captioner_core.features.engines import base as engines
from captioner_core.features.engines import choose_engine, load_engine, processor
from captioner_core.images import decoding
from captioner_core.options import ENGINES, PRECISIONS
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS

VNNI = {"avx2", "avx512f", "avx512_vnni"}
# The lowest cosine to Keras' features that a precision may have.
LOWEST_COSINE = {"float32": 0.9999, "bfloat16": 0.995, "int8": 0.95}


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """Returns eleven drawn pictures, which are more than a batch of any engine."""
    folder = tmp_path_factory.mktemp("sample")
    sample.build(folder, images=30)
    files = sorted((folder / "images").iterdir())[:11]
    return np.stack([decoding.decode(file.read_bytes())[0] for file in files])


@pytest.fixture(scope="module")
def expected(pixels):
    """Returns the features in float32 of the engine that runs Keras' own network."""
    return load_backbone("xception", "float32", "tensorflow").features(pixels)


@pytest.fixture(scope="module", params=[(e, p) for e in ENGINES for p in PRECISIONS], ids="-".join)
def backbone(request):
    """Returns Xception on one engine in one precision."""
    engine, precision = request.param
    if precision not in load_engine(engine).precisions():
        pytest.skip(f"this machine has no {precision} for {engine}")
    return load_backbone("xception", precision, engine)


def cosines(some, others):
    """Returns the cosine of each row to the same row of the other array."""
    some = some.reshape(len(some), -1)
    others = others.reshape(len(others), -1)
    lengths = np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1)
    return (some * others).sum(axis=1) / lengths


def test_features_have_the_right_shapes_and_types(backbone, pixels):
    averages, grid = backbone.features(pixels)
    assert (averages.shape, averages.dtype) == ((11, FEATURE_DIM), np.float32)
    assert (grid.shape, grid.dtype) == ((11, GRID_CELLS, CELL_DIM), np.float32)


def test_features_are_near_those_of_keras(backbone, pixels, expected):
    averages, grid = backbone.features(pixels)
    lowest = LOWEST_COSINE[backbone.precision]
    assert cosines(averages, expected.averages).min() > lowest
    assert cosines(grid, expected.grid).min() > lowest


def test_features_do_not_depend_on_the_batch(backbone, pixels):
    together = backbone.features(pixels)
    for start, end in ((0, 1), (7, 9), (3, 11)):
        part = backbone.features(pixels[start:end])
        np.testing.assert_allclose(part.averages, together.averages[start:end], atol=1e-5)
        np.testing.assert_allclose(part.grid, together.grid[start:end], atol=1e-3)


def test_later_calls_do_not_change_earlier_results(backbone, pixels):
    """An engine may compute into the same memory again."""
    first = backbone.features(pixels[:8])
    copies = first.averages.copy(), first.grid.copy()
    backbone.features(pixels[3:11])
    np.testing.assert_array_equal(first.averages, copies[0])
    np.testing.assert_array_equal(first.grid, copies[1])


def test_float32_of_openvino_is_that_of_keras(pixels, expected):
    """A wrong layer, padding or scaling would show here."""
    averages, grid = load_backbone("xception").features(pixels)
    np.testing.assert_allclose(averages, expected.averages, atol=5e-5)
    np.testing.assert_allclose(grid, expected.grid, atol=2e-3)


def test_an_unknown_engine_is_refused():
    with pytest.raises(CaptionerError, match="choose one of openvino, tensorflow"):
        load_backbone("xception", "float32", "onnx")


@pytest.mark.parametrize(
    ("flags", "limit", "expected_precision"),
    [
        (VNNI, "", "int8"),
        (VNNI | {"avx512_bf16"}, "", "int8"),
        ({"avx2", "avx_vnni"}, "", "int8"),
        ({"avx2", "avx512f", "avx512_bf16"}, "", "bfloat16"),
        ({"avx2", "avx512f"}, "", "float32"),
        (set(), "", "float32"),
        (VNNI, "avx512_core_vnni", "int8"),
        (VNNI | {"avx512_bf16"}, "AVX512_CORE", "float32"),
        (VNNI, "AVX2", "float32"),
    ],
)
def test_auto_chooses_the_fastest_precision_that_the_processor_has(
    monkeypatch, flags, limit, expected_precision
):
    """Without VNNI the sums of int8 products overflow, and captions get worse."""
    monkeypatch.setattr(processor, "processor_flags", lambda: flags)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    for is_local in (True, False):
        chosen = choose_engine("openvino", is_local=is_local)
        assert chosen == ("openvino", expected_precision)


def test_auto_chooses_tensorflow_where_there_is_a_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "GPU_DRIVER", tmp_path)
    assert choose_engine()[0] == "openvino"
    (tmp_path / "0000:01:00.0").mkdir()
    assert choose_engine()[0] == "tensorflow"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert choose_engine()[0] == "openvino"


@pytest.mark.parametrize(
    ("precision", "needs"), [("bfloat16", "AVX512_BF16"), ("int8", "AVX512_VNNI")]
)
def test_a_precision_that_the_processor_lacks_is_refused(
    monkeypatch, tmp_path, capsys, precision, needs
):
    monkeypatch.setattr(processor, "processor_flags", lambda: {"avx2", "fma"})
    with pytest.raises(CaptionerError, match=needs):
        load_backbone("xception", precision)
    (tmp_path / "images").mkdir()
    command = ["extract", "--images", str(tmp_path / "images"), "--output", str(tmp_path)]
    assert main([*command, "--engine=openvino", "--precision", precision]) == 2
    assert f"--precision {precision} needs a processor with" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_cluster_job_may_name_a_precision_that_this_machine_lacks(monkeypatch):
    monkeypatch.setattr(processor, "processor_flags", set)
    assert choose_engine("openvino", "int8", is_local=False) == ("openvino", "int8")
