"""What each threshold lets through: matches, and how many of them are right, for a captions table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io import outputs
from captioner_core.matching.loading import read_captions
from captioner_core.text.encoders.base import TextEncoder
from captioner_core.text.encoders.calibration import CURVE_EDGES

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(11))
MAX_QUERIES = 2_000
_FINE = 400  # bins of a score from -1 to 1, so that every threshold begins one; one more is for 1 itself
_INDEX_BLOCK = 16_384


@dataclass(frozen=True)
class ThresholdRow:
    """What one threshold lets through.

    Args:
      threshold: least score of a match.
      matches: mean number of captions of other images that a caption matches.
      precision: estimated share of these that are right.
      recall: estimated share of all right pairs that are among these.
    """

    threshold: float
    matches: float
    precision: float
    recall: float


def threshold_rows(
    uri: str,
    encoder: TextEncoder,
    splits: Sequence[str] = (),
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
) -> list[ThresholdRow]:
    """The captions of a table against each other; at most ``MAX_QUERIES`` ask, drawn at random.

    How many pairs are right at which score was measured once, on pairs that others' captions of
    the same images judge (see ``judging``), and is taken from the encoder's calibration.

    Args:
      uri: captions table of a run or a dataset.
      encoder: calibrated, with its curve.
      splits: of a dataset, these alone.
      thresholds: to say it for.
      seed: of the captions that ask.

    Raises:
      CaptionerError: fewer than two images, or the encoder has no curve.
    """
    records = sorted(set(read_captions(uri, splits)))
    if len({image_id for image_id, _ in records}) < 2:
        raise CaptionerError(
            f"captions table {uri!r} has fewer than two images; there is nothing to compare"
        )
    if not encoder.calibration.precision:
        raise CaptionerError(
            f"encoder {encoder.name!r} has no curve of right pairs; calibrate it again"
        )
    asking = np.arange(len(records))
    if len(asking) > MAX_QUERIES:
        asking = np.sort(
            np.random.default_rng(seed).choice(len(records), MAX_QUERIES, replace=False)
        )
    counts = _score_counts([records[place] for place in asking.tolist()], records, encoder)
    middle = (np.arange(_FINE + 1) + 0.5) * (2 / _FINE) - 1
    right = counts * np.array(encoder.calibration.precision)[np.digitize(middle, CURVE_EDGES[1:-1])]
    rows = []
    for threshold in thresholds:
        above = slice(round((threshold + 1) * _FINE / 2), None)
        reached, good = counts[above].sum(), right[above].sum()
        precision = good / reached if reached else float("nan")
        recall = good / right.sum() if right.sum() else float("nan")
        rows.append(
            ThresholdRow(threshold, float(reached / len(asking)), float(precision), float(recall))
        )
    return rows


def _score_counts(
    asking: Sequence[tuple[str, str]], records: Sequence[tuple[str, str]], encoder: TextEncoder
) -> npt.NDArray[np.float64]:
    """How many pairs of captions of two images have which score, in ``_FINE + 1`` bins from −1 to 1."""
    distinct, count = np.unique([caption for _, caption in records], return_counts=True)
    asked = encoder.encode([caption for _, caption in asking])
    asked = asked[asked.any(axis=1)]
    total = np.zeros(_FINE + 1)
    for start in range(0, len(distinct), _INDEX_BLOCK):
        vectors = encoder.encode(distinct[start : start + _INDEX_BLOCK].tolist())
        known = vectors.any(axis=1)
        weights = np.broadcast_to(
            count[start : start + _INDEX_BLOCK][known], (len(asked), int(known.sum()))
        )
        total += _counted(asked @ vectors[known].T, encoder, weights)
    return np.asarray(np.maximum(total - _own(asking, records, encoder), 0))


def _own(
    asking: Sequence[tuple[str, str]], records: Sequence[tuple[str, str]], encoder: TextEncoder
) -> npt.NDArray[np.float64]:
    """The same of pairs of captions of one image, which are no matches."""
    of_image: dict[str, list[str]] = {}
    for image_id, caption in records:
        of_image.setdefault(image_id, []).append(caption)
    pairs = [(caption, other) for image_id, caption in asking for other in of_image[image_id]]
    one, other = (encoder.encode([pair[side] for pair in pairs]) for side in (0, 1))
    known = one.any(axis=1) & other.any(axis=1)
    products = np.einsum("nd,nd->n", one[known], other[known])
    return _counted(products, encoder, np.ones(len(products)))


def _counted(
    products: npt.NDArray[np.float32], encoder: TextEncoder, weights: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    scores = encoder.calibration.scores(np.clip(products.astype(np.float64), -1, 1))
    # a score on a bin's edge must not fall below it
    bins = np.floor((np.round(scores, 6) + 1) * (_FINE / 2) + 1e-5).astype(np.int64)
    counted = np.bincount(
        bins.ravel(), weights=np.asarray(weights, np.float64).ravel(), minlength=_FINE + 1
    )
    return counted.astype(np.float64)


def draw_thresholds(rows: Sequence[ThresholdRow], target: str) -> None:
    """Matches, precision and recall by threshold, as an SVG or PNG file by its name.

    The file states captioner as the program that made it, so that it is known later.

    Raises:
      CaptionerError: the file can't be written, or exists and captioner did not make it.
    """
    from matplotlib.figure import Figure  # takes half a second

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    at = [row.threshold for row in rows]
    (precision,) = left.plot(at, [row.precision for row in rows], "o-", color="#0969da")
    (recall,) = left.plot(at, [row.recall for row in rows], "s-", color="#bc4c00")
    (matches,) = right.plot(at, [row.matches for row in rows], "^--", color="#59636e")
    left.set(xlabel="threshold", ylabel="share", ylim=(0, 1.02))
    right.set(ylabel="matches a caption", yscale="symlog", ylim=(0, None))
    left.legend(
        [precision, recall, matches],
        ["right", "of all right", "matches a caption"],
        loc="center right",
    )
    left.grid(axis="y", color="#d0d7de", linewidth=0.8)
    file_format = _format_of(target)
    made_by = {
        "svg": {"Creator": outputs.PROGRAM, "Date": None},
        "png": {outputs.PNG_SOFTWARE: outputs.PROGRAM},
    }
    try:
        with outputs.replacing(target, is_own=outputs.is_own_picture) as made:
            figure.savefig(made, format=file_format, metadata=made_by.get(file_format))
    except (OSError, ValueError) as error:
        if isinstance(error, CaptionerError):
            raise
        raise CaptionerError(
            f"plot {target!r} can't be written ({error}); name another --output"
        ) from error


def check_plot(target: str, inputs: outputs.Inputs) -> None:
    """Refuses, before any work, a plot that may not or cannot be written; changes nothing.

    Raises:
      CaptionerError: the name's ending is no format of pictures, or see ``outputs.check_output_file``.
    """
    from matplotlib.figure import Figure  # takes half a second

    formats = Figure().canvas.get_supported_filetypes()
    if _format_of(target) not in formats:
        raise CaptionerError(f"--output {target!r} must end in .svg or .png; name such a file")
    outputs.check_output_file(target, is_own=outputs.is_own_picture, inputs=inputs)


def _format_of(target: str) -> str:
    return os.path.splitext(target)[1].removeprefix(".").lower()
