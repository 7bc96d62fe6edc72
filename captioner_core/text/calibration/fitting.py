"""Fits the calibration of an encoder to pairs that people judged."""

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.encoders.calibration import (
    AGREED_YES_SHARE,
    Calibration,
    YesCurve,
)

_MAX_STEPS = 100
_HIGHEST = 0.999
"""Scores must have room above the cosine that becomes 0.9: identical captions score 1."""


def fit_calibration(
    cosines: npt.NDArray[np.float64], yes_shares: npt.NDArray[np.float64]
) -> Calibration:
    """Returns the calibration that judged pairs call for.

    First a curve of the share of yes by cosine is fitted. The lowest cosine above which the pairs
    have, by this curve, a share of ``AGREED_YES_SHARE`` becomes ``AGREED_SCORE``. The curve and not
    the shares themselves decide, because few pairs are that similar. If no pairs have such a share,
    the highest cosine does, so that only captions that are more alike than all of them reach 0.9.

    Args:
      cosines: float64 [pairs], raw.
      yes_shares: float64 [pairs], the share of people who say yes to each pair, from 0 to 1.

    Raises:
      CaptionerError: the shares do not rise with the cosines.
    """
    curve = fit_yes_curve(cosines, yes_shares)
    descending = np.sort(cosines)[::-1]
    share_above = np.cumsum(curve.shares(descending)) / np.arange(1, len(descending) + 1)
    cosine = descending[max(0, int((share_above >= AGREED_YES_SHARE).sum()) - 1)]
    return Calibration(round(float(np.clip(cosine, -_HIGHEST, _HIGHEST)), 6), curve)


def fit_yes_curve(
    cosines: npt.NDArray[np.float64], yes_shares: npt.NDArray[np.float64]
) -> YesCurve:
    """Returns the curve of the highest likelihood: logistic regression by Newton's method.

    Args:
      cosines: float64 [pairs].
      yes_shares: float64 [pairs], from 0 to 1.

    Raises:
      CaptionerError: the shares do not rise with the cosines, so that no curve fits them.
    """
    inputs = np.stack([np.ones_like(cosines), cosines], axis=1)
    weights = fit_logistic(inputs, yes_shares)
    if weights is None or weights[1] <= 0:
        raise CaptionerError(
            f"{len(cosines)} judged pairs have no curve of agreement by cosine; judge more of them"
        )
    return YesCurve(round(float(weights[0]), 6), round(float(weights[1]), 6))


def fit_logistic(
    inputs: npt.NDArray[np.float64], shares: npt.NDArray[np.float64], penalty: float = 0.0
) -> npt.NDArray[np.float64] | None:
    """Returns the weights of a logistic regression, by Newton's method.

    Args:
      inputs: float64 [rows, weights].
      shares: float64 [rows], the share of successes of each row, from 0 to 1.
      penalty: the weight of the squared weights, which keeps them small where rows are few.

    Returns:
      float64 [weights]; None if the rows do not determine them.
    """
    weights = np.zeros(inputs.shape[1])
    for _ in range(_MAX_STEPS):
        expected = 1 / (1 + np.exp(-(inputs @ weights)))
        gradient = inputs.T @ (shares - expected) - penalty * weights
        curvature = (inputs.T * (expected * (1 - expected))) @ inputs
        curvature += penalty * np.eye(len(weights))
        try:
            step = np.linalg.solve(curvature, gradient)
        except np.linalg.LinAlgError:
            return None
        weights += step
        if np.abs(step).max() < 1e-9:
            return weights
    return None
