"""A GPU whose memory is too small for a batch gets it in smaller parts."""

from __future__ import annotations

import numpy as np
import pytest

from captioner_core.features.engines.tensorflow_engine import TensorFlowXception
from captioner_core.process.tensorflow_setup import tf

PIXELS = np.arange(21, dtype=np.uint8).reshape(21, 1, 1, 1)


@pytest.fixture
def network(monkeypatch, request):
    """Returns Xception on a GPU whose memory suffices for a few images, and its batch sizes."""
    batch_sizes = []

    def function(_build, input_signature):
        """Returns what stands for the compiled network."""

        def compute(rows):
            batch_sizes.append(len(rows))
            if len(rows) > request.param:
                raise tf.errors.ResourceExhaustedError(None, None, "no memory")
            return rows.reshape(-1, 1), rows.reshape(-1, 1, 1)

        return compute

    monkeypatch.setattr(tf, "function", function)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda _kind: ["GPU"])
    return TensorFlowXception("float32"), batch_sizes


@pytest.mark.parametrize("network", [6], indirect=True)
def test_a_batch_that_exceeds_the_memory_is_halved(network):
    xception, batch_sizes = network
    averages, grid = xception(PIXELS)
    assert averages.ravel().tolist() == grid.ravel().tolist() == list(range(21))
    assert batch_sizes == [21, 10, 5, 5, 5, 5, 1]
    xception(PIXELS)
    assert batch_sizes[7:] == [5, 5, 5, 5, 1], "later calls use the smaller size from the start"


@pytest.mark.parametrize("network", [0], indirect=True)
def test_a_single_image_that_exceeds_the_memory_is_an_error(network):
    """A batch of one image cannot be halved, so trying again would never end."""
    xception, _ = network
    with pytest.raises(tf.errors.ResourceExhaustedError):
        xception(PIXELS)
