"""Calibration: turns the cosines of an encoder into scores that mean the same for every encoder.

Raw cosines of different encoders cannot be compared. For the plain mean of word vectors, for
example, most pairs of human captions are above 0.6. So each encoder's cosines are stretched,
without changing their order, such that a score of 0.9 has the same meaning everywhere: asked
whether a caption that scores 0.9 or more describes the other image, three in four people say yes.
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
AGREED_YES_SHARE = 0.75
"""The share of people who say yes to pairs at or above ``AGREED_SCORE``."""


@dataclass(frozen=True)
class YesCurve:
    """The share of people who say that a caption describes an image, by the pair's cosine.

    It is 1 / (1 + exp(-(intercept + slope * cosine))), as Platt 1999 calibrates classifiers.

    >>> YesCurve(intercept=-8.0, slope=10.0).shares(np.array([0.5, 0.8, 1.0])).round(2)
    array([0.05, 0.5 , 0.88])

    Args:
      intercept: see above.
      slope: see above; positive, so that more similar captions have more agreement.
    """

    intercept: float
    slope: float

    def shares(self, cosines: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
        """Returns the expected share of people who say yes, for each cosine."""
        return np.asarray(1 / (1 + np.exp(-(self.intercept + self.slope * cosines))), np.float64)


@dataclass(frozen=True)
class Calibration:
    """A monotone map from cosines to scores, both from −1 to 1.

    >>> calibration = Calibration(cosine=0.8)
    >>> calibration.scores(np.array([0.8, 0.9, 1.0]))
    array([0.9 , 0.95, 1.  ])

    Args:
      cosine: the cosine that becomes ``AGREED_SCORE``. The map is linear below and above it.
      yes_curve: the share of people who say yes, by cosine; None if that is not known.

    Raises:
      CaptionerError: a value is out of range.
    """

    cosine: float = AGREED_SCORE
    yes_curve: YesCurve | None = None

    def __post_init__(self) -> None:
        if not -1 < self.cosine < 1:
            raise CaptionerError(
                f"calibration: cosine {self.cosine} must be above -1 and below 1; fit it again"
            )
        if self.yes_curve and not self.yes_curve.slope > 0:
            raise CaptionerError(
                f"calibration: slope {self.yes_curve.slope} must be above 0; fit it again"
            )

    def scores(self, cosines: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the score of each cosine."""
        return np.asarray(np.interp(cosines, (-1.0, self.cosine, 1.0), (-1.0, AGREED_SCORE, 1.0)))

    def cosines(self, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Returns the cosine of each score; the inverse of ``scores``."""
        return np.asarray(np.interp(scores, (-1.0, AGREED_SCORE, 1.0), (-1.0, self.cosine, 1.0)))

    def to_json(self) -> dict[str, Any]:
        """Returns the calibration as a JSON object."""
        curve = self.yes_curve
        return {
            "cosine": self.cosine,
            "yes_curve": curve and {"intercept": curve.intercept, "slope": curve.slope},
        }

    @classmethod
    def from_json(cls, value: Any) -> Calibration:
        """Reads what ``to_json`` returned.

        Raises:
          CaptionerError: it is something else.
        """
        try:
            curve = value["yes_curve"]
            if curve is not None:
                curve = YesCurve(float(curve["intercept"]), float(curve["slope"]))
            return cls(float(value["cosine"]), curve)
        except (KeyError, TypeError, ValueError) as error:
            raise CaptionerError(f"calibration is damaged ({error!r}); fit it again") from error


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
