"""Calibration: turns the cosines of an encoder into scores that mean the same for every encoder.

Raw cosines of different encoders cannot be compared. For the plain mean of word vectors, for
example, most pairs of human captions are above 0.6. So each encoder's cosines are stretched,
without changing their order, such that a score of 0.9 has the same meaning everywhere: of the
caption pairs that score 0.9 or more, at least four in five are right.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io import outputs
from captioner_core.options import ENCODERS

AGREED_SCORE = 0.9
"""The score that means the same for every encoder."""
AGREED_PRECISION = 0.8
"""The share of right pairs, among those at or above ``AGREED_SCORE``; see ``judging``."""
CURVE_EDGES = (-1.0, 0.0, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Bounds of the score intervals for which a calibration keeps the share of right pairs."""
_MIN_PAIRS = 30
"""A share of fewer pairs than this says little, so it does not decide a calibration."""


@dataclass(frozen=True)
class Calibration:
    """A monotone map from cosines to scores, both from −1 to 1.

    >>> calibration = Calibration(cosine=0.8)
    >>> calibration.scores(np.array([0.8, 0.9, 1.0]))
    array([0.9 , 0.95, 1.  ])

    Args:
      cosine: the cosine that becomes ``AGREED_SCORE``. The map is linear below and above it.
      precision: for each interval between ``CURVE_EDGES``, the share of right pairs among those
        that score in it. The shares do not decrease with the score.

    Raises:
      CaptionerError: a value is out of range, or the number of shares is wrong.
    """

    cosine: float = AGREED_SCORE
    precision: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not -1 < self.cosine < 1:
            raise CaptionerError(
                f"calibration: cosine {self.cosine} must be above -1 and below 1; fit it again"
            )
        if self.precision and len(self.precision) != len(CURVE_EDGES) - 1:
            raise CaptionerError(
                f"calibration: {len(CURVE_EDGES) - 1} shares are needed; fit it again"
            )

    def scores(self, cosines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the score of each cosine."""
        return np.asarray(np.interp(cosines, (-1.0, self.cosine, 1.0), (-1.0, AGREED_SCORE, 1.0)))

    def cosines(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the cosine of each score; the inverse of ``scores``."""
        return np.asarray(np.interp(scores, (-1.0, AGREED_SCORE, 1.0), (-1.0, self.cosine, 1.0)))

    def to_json(self) -> dict[str, float | list[float]]:
        """Returns the calibration as a JSON object."""
        return {"cosine": self.cosine, "precision": list(self.precision)}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Reads what ``to_json`` returned.

        Raises:
          CaptionerError: it is something else.
        """
        try:
            return cls(float(value["cosine"]), tuple(map(float, value["precision"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CaptionerError(f"calibration is damaged ({error!r}); fit it again") from error


def fit_calibration(
    cosines: npt.NDArray[np.floating[Any]], is_right: npt.NDArray[np.bool_]
) -> Calibration:
    """Returns the calibration that judged caption pairs call for.

    It maps the lowest cosine above which enough pairs are right to ``AGREED_SCORE``.

    Args:
      cosines: float [pairs], raw.
      is_right: bool [pairs], whether each pair was judged right.

    Raises:
      CaptionerError: there is no cosine above which enough pairs are right.
    """
    order = np.argsort(-cosines, kind="stable")
    descending = cosines[order].astype(np.float64)
    is_right = is_right[order]
    rank = np.arange(len(order))
    share_above = np.cumsum(is_right) / (rank + 1)
    # Pairs of equal cosine are all above a bound or all below it.
    is_last_of_ties = np.append(descending[1:] != descending[:-1], True)
    has_enough_pairs = rank >= min(_MIN_PAIRS, len(order) - 1)
    bounds = np.flatnonzero(is_last_of_ties & has_enough_pairs & (share_above >= AGREED_PRECISION))
    if not len(bounds) or not -1 < descending[bounds[-1]] < 1:
        raise CaptionerError(
            f"no cosine has {AGREED_PRECISION:.0%} right pairs above it; fit it on captions that "
            "overlap"
        )
    cosine = float(descending[bounds[-1]])
    interval = np.digitize(Calibration(cosine).scores(descending), CURVE_EDGES[1:-1])
    pairs = np.bincount(interval, minlength=len(CURVE_EDGES) - 1)
    right = np.bincount(interval[is_right], minlength=len(CURVE_EDGES) - 1)
    shares = _isotonic_shares(right.tolist(), pairs.tolist())
    return Calibration(cosine, tuple(round(share, 6) for share in shares))


def _isotonic_shares(right: list[int], total: list[int]) -> list[float]:
    """Returns the non-decreasing shares that are nearest to ``right / total``.

    Neighbours in the wrong order are pooled until none are left: the pool-adjacent-violators
    algorithm, Ayer et al. 1955 (https://doi.org/10.1214/aoms/1177728423).

    Args:
      right: the number of right pairs in each interval.
      total: the number of pairs in each interval.
    """
    pools: list[tuple[int, int, int]] = []  # right pairs, pairs, and intervals of each pool
    for pool in zip(right, total, [1] * len(total), strict=True):
        while pools and pools[-1][0] * pool[1] >= pool[0] * pools[-1][1]:
            previous = pools.pop()
            pool = (previous[0] + pool[0], previous[1] + pool[1], previous[2] + pool[2])
        pools.append(pool)
    return [
        n_right / n_pairs if n_pairs else 0.0
        for n_right, n_pairs, n_intervals in pools
        for _ in range(n_intervals)
    ]


def is_calibrations(data: bytes) -> bool:
    """Returns whether a file holds calibrations, as ``captioner calibrate`` writes them."""
    values = outputs.parse_object(data)
    if not values or not set(values) <= set(ENCODERS):
        return False
    try:
        for value in values.values():
            Calibration.from_json(value)
    except CaptionerError:
        return False
    return True


def shipped_calibration(encoder: str) -> Calibration:
    """Returns the calibration of an encoder that has no folder of its own.

    ``captioner calibrate`` fitted it; it comes with the package. A new encoder has none until then,
    and its scores are its cosines.
    """
    path = resources.files("captioner_core.text.encoders") / "calibrations.json"
    calibrations = json.loads(path.read_text(encoding="utf-8"))
    if encoder not in calibrations:
        return Calibration()
    return Calibration.from_json(calibrations[encoder])
