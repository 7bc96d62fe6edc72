"""What a cosine in an encoder's space is worth: a monotone map to scores that mean the same for every encoder.

Raw cosines don't compare between spaces: of human captions, the plain mean of word vectors puts
most pairs above 0.6. So every encoder's cosines are stretched, in order, so that of the pairs of
captions that score 0.9 or more at least four in five are right.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io import outputs
from captioner_core.options import ENCODERS

AGREED_SCORE = 0.9
"""The score at which encoders agree …"""
PRECISION = 0.8
"""… that at least this share of the pairs at or above it is right; see ``judging``."""
CURVE_EDGES = (-1.0, 0.0, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
"""Scores between which the share of fitting pairs is kept."""
_LEAST_PAIRS = 30  # that the share has to be of


@dataclass(frozen=True)
class Calibration:
    """A monotone map of cosines to scores, both −1 to 1.

    Args:
      cosine: the raw cosine that becomes ``AGREED_SCORE``; straight lines lead from it to −1 and 1.
      precision: for each two neighbours of ``CURVE_EDGES``, the share of pairs scoring between
        them that are right; rises with the score.
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
        """The scores of cosines, in the same order."""
        mapped: npt.NDArray[np.float64] = np.interp(
            cosines, (-1.0, self.cosine, 1.0), (-1.0, AGREED_SCORE, 1.0)
        )
        return mapped

    def cosines(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """What ``scores`` came from."""
        mapped: npt.NDArray[np.float64] = np.interp(
            scores, (-1.0, AGREED_SCORE, 1.0), (-1.0, self.cosine, 1.0)
        )
        return mapped

    def to_json(self) -> dict[str, Any]:
        return {"cosine": self.cosine, "precision": list(self.precision)}

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Reads what ``to_json`` made.

        Raises:
          CaptionerError: it is something else.
        """
        try:
            return cls(float(value["cosine"]), tuple(map(float, value["precision"])))
        except (KeyError, TypeError, ValueError) as error:
            raise CaptionerError(f"calibration is damaged ({error!r}); fit it again") from error


def fit_calibration(
    cosines: npt.NDArray[np.floating[Any]], fits: npt.NDArray[np.bool_]
) -> Calibration:
    """The calibration that some judged pairs of captions ask for.

    Args:
      cosines: float [pairs], raw.
      fits: bool [pairs], whether each pair is right.

    Raises:
      CaptionerError: no cosine parts off enough right pairs.
    """
    order = np.argsort(-cosines, kind="stable")
    falling = cosines[order].astype(np.float64)
    share = np.cumsum(fits[order]) / np.arange(1, len(order) + 1)
    last_of_ties = np.append(falling[1:] != falling[:-1], True)
    # a handful of pairs at the top says little, whichever way it falls
    enough = np.flatnonzero(
        last_of_ties
        & (share >= PRECISION)
        & (np.arange(len(order)) >= min(_LEAST_PAIRS, len(order) - 1))
    )
    if not len(enough) or not -1 < falling[enough[-1]] < 1:
        raise CaptionerError(
            f"no cosine has {PRECISION:.0%} right pairs above it; fit it on captions that overlap"
        )
    calibration = Calibration(float(falling[enough[-1]]))
    place = np.digitize(calibration.scores(falling), CURVE_EDGES[1:-1])
    pairs = np.bincount(place, minlength=len(CURVE_EDGES) - 1).astype(np.float64)
    good = np.bincount(place, weights=fits[order], minlength=len(CURVE_EDGES) - 1).astype(
        np.float64
    )
    return Calibration(calibration.cosine, tuple(round(value, 6) for value in _rising(good, pairs)))


def _rising(good: npt.NDArray[np.float64], total: npt.NDArray[np.float64]) -> Sequence[float]:
    """The rising shares nearest to ``good / total``: neighbours out of order are pooled.

    Ayer et al. 1955 (https://doi.org/10.1214/aoms/1177728423).
    """
    pools: list[list[float]] = []
    for one, count in zip(good, total, strict=True):
        pools.append([float(one), float(count), 1])
        while len(pools) > 1 and pools[-2][0] * pools[-1][1] >= pools[-1][0] * pools[-2][1]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return [pool[0] / pool[1] if pool[1] else 0.0 for pool in pools for _ in range(int(pool[2]))]


def is_calibrations(data: bytes) -> bool:
    """Returns whether a file holds calibrations of encoders by their names, as ``captioner calibrate`` writes them."""
    listed = outputs.parse_object(data)
    if not listed or not set(listed) <= set(ENCODERS):
        return False
    try:
        for value in listed.values():
            Calibration.from_json(value)
    except CaptionerError:
        return False
    return True


def shipped_calibration(encoder: str) -> Calibration:
    """The calibration of an encoder that has no folder of its own, fitted by ``captioner calibrate``."""
    path = resources.files("captioner_core.text.encoders") / "calibrations.json"
    return Calibration.from_json(json.loads(path.read_text(encoding="utf-8"))[encoder])
