"""Frozen graphs compute what Keras does: the same in float32, nearly the same in bfloat16."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from captioner_core.features.frozen_graph import FoldedNetwork, FrozenGraph, measure_channel_means

SIDE = 12


@pytest.fixture(scope="module")
def network():
    """Returns a block with a branch, whose input two layers read, and separable convolutions."""
    keras.utils.set_random_seed(0)
    picture = keras.Input((SIDE, SIDE, 3))
    stem = layers.Activation("relu")(
        normalised(layers.Conv2D(8, 3, strides=2, use_bias=False, name="stem")(picture))
    )
    branch = normalised(layers.Conv2D(16, 1, use_bias=False, name="branch")(stem))
    main = normalised(
        layers.SeparableConv2D(16, 3, padding="same", use_bias=False, name="first")(stem)
    )
    main = layers.Activation("relu")(main)
    main = normalised(
        layers.SeparableConv2D(16, 3, padding="same", use_bias=False, name="second")(main)
    )
    return keras.Model(
        picture, layers.MaxPooling2D(2, padding="same")(layers.Add()([main, branch]))
    )


def normalised(tensor):
    """Returns a tensor after batch normalization with random statistics."""
    layer = layers.BatchNormalization()
    out = layer(tensor)
    rng = np.random.default_rng(tensor.shape[-1])
    layer.set_weights([rng.uniform(0.5, 1.5, tensor.shape[-1]) for _ in range(4)])
    return out


def build(network, bfloat16_from=None, means=None, max_rows=None):
    """Returns the frozen graph of a network, whose layers from this one on use bfloat16."""
    folded = FoldedNetwork(network, bfloat16_from, means)
    return FrozenGraph(
        lambda pixels: folded(keras.ops.cast(pixels, "float32") / 127.5 - 1, [network.output]),
        SHAPE,
        max_rows,
    )


SHAPE = [None, SIDE, SIDE, 3]


@pytest.fixture(scope="module")
def pixels():
    """Returns a batch of random pictures."""
    return np.random.default_rng(1).integers(0, 256, (21, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def expected(network, pixels):
    """Returns what Keras computes for these pictures."""
    return network(pixels.astype(np.float32) / 127.5 - 1, training=False).numpy()


def test_float32_computes_what_keras_does(network, pixels, expected):
    np.testing.assert_allclose(build(network, None)(pixels)[0], expected, atol=1e-5)


@pytest.mark.parametrize("first", ["stem", "branch", "first", "second"])
def test_bfloat16_is_equal_to_eight_bits(network, pixels, expected, first):
    """A channel scaled for one of its two readers would be far off for the other."""
    (near,) = build(network, first)(pixels)
    error = np.abs(near - expected) / np.abs(expected).max()
    assert 1e-7 < error.max() < 0.02


def test_channel_means_remove_the_bias_of_rounding(network, pixels, expected):
    means = measure_channel_means(network, [pixels.astype(np.float32) / 127.5 - 1])
    errors = [build(network, "branch", given)(pixels)[0] - expected for given in (None, means)]
    without, with_means = (np.abs(error.mean(axis=(0, 1, 2))).mean() for error in errors)
    assert with_means < 0.5 * without


def limit_memory(monkeypatch, limit):
    """Lets TensorFlow's memory suffice for so many images; returns a list of the batch sizes."""
    batch_sizes = []

    class Session(tf.compat.v1.Session):
        def run(self, outputs, feeds):
            (batch,) = feeds.values()
            batch_sizes.append(len(batch))
            if len(batch) > limit:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return super().run(outputs, feeds)

    monkeypatch.setattr(tf.compat.v1, "Session", Session)
    return batch_sizes


def test_a_batch_that_exceeds_the_memory_is_halved(network, pixels, expected, monkeypatch):
    batch_sizes = limit_memory(monkeypatch, 6)
    frozen = build(network, max_rows=1 << 40)
    np.testing.assert_allclose(frozen(pixels)[0], expected, atol=1e-5)
    assert batch_sizes == [21, 10, 5, 5, 5, 5, 1]
    frozen(pixels)
    assert batch_sizes[7:] == [5, 5, 5, 5, 1], "later calls use the smaller size from the start"


def test_a_single_picture_that_exceeds_the_memory_is_an_error(network, pixels, monkeypatch):
    """A batch of one image cannot be halved, so trying again would never end."""
    limit_memory(monkeypatch, 0)
    for max_rows, batch in ((1 << 40, pixels[:1]), (8, pixels[:1]), (1, pixels)):
        frozen = build(network, max_rows=max_rows)
        with pytest.raises(tf.errors.ResourceExhaustedError):
            frozen(batch)


def test_a_layer_of_an_unsupported_kind_is_refused():
    picture = keras.Input((SIDE, SIDE, 3))
    other = keras.Model(picture, layers.Activation("tanh")(picture))
    with pytest.raises(TypeError, match="can't be built into a frozen graph"):
        build(other, None)
