"""Calibration gives a score of 0.9 the same meaning for every encoder.

It needs pairs of captions of which it is known what people say.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captioner_core.errors import CaptionerError
from captioner_core.text.calibration.fitting import fit_calibration, fit_yes_curve
from captioner_core.text.calibration.judging import judge_pairs
from captioner_core.text.encoders.calibration import (
    AGREED_SCORE,
    Calibration,
    YesCurve,
    shipped_calibration,
)
from tests.fakes import HashedWords

CURVE = YesCurve(intercept=-8.0, slope=12.0)


def asked_pairs(count: int = 20_000):
    """Returns cosines, and the share of four people who say yes to each pair by ``CURVE``."""
    random = np.random.default_rng(0)
    cosines = random.uniform(-0.2, 0.99, count)
    return cosines, random.binomial(4, CURVE.shares(cosines)) / 4


def test_the_curve_is_the_one_that_people_answered_by():
    fitted = fit_yes_curve(*asked_pairs())
    assert fitted.intercept == pytest.approx(CURVE.intercept, abs=0.2)
    assert fitted.slope == pytest.approx(CURVE.slope, abs=0.3)


def test_three_in_four_people_say_yes_above_the_agreed_score():
    cosines, yes_shares = asked_pairs()
    calibration = fit_calibration(cosines, yes_shares)
    reached = calibration.scores(cosines) >= AGREED_SCORE
    assert yes_shares[reached].mean() == pytest.approx(0.75, abs=0.01)
    lower = calibration.scores(cosines) >= AGREED_SCORE - 0.05
    assert yes_shares[lower].mean() < 0.74, "no lower cosine would do"


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_pairs_that_similarity_says_nothing_of_cannot_be_calibrated(share):
    with pytest.raises(CaptionerError, match="no curve"):
        fit_calibration(np.linspace(0, 0.9, 500), np.full(500, share))


def test_captions_must_be_more_alike_than_all_pairs_that_too_few_people_say_yes_to():
    cosines = np.linspace(0, 0.5, 500)
    assert fit_calibration(cosines, CURVE.shares(cosines)).cosine == 0.5


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
    "value",
    [
        {"cosine": 1.5, "yes_curve": None},
        {"cosine": 0.5, "yes_curve": {"intercept": 0, "slope": -1}},
        {"cosine": 0.5, "yes_curve": [1]},
        {},
        None,
    ],
)
def test_a_damaged_calibration_is_refused(value):
    with pytest.raises(CaptionerError, match="calibration"):
        Calibration.from_json(value)


def test_a_calibration_survives_being_written():
    for calibration in (Calibration(), Calibration(0.7, CURVE)):
        assert Calibration.from_json(calibration.to_json()) == calibration


class Judge(HashedWords):
    """An encoder of which it is known what people think of its cosines."""

    calibration = Calibration(0.7, CURVE)


def test_captions_of_images_of_one_kind_are_judged_to_fit():
    captions = {
        "a": ["red dog", "dog red", "red dog"],
        "b": ["red dog", "red dog", "dog red"],
        "c": ["blue cat", "cat blue", "blue cat"],
    }
    cosines, yes_shares = judge_pairs(captions, HashedWords(), Judge())
    assert len(cosines) == len(yes_shares) == 18, "six captions of others for each image"
    np.testing.assert_allclose(yes_shares, CURVE.shares(cosines))
    assert np.sum(yes_shares > 0.9) == 6, "the captions of a and b, and no other"


def test_a_judge_that_nobody_compared_with_people_is_refused():
    with pytest.raises(CaptionerError, match="choose another --judge"):
        judge_pairs({"a": ["x y"] * 3, "b": ["x"] * 3}, HashedWords(), HashedWords())


def test_too_few_captions_cannot_be_judged():
    with pytest.raises(CaptionerError, match="three captions"):
        judge_pairs({"a": ["x y"], "b": ["x"]}, HashedWords(), Judge())


def test_the_scores_of_an_encoder_that_is_not_calibrated_yet_are_its_cosines():
    cosines = np.linspace(-1, 1, 9)
    np.testing.assert_allclose(shipped_calibration("new").scores(cosines), cosines)
