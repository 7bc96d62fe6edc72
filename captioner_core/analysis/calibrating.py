"""Calibrates an encoder: finds the cosine above which its matches are right."""

import json
from dataclasses import dataclass
from pathlib import Path

from captioner_core.errors import CaptionerError
from captioner_core.io.outputs import check_output_file, parse_object, replacing
from captioner_core.options import CalibrateOptions
from captioner_core.text.encoders import judging, load_encoder
from captioner_core.text.encoders.calibration import (
    Calibration,
    fit_calibration,
    is_calibrations,
)
from captioner_core.training.dataset import read_captions_by_split


@dataclass(frozen=True)
class CalibrationReport:
    """A calibration and what it was fitted to.

    Args:
      calibration: The calibration.
      pairs: The number of judged caption pairs.
      right_share: The share of pairs that are right to match.
      reached: The number of pairs that reach the cosine which becomes the score 0.9.
      precision: The share of those that are right.
      recall: The share of all right pairs that are among them.
    """

    calibration: Calibration
    pairs: int
    right_share: float
    reached: int
    precision: float
    recall: float


def calibrate(options: CalibrateOptions) -> CalibrationReport:
    """Fits an encoder's calibration and writes it into a file of calibrations.

    Raises:
      CaptionerError: The dataset has no such split, or the file may not be written.
    """
    inputs = {"--dataset": [options.dataset]}
    check_output_file(options.output, is_own=is_calibrations, inputs=inputs)
    captions = read_captions_by_split(options.dataset).get(options.split)
    if not captions:
        raise CaptionerError(
            f"dataset {options.dataset!r} has no split {options.split!r}; choose another --split"
        )
    encoder = load_encoder(options.encoder)
    cosines, is_right = judging.judge_pairs(captions, encoder, load_encoder(options.judge))
    calibration = fit_calibration(cosines, is_right)
    _write(Path(options.output), options.encoder, calibration)
    reached = is_right[cosines >= calibration.cosine]
    return CalibrationReport(
        calibration=calibration,
        pairs=len(is_right),
        right_share=float(is_right.mean()),
        reached=len(reached),
        precision=float(reached.mean()),
        recall=float(reached.sum() / is_right.sum()),
    )


def _write(path: Path, encoder: str, calibration: Calibration) -> None:
    """Sets the calibration of an encoder in a file; the other encoders' stay."""
    calibrations = (parse_object(path.read_bytes()) or {}) if path.exists() else {}
    calibrations[encoder] = calibration.to_json()
    text = json.dumps(dict(sorted(calibrations.items())), indent=2) + "\n"
    with replacing(path, is_own=is_calibrations) as staged:
        staged.write_text(text, encoding="utf-8")
