"""What people said: whether a caption describes an image.

A folder of judgements holds two CSV files. ``captions.csv`` has the columns ``image_id``,
``caption_index`` and ``caption``: what people wrote of each image. ``crowd.csv`` has ``image_id``,
``caption_image_id``, ``caption_index`` and ``yes_share``: the share of people who say that this
caption, which was written for ``caption_image_id``, describes ``image_id``. Hodosh, Young and
Hockenmaier 2013 (https://doi.org/10.1613/jair.3994, section 3) asked these questions for Flickr8k.
Three experts graded other pairs: ``expert.csv`` has ``grade_1`` to ``grade_3`` instead.

An encoder sees no image, so it compares the caption with what people wrote of the image: the
nearest of these decides, as in a match.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError
from captioner_core.text.calibration.judging import nearest_cosines
from captioner_core.text.encoders.base import TextEncoder

CAPTIONS = "captions.csv"
CROWD = "crowd.csv"
EXPERT = "expert.csv"
FITTED_HALF = 0
MEASURED_HALF = 1


@dataclass(frozen=True)
class Judgements:
    """Judged pairs of an image and a caption of another image.

    Args:
      captions: what people wrote of each image.
      images: the image of each pair.
      texts: the caption of each pair.
      yes_shares: float64 [pairs], the share of people who say that the caption describes the image.
    """

    captions: Mapping[str, Sequence[str]]
    images: Sequence[str]
    texts: Sequence[str]
    yes_shares: npt.NDArray[np.float64]

    def cosines(self, encoder: TextEncoder) -> npt.NDArray[np.float64]:
        """Returns float64 [pairs]: the cosine of each caption and the nearest of its image's."""
        return nearest_cosines(self.captions, self.images, self.texts, encoder)

    def half(self, number: int) -> Judgements:
        """Returns the pairs of ``FITTED_HALF`` or ``MEASURED_HALF`` of the images."""
        kept = [row for row, image in enumerate(self.images) if half_of(image) == number]
        return Judgements(
            self.captions,
            [self.images[row] for row in kept],
            [self.texts[row] for row in kept],
            self.yes_shares[kept],
        )


def half_of(image_id: str) -> int:
    """Returns the half that an image belongs to, 0 or 1, by the hash of its id."""
    return hashlib.sha256(image_id.encode("utf-8")).digest()[0] % 2


def read_judgements(folder: str) -> Judgements:
    """Reads what the crowd said. Judgements of an image's own captions are left out.

    Raises:
      CaptionerError: a file is missing, or lacks a column, a number or a caption.
    """
    return _read(folder, CROWD, ("yes_share",))


def read_expert_judgements(folder: str) -> Judgements:
    """Reads the mean grade that experts gave, from 1 to 4, in place of a share of yes.

    Raises:
      CaptionerError: as ``read_judgements``.
    """
    return _read(folder, EXPERT, ("grade_1", "grade_2", "grade_3"))


def _read(folder: str, name: str, columns: Sequence[str]) -> Judgements:
    """Reads a file of judgements, and the mean of some columns of each row."""
    try:
        by_index = {
            (row["image_id"], row["caption_index"]): row["caption"]
            for row in _read_rows(Path(folder, CAPTIONS))
        }
        rows = [
            row
            for row in _read_rows(Path(folder, name))
            if row["image_id"] != row["caption_image_id"]
        ]
        texts = [by_index[row["caption_image_id"], row["caption_index"]] for row in rows]
        values = np.array([[float(row[column]) for column in columns] for row in rows])
        means = values.mean(axis=1)
    except (OSError, KeyError, ValueError) as error:
        raise CaptionerError(
            f"judgements {folder!r} can't be read ({error!r}); name a folder with {CAPTIONS} and "
            f"{name}"
        ) from error
    captions: dict[str, list[str]] = {}
    for (image, _), text in by_index.items():
        captions.setdefault(image, []).append(text)
    return Judgements(captions, [row["image_id"] for row in rows], texts, means)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
