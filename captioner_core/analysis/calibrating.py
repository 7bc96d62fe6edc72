"""Calibrates an encoder: finds the cosine above which people agree with its matches."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioner_core.analysis.intervals import Interval, bootstrap_interval
from captioner_core.errors import CaptionerError
from captioner_core.io.outputs import check_output_file, parse_object, replacing
from captioner_core.options import CalibrateOptions
from captioner_core.text.calibration.fitting import fit_calibration
from captioner_core.text.calibration.judgements import (
    FITTED_HALF,
    MEASURED_HALF,
    Judgements,
    read_judgements,
)
from captioner_core.text.calibration.judging import judge_pairs
from captioner_core.text.encoders import load_encoder
from captioner_core.text.encoders.base import TextEncoder
from captioner_core.text.encoders.calibration import Calibration, is_calibrations
from captioner_core.training.dataset import read_captions_by_split


@dataclass(frozen=True)
class Agreement:
    """The agreement of people with the pairs that reach the score 0.9.

    Args:
      pairs: The number of judged pairs.
      reached: The number of those that reach the score.
      yes_share: The mean share of people who say yes to those; NaN if there are none.
      interval: The 95 % interval of ``yes_share``, over other images; None if it is not known.
    """

    pairs: int
    reached: int
    yes_share: float
    interval: Interval | None = None


def calibrate(options: CalibrateOptions) -> tuple[Calibration, Agreement]:
    """Fits an encoder's calibration and writes it into a file of calibrations.

    Returns:
      The calibration, and its agreement: with people, on images it was not fitted to; without
      ``--judgements``, with the judge, on the pairs it was fitted to.

    Raises:
      CaptionerError: The judgements cannot be read, the dataset has no such split, or the file may
        not be written.
    """
    inputs = {"--dataset": [options.dataset], "--judgements": [options.judgements]}
    check_output_file(
        options.output,
        is_own=is_calibrations,
        inputs={name: uris for name, uris in inputs.items() if any(uris)},
    )
    encoder = load_encoder(options.encoder)
    if options.judgements:
        judgements = read_judgements(options.judgements)
        fitted = judgements.half(FITTED_HALF)
        calibration = fit_calibration(fitted.cosines(encoder), fitted.yes_shares)
        agreement = agreement_with_people(judgements.half(MEASURED_HALF), encoder, calibration)
    else:
        cosines, yes_shares = _judge_dataset(options, encoder)
        calibration = fit_calibration(cosines, yes_shares)
        reached = yes_shares[cosines >= calibration.cosine]
        agreement = Agreement(len(cosines), len(reached), float(reached.mean()))
    _write(Path(options.output), options.encoder, calibration)
    return calibration, agreement


def agreement_with_people(
    judgements: Judgements, encoder: TextEncoder, calibration: Calibration
) -> Agreement:
    """Returns how many people agree with the judged pairs that reach the score 0.9."""
    is_reached = judgements.cosines(encoder) >= calibration.cosine
    yes_shares = judgements.yes_shares[is_reached]
    if not len(yes_shares):
        return Agreement(len(is_reached), 0, float("nan"))
    _, image = np.unique(judgements.images, return_inverse=True)
    statistics = np.zeros((image.max() + 1, 2))
    np.add.at(statistics, image[is_reached], np.stack([yes_shares, np.ones(len(yes_shares))], 1))
    interval = bootstrap_interval(statistics, _ratio)
    return Agreement(len(is_reached), len(yes_shares), float(yes_shares.mean()), interval)


def _ratio(means: npt.NDArray[np.float64]) -> float:
    return float(means[0] / means[1]) if means[1] else 0.0


def _judge_dataset(
    options: CalibrateOptions, encoder: TextEncoder
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Returns what ``judge_pairs`` says of the captions of a dataset's split."""
    captions = read_captions_by_split(options.dataset).get(options.split)
    if not captions:
        raise CaptionerError(
            f"dataset {options.dataset!r} has no split {options.split!r}; choose another --split"
        )
    return judge_pairs(captions, encoder, load_encoder(options.judge))


def _write(path: Path, encoder: str, calibration: Calibration) -> None:
    """Sets the calibration of an encoder in a file; the other encoders' stay."""
    calibrations = (parse_object(path.read_bytes()) or {}) if path.exists() else {}
    calibrations[encoder] = calibration.to_json()
    text = json.dumps(dict(sorted(calibrations.items())), indent=2) + "\n"
    with replacing(path, is_own=is_calibrations) as staged:
        staged.write_text(text, encoding="utf-8")
