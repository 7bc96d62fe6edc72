"""The contract that every backbone must fulfil on the CPUs' engine, with its real weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from captioner_core.errors import CaptionerError
from captioner_core.features import load_backbone
from captioner_core.options import BACKBONES
from captioner_core.tables.schemas import CELL_DIM, FEATURE_DIM, GRID_CELLS
from captioner_core.weights import assets


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request):
    """Returns a backbone with its real weights."""
    return load_backbone(request.param)


@pytest.fixture(scope="module")
def pixels(backbone):
    """Returns three random pictures."""
    size = backbone.input_size
    return np.random.default_rng(0).integers(0, 255, (3, size, size, 3), dtype=np.uint8)


def test_features_and_grids_have_the_right_shapes_and_types(backbone, pixels):
    mean, grid = backbone.features(pixels)
    assert (mean.shape, mean.dtype) == ((3, FEATURE_DIM), np.float32)
    assert (grid.shape, grid.dtype) == ((3, GRID_CELLS, CELL_DIM), np.float32)
    assert backbone.name


def test_an_image_has_the_same_features_in_any_batch(backbone, pixels):
    together, _ = backbone.features(pixels)
    for number in range(len(pixels)):
        alone, _ = backbone.features(pixels[number : number + 1])
        np.testing.assert_allclose(alone[0], together[number], atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1, "and images differ"


def test_xception_equals_that_of_keras(pixels):
    """The network, its weights and its scaling, as Keras documents them."""
    network = keras.applications.Xception(
        weights=None, include_top=False, pooling="avg", input_shape=(299, 299, 3)
    )
    network.load_weights(assets.xception_weights())
    scaled = keras.applications.xception.preprocess_input(pixels.astype(np.float32))
    expected = network(scaled, training=False).numpy()
    np.testing.assert_allclose(load_backbone("xception").features(pixels)[0], expected, atol=1e-5)
    assert network.count_params() == assets.XCEPTION_PARAMETERS


def test_the_grid_averages_the_feature_maps_of_keras(pixels):
    """A wrong layer or a wrong cell would still train, only worse."""
    network = keras.applications.Xception(
        weights=None, include_top=False, input_shape=(299, 299, 3)
    )
    network.load_weights(assets.xception_weights())
    read_layers = [
        layer
        for layer in network.layers
        if layer.output.shape[1:] in ((19, 19, 728), (10, 10, 1024))
    ]
    sums = [layer for layer in read_layers if isinstance(layer, keras.layers.Add)]
    maps = keras.Model(network.input, [network.output, sums[-1].output, sums[0].output])
    scaled = keras.applications.xception.preprocess_input(pixels.astype(np.float32))
    _, grid = load_backbone("xception").features(pixels)
    first = 0
    for level in (one.numpy() for one in maps(scaled, training=False)):
        window = 2 if level.shape[1] == 10 else 4
        last = level[:, -1:] if level.shape[1] == 19 else level[:, :0]
        rows = np.concatenate([level, last], axis=1)[:, -window:, :window].mean(axis=(1, 2))
        expected = (rows - rows.mean(axis=1, keepdims=True)) / np.sqrt(
            rows.var(axis=1, keepdims=True) + 1e-3
        )
        np.testing.assert_allclose(grid[:, 20, first : first + rows.shape[1]], expected, atol=1e-3)
        first += rows.shape[1]
    assert first == CELL_DIM


def test_the_mirrored_backbone_sees_the_mirrored_picture(pixels):
    mean, grid = load_backbone("xception").features(pixels[:, :, ::-1])
    mirrored_mean, mirrored_grid = load_backbone("xception-mirrored").features(pixels)
    np.testing.assert_allclose(mirrored_mean, mean, atol=1e-5)
    np.testing.assert_allclose(mirrored_grid, grid, atol=1e-3)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(CaptionerError, match="choose one of xception"):
        load_backbone("vgg")
