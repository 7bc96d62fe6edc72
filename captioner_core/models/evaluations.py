"""The CIDEr scores that ``captioner evaluate`` recorded in a model folder."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

import pyarrow as pa

from captioner_core.captioning.saved_model import CONFIG, METRICS
from captioner_core.errors import CaptionerError, first_line
from captioner_core.io import storage
from captioner_core.io.json_text import JsonObject
from captioner_core.tables import layout


@dataclass(frozen=True)
class RecordedScore:
    """A CIDEr score that ``captioner evaluate`` recorded.

    Args:
      references: Fingerprint of the captions that the score was measured against; None in a record
        without one.
      beam_width: Beam width of the search.
      is_default_width: Whether this is the model's own beam width.
      cider: The score.
    """

    references: str | None
    beam_width: object
    is_default_width: bool
    cider: float

    def is_comparable_to(self, other: RecordedScore) -> bool:
        """Returns whether both scores have the same references and comparable beam widths.

        Beam widths are comparable if they are equal, or if each is its model's own.
        """
        has_default_widths = self.is_default_width and other.is_default_width
        has_same_width = has_default_widths or self.beam_width == other.beam_width
        return self.references == other.references and has_same_width


def read_scores(folder: str, split: str) -> list[RecordedScore]:
    """Returns the recorded scores of a model on a split, the latest last.

    Scores that were recorded for other weights in the same folder are left out.

    Raises:
      CaptionerError: The folder is not a model folder.
    """
    config = read_model_json(folder, CONFIG)
    metrics = read_model_json(folder, METRICS)
    evaluations = metrics.get("evaluations")
    recorded = []
    for evaluation in evaluations if isinstance(evaluations, list) else ():
        if not isinstance(evaluation, dict) or evaluation.get("split") != split:
            continue
        scores = evaluation.get("scores")
        cider = scores.get("CIDEr") if isinstance(scores, dict) else None
        if evaluation.get("model_id") != metrics.get("model_id") or not is_finite_number(cider):
            continue
        references = evaluation.get("references")
        width = evaluation.get("beam_width")
        recorded.append(
            RecordedScore(
                references if isinstance(references, str) else None,
                width,
                width == config.get("beam_width"),
                float(cider),
            )
        )
    return recorded


def latest_dev_cider(folder: str) -> float | None:
    """Returns the latest recorded CIDEr on the dev split; None without one.

    Scores at the model's own beam width come before all others.

    Raises:
      CaptionerError: The folder is not a model folder.
    """
    scores = read_scores(folder, "dev")
    preferred = [score for score in scores if score.is_default_width] or scores
    return preferred[-1].cider if preferred else None


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Returns whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def read_model_json(folder: str, name: str) -> JsonObject:
    """Returns the JSON object in a file of a model folder.

    Raises:
      CaptionerError: The file is missing, cannot be read, or holds no JSON object.
    """
    uri = layout.join(folder, name)
    try:
        value = storage.read_json(uri)
    except FileNotFoundError as error:
        raise CaptionerError(
            f"model folder {folder!r} has no {name}; name a folder made by captioner train"
        ) from error
    except (OSError, ValueError) as error:
        raise CaptionerError(
            f"{uri!r} can't be read ({first_line(error)}); copy the model again"
        ) from error
    if not isinstance(value, dict):
        raise CaptionerError(f"{uri!r} is not a JSON object; copy the model again")
    return value


@contextlib.contextmanager
def one_line_errors(uri: str) -> Iterator[None]:
    """Turns the errors of a file system into a ``CaptionerError`` of one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise CaptionerError(
            f"{uri!r} can't be read ({first_line(error)}); check address and credentials"
        ) from error
