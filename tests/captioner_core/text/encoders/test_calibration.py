"""Calibration gives a score of 0.9 the same meaning for every encoder.

It needs pairs of captions of which it is known whether they are right.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.calibration import (
    AGREED_SCORE,
    CURVE_EDGES,
    Calibration,
    fit_calibration,
    shipped_calibration,
)
from captioner_core.text.encoders.judging import judge_pairs
from tests.fakes import HashedWords


def noisy_pairs(steepness: float, count: int = 20_000):
    """Returns cosines, and whether each pair is right: the more likely, the higher its cosine."""
    random = np.random.default_rng(0)
    cosines = random.uniform(-0.2, 0.99, count)
    return cosines, random.random(count) < np.clip(cosines, 0, 1) ** steepness


@pytest.mark.parametrize("steepness", [2, 4, 8])
def test_four_of_five_pairs_at_the_agreed_score_are_right(steepness):
    cosines, fits = noisy_pairs(steepness)
    calibration = fit_calibration(cosines, fits)
    reached = calibration.scores(cosines) >= AGREED_SCORE
    assert fits[reached].mean() == pytest.approx(0.8, abs=0.005)
    lower = calibration.scores(cosines) >= AGREED_SCORE - 0.05
    assert fits[lower].mean() < 0.8, "no lower cosine would do"


def test_the_precision_curve_adds_up_to_the_number_of_right_pairs():
    cosines, fits = noisy_pairs(3)
    calibration = fit_calibration(cosines, fits)
    interval = np.digitize(calibration.scores(cosines), CURVE_EDGES[1:-1])
    assert np.array(calibration.precision)[interval].sum() == pytest.approx(fits.sum(), rel=0.01)
    assert list(calibration.precision) == sorted(calibration.precision)


def test_pairs_that_are_all_wrong_cannot_be_calibrated():
    with pytest.raises(CaptionerError, match="80% right"):
        fit_calibration(np.linspace(0, 0.9, 500), np.zeros(500, bool))


@settings(max_examples=100, deadline=None)
@given(st.floats(-0.999, 0.999), st.lists(st.floats(-1, 1), min_size=2, max_size=20, unique=True))
def test_scores_keep_the_order_of_cosines_and_can_be_inverted(cosine, values):
    calibration = Calibration(cosine)
    cosines = np.sort(np.array(values))
    scores = calibration.scores(cosines)
    assert np.all(np.diff(scores) >= 0)
    assert np.all((scores >= -1) & (scores <= 1))
    np.testing.assert_allclose(calibration.cosines(scores), cosines, atol=1e-9)


@pytest.mark.parametrize(
    "value", [{"cosine": 1.5, "precision": []}, {"cosine": 0.5, "precision": [1]}, {}, None]
)
def test_a_damaged_calibration_is_refused(value):
    with pytest.raises(CaptionerError, match="calibration"):
        Calibration.from_json(value)


def test_pairs_of_images_of_one_kind_are_judged_right():
    captions = {
        "a": ["red dog", "dog red", "red dog"],
        "b": ["red dog", "red dog", "dog red"],
        "c": ["blue cat", "cat blue", "blue cat"],
    }
    cosines, fits = judge_pairs(captions, HashedWords(), HashedWords())
    assert len(cosines) == len(fits) == 27
    np.testing.assert_array_equal(fits, cosines > 0.9)
    assert fits.sum() == 9, "every pair of a and b, and no other"


def test_too_few_captions_cannot_be_judged():
    with pytest.raises(CaptionerError, match="three captions"):
        judge_pairs({"a": ["x y"], "b": ["x"]}, HashedWords(), HashedWords())


def test_the_scores_of_an_encoder_that_is_not_calibrated_yet_are_its_cosines():
    cosines = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(shipped_calibration("new").scores(cosines), cosines)
