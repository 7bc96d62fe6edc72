"""A caption's confidence follows from its probability, its image and the kinds of known images."""

from __future__ import annotations

import numpy as np
import pytest

from captioner_core.captioning.confidence import (
    KINDS,
    WEIGHTS,
    CaptionSigns,
    ConfidenceModel,
    tensor_shapes,
)
from captioner_core.tables.schemas import FEATURE_DIM


def kinds(count: int) -> np.ndarray:
    """Returns unit rows, each with a one in a place of its own."""
    return np.eye(count, FEATURE_DIM, dtype=np.float32)


def signs(log_prob: float, score: float, feature: np.ndarray) -> CaptionSigns:
    """Returns the signs of one caption."""
    log_probs, scores = (np.array([value], np.float32) for value in (log_prob, score))
    return CaptionSigns(log_probs, scores, feature[np.newaxis])


def test_each_sign_raises_the_confidence():
    model = ConfidenceModel(np.array([-1, 2, 3, 4], np.float32), kinds(2))
    base = model.estimate(signs(-1.0, 0.2, kinds(3)[2]))
    assert base == pytest.approx(1 / (1 + np.exp(1 + 2 - 0.6)))
    assert model.estimate(signs(-0.5, 0.2, kinds(3)[2])) > base
    assert model.estimate(signs(-1.0, 0.4, kinds(3)[2])) > base
    assert model.estimate(signs(-1.0, 0.2, kinds(3)[1])) > base, "the image is of a known kind"


def test_the_length_of_features_does_not_count():
    model = ConfidenceModel(np.array([0, 1, 1, 1], np.float32), kinds(4))
    feature = np.linspace(0, 1, FEATURE_DIM, dtype=np.float32)
    one, other = (model.estimate(signs(-1.0, 0.2, scale * feature)) for scale in (1, 7))
    assert one == pytest.approx(other, abs=1e-6)


def test_the_tensors_have_the_shapes_that_a_model_folder_is_checked_for():
    model = ConfidenceModel(np.zeros(4, np.float32), kinds(5))
    assert {name: value.shape for name, value in model.tensors().items()} == tensor_shapes(5)
    assert set(tensor_shapes(5)) == {WEIGHTS, KINDS}
    assert tensor_shapes(0) == {}
