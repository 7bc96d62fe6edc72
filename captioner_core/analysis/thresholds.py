"""Estimates, for a captions table, how many matches a threshold gives and how many people agree."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.io import outputs
from captioner_core.matching.loading import read_captions
from captioner_core.text.encoders.base import TextEncoder

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(11))
MAX_QUERIES = 2_000
"""The number of captions that are compared with all others; of more, a random sample is used."""
# Bins of a score from -1 to 1, so many that every threshold is the lower edge of a bin. The score
# 1 has a bin of its own after them.
_BINS = 400
INDEX_BLOCK = 16_384

_ImageCaption = tuple[str, str]
"""An image id and one of the image's captions."""


@dataclass(frozen=True)
class ThresholdRow:
    """The matches that one threshold gives.

    Args:
      threshold: the lowest score of a match.
      matches: mean number of captions of other images that a caption matches.
      yes_share: estimated share of people who say that the caption of a match describes the image;
        NaN if there are no matches.
      recall: estimated share of all pairs to which people say yes that are matches; NaN if there
        are no pairs.
    """

    threshold: float
    matches: float
    yes_share: float
    recall: float


def threshold_rows(
    uri: str,
    encoder: TextEncoder,
    splits: Sequence[str] = (),
    thresholds: Sequence[float] = THRESHOLDS,
    min_confidence: float = 0.0,
    seed: int = 0,
) -> list[ThresholdRow]:
    """Returns what each threshold gives when a table's captions are matched with each other.

    What people think of pairs with a certain score is not measured here. It is taken from the
    encoder's calibration.

    Args:
      uri: captions table of a run or a dataset.
      encoder: a calibrated encoder, with its curve of agreement.
      splits: the splits of a dataset to use; empty for all.
      thresholds: the thresholds.
      min_confidence: leaves out generated captions with less confidence.
      seed: of the random sample of captions, if the table has more than ``MAX_QUERIES``.

    Raises:
      CaptionerError: the table has fewer than two images, or the encoder has no curve.
    """
    captions = sorted(set(read_captions(uri, splits, min_confidence)))
    if len({image_id for image_id, _ in captions}) < 2:
        raise CaptionerError(
            f"captions table {uri!r} has fewer than two images; there is nothing to compare"
        )
    curve = encoder.calibration.yes_curve
    if curve is None:
        raise CaptionerError(
            f"encoder {encoder.name!r} has no curve of agreement; calibrate it again"
        )
    queries = captions
    if len(captions) > MAX_QUERIES:
        generator = np.random.default_rng(seed)
        sample = np.sort(generator.choice(len(captions), MAX_QUERIES, replace=False))
        queries = [captions[number] for number in sample.tolist()]
    pairs = _score_counts(queries, captions, encoder)
    bin_centres = (np.arange(_BINS + 1) + 0.5) * (2 / _BINS) - 1
    cosines = encoder.calibration.cosines(np.minimum(bin_centres, 1.0))
    yes_pairs = pairs * curve.shares(cosines)
    return [_threshold_row(threshold, pairs, yes_pairs, len(queries)) for threshold in thresholds]


def _threshold_row(
    threshold: float,
    pairs: npt.NDArray[np.float64],
    yes_pairs: npt.NDArray[np.float64],
    query_count: int,
) -> ThresholdRow:
    """Returns what a threshold gives.

    Args:
      threshold: the threshold.
      pairs: float64 [bins], number of pairs by score.
      yes_pairs: float64 [bins], estimated number of pairs with a yes, by score.
      query_count: number of captions that were compared with all others.
    """
    first_bin = round((threshold + 1) * _BINS / 2)
    reached = pairs[first_bin:].sum()
    with_yes = yes_pairs[first_bin:].sum()
    all_with_yes = yes_pairs.sum()
    return ThresholdRow(
        threshold=threshold,
        matches=float(reached / query_count),
        yes_share=float(with_yes / reached) if reached else float("nan"),
        recall=float(with_yes / all_with_yes) if all_with_yes else float("nan"),
    )


def _score_counts(
    queries: Sequence[_ImageCaption], captions: Sequence[_ImageCaption], encoder: TextEncoder
) -> npt.NDArray[np.float64]:
    """Returns how many pairs of captions of two different images have which score.

    Captions in which the encoder knows no word have no vector and are left out.

    Args:
      queries: the captions on the one side.
      captions: the captions on the other side, the queries among them.
      encoder: the encoder.

    Returns:
      float64 [bins + 1], number of pairs by score from -1 to 1.
    """
    distinct, repeats = np.unique([caption for _, caption in captions], return_counts=True)
    query_vectors = encoder.encode([caption for _, caption in queries])
    query_vectors = query_vectors[query_vectors.any(axis=1)]
    total = np.zeros(_BINS + 1)
    for start in range(0, len(distinct), INDEX_BLOCK):
        vectors = encoder.encode(distinct[start : start + INDEX_BLOCK].tolist())
        has_vector = vectors.any(axis=1)
        products = query_vectors @ vectors[has_vector].T
        weights = repeats[start : start + INDEX_BLOCK][has_vector]
        total += _count_by_score(products, encoder, np.broadcast_to(weights, products.shape))
    return np.asarray(np.maximum(total - _same_image_counts(queries, captions, encoder), 0))


def _same_image_counts(
    queries: Sequence[_ImageCaption], captions: Sequence[_ImageCaption], encoder: TextEncoder
) -> npt.NDArray[np.float64]:
    """Returns how many pairs of captions of the same image have which score.

    ``_score_counts`` subtracts them, because an image does not match itself. Arguments and result
    are the same as there.
    """
    by_image: dict[str, list[str]] = {}
    for image_id, caption in captions:
        by_image.setdefault(image_id, []).append(caption)
    pairs = [(caption, other) for image_id, caption in queries for other in by_image[image_id]]
    left = encoder.encode([caption for caption, _ in pairs])
    right = encoder.encode([other for _, other in pairs])
    has_vectors = left.any(axis=1) & right.any(axis=1)
    products = np.einsum("nd,nd->n", left[has_vectors], right[has_vectors])
    return _count_by_score(products, encoder, np.ones(len(products)))


def _count_by_score(
    products: npt.NDArray[np.float32], encoder: TextEncoder, weights: npt.NDArray[np.generic]
) -> npt.NDArray[np.float64]:
    """Returns how many pairs have which score.

    Args:
      products: float32, the dot product of each pair's vectors, in any shape.
      encoder: the encoder, whose calibration turns products into scores.
      weights: how often each pair counts, in the same shape.

    Returns:
      float64 [bins + 1].
    """
    scores = encoder.calibration.scores(np.clip(products.astype(np.float64), -1, 1))
    # The small addition keeps a score on the edge of a bin in that bin.
    bins = np.floor((np.round(scores, 6) + 1) * (_BINS / 2) + 1e-5).astype(np.int64)
    flat_weights = np.asarray(weights, np.float64).ravel()
    return np.bincount(bins.ravel(), weights=flat_weights, minlength=_BINS + 1).astype(np.float64)


def draw_thresholds(rows: Sequence[ThresholdRow], target: str) -> None:
    """Draws matches, agreement and recall by threshold.

    The file names captioner as the program that made it, so that captioner may replace it later.

    Args:
      rows: the rows of ``threshold_rows``.
      target: path of an SVG or PNG file; the ending of its name decides which.

    Raises:
      CaptionerError: the file cannot be written, or exists and captioner did not make it.
    """
    from matplotlib.figure import Figure  # Takes half a second.

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    thresholds = [row.threshold for row in rows]
    (agreement,) = left.plot(thresholds, [row.yes_share for row in rows], "o-", color="#0969da")
    (recall,) = left.plot(thresholds, [row.recall for row in rows], "s-", color="#bc4c00")
    (matches,) = right.plot(thresholds, [row.matches for row in rows], "^--", color="#59636e")
    left.set(xlabel="threshold", ylabel="share", ylim=(0, 1.02))
    right.set(ylabel="matches a caption", yscale="symlog", ylim=(0, None))
    left.legend(
        [agreement, recall, matches],
        ["people say yes", "of all pairs with a yes", "matches a caption"],
        loc="center right",
    )
    left.grid(axis="y", color="#d0d7de", linewidth=0.8)
    file_format = _format_of(target)
    metadata = {
        "svg": {"Creator": outputs.PROGRAM, "Date": None},
        "png": {outputs.PNG_SOFTWARE: outputs.PROGRAM},
    }
    try:
        with outputs.replacing(target, is_own=outputs.is_own_picture) as path:
            figure.savefig(path, format=file_format, metadata=metadata.get(file_format))
    except (OSError, ValueError) as error:
        if isinstance(error, CaptionerError):
            raise
        raise CaptionerError(
            f"plot {target!r} cannot be written ({error}); choose another --output"
        ) from error


def check_plot(target: str, inputs: outputs.Inputs) -> None:
    """Refuses, before any work, a plot that captioner may not or cannot write.

    Args:
      target: path of the plot.
      inputs: the paths that are to be read, by the option that names them.

    Raises:
      CaptionerError: the name has no ending of a picture format, or the file may not be written;
        see ``outputs.check_output_file``.
    """
    from matplotlib.figure import Figure  # Takes half a second.

    if _format_of(target) not in Figure().canvas.get_supported_filetypes():
        raise CaptionerError(f"--output {target!r} must end in .svg or .png; rename it")
    outputs.check_output_file(target, is_own=outputs.is_own_picture, inputs=inputs)


def _format_of(target: str) -> str:
    return os.path.splitext(target)[1].removeprefix(".").lower()
