"""Figures about a whole run, for its report. Tables are streamed, so any number of rows fits."""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from captioner_core.captioning.saved_model import METRICS, model_path
from captioner_core.io import storage
from captioner_core.options import PRETRAINED
from captioner_core.report.plots import Epoch, ReliabilityPoint, ScoreCounts
from captioner_core.report.run_reader import Row, RunReader
from captioner_core.security.allowed_roots import is_allowed
from captioner_core.tables import layout, schemas

MAX_FAILURES = 200
"""The number of failures that a report lists."""
MAX_COMMON_CAPTIONS = 10
"""The number of captions in a report's list of the most frequent ones."""


@dataclass(frozen=True)
class MatchStats:
    """Figures about a run's matches.

    Args:
      matched: number of query images with a match.
      uncertain: number of query images that were not matched, since their caption is uncertain.
      queries: number of query images.
      best_scores: the score of the most similar image of each query image.
      match_scores: the scores of all matches.
    """

    matched: int
    uncertain: int
    queries: int
    best_scores: ScoreCounts
    match_scores: ScoreCounts


@dataclass(frozen=True)
class CaptionStats:
    """Figures about a run's captions.

    Args:
      total: number of captions.
      distinct: number of different captions.
      unique: number of captions that only one image has.
      common: the most frequent captions and how many images have each, most frequent first.
      lengths: number of captions by number of words, in order.
    """

    total: int
    distinct: int
    unique: int
    common: list[tuple[str, int]]
    lengths: Mapping[int, int]


@dataclass(frozen=True)
class FailureStats:
    """A run's failures.

    Args:
      total: number of failures.
      by_type: number of failures by error type, most frequent first.
      rows: the first ``MAX_FAILURES`` failures, by stage and image.
    """

    total: int
    by_type: list[tuple[str, int]]
    rows: list[Row]


class StageTime(NamedTuple):
    """A stage and how long it took, in seconds."""

    stage: str
    seconds: float


def match_stats(run: RunReader) -> MatchStats:
    """Returns figures about a run's matches."""
    best_scores = ScoreCounts()
    match_scores = ScoreCounts()
    statuses: Counter[str] = Counter()
    queries = 0
    for batch in run.batches(layout.MATCH_SUMMARY, ("status", "best_score")):
        queries += batch.num_rows
        for status in (schemas.MATCHED, schemas.UNCERTAIN):
            statuses[status] += pc.sum(pc.equal(batch.column("status"), status)).as_py() or 0
        best_scores.add(batch.column("best_score").to_numpy(zero_copy_only=False))
    for batch in run.batches(layout.MATCHES, ("score",)):
        match_scores.add(batch.column("score").to_numpy(zero_copy_only=False))
    return MatchStats(
        matched=statuses[schemas.MATCHED],
        uncertain=statuses[schemas.UNCERTAIN],
        queries=queries,
        best_scores=best_scores,
        match_scores=match_scores,
    )


def caption_stats(run: RunReader) -> CaptionStats:
    """Returns figures about a run's captions."""
    counts: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for batch in run.batches(layout.CAPTIONS, ("caption", "n_tokens")):
        for entry in pc.value_counts(batch.column("caption")).to_pylist():
            counts[entry["values"]] += entry["counts"]
        word_counts = batch.column("n_tokens").to_numpy(zero_copy_only=False)
        values, numbers = np.unique(word_counts, return_counts=True)
        lengths.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return CaptionStats(
        total=counts.total(),
        distinct=len(counts),
        unique=sum(count == 1 for count in counts.values()),
        common=heapq.nsmallest(MAX_COMMON_CAPTIONS, counts.items(), key=_by_count),
        lengths=dict(sorted(lengths.items())),
    )


def failure_stats(run: RunReader) -> FailureStats:
    """Returns a run's failures, counted by type."""
    counts: Counter[str] = Counter()
    columns = ("stage", "image_id", "error_type", "error_message")
    rows = _tally(run.rows(layout.FAILURES, columns), counts)
    # Sorted, so that the list does not depend on how the rows are spread over part files.
    first = heapq.nsmallest(
        MAX_FAILURES, rows, key=lambda row: (row["stage"], row["image_id"], row["error_type"])
    )
    return FailureStats(counts.total(), sorted(counts.items(), key=_by_count), first)


def _tally(rows: Iterable[Row], counts: Counter[str]) -> Iterator[Row]:
    for row in rows:
        counts[row["error_type"]] += 1
        yield row


def _by_count(item: tuple[str, int]) -> tuple[int, str]:
    """Returns a sort key that puts the most frequent text first, and breaks ties by the text."""
    text, count = item
    return -count, text


def read_model_metrics(run: RunReader) -> Mapping[str, Any]:
    """Returns the metrics of the run's model.

    The result is empty if the model's folder is not on this machine, is outside the allowed
    roots, or does not hold captioner's metrics.
    """
    path = run.section("model").get("path")
    if not isinstance(path, str) or "://" in path or not (path == PRETRAINED or is_allowed(path)):
        return {}
    file = model_path(path) / METRICS
    try:
        metrics = storage.read_json(str(file)) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def training_history(metrics: Mapping[str, Any]) -> list[Epoch]:
    """Returns the losses of each epoch of a model's training; empty if they are not recorded.

    Epochs of self-critical training have a reward in place of a loss and are left out.
    """
    try:
        epochs = [
            Epoch(int(record["epoch"]), float(record["train_loss"]), float(record["dev_loss"]))
            for record in metrics["history"]
            if record["train_loss"] is not None
        ]
    except (ValueError, TypeError, KeyError):
        return []  # Not captioner's metrics.json; the report says that there is no history.
    return [
        epoch
        for epoch in epochs
        if math.isfinite(epoch.train_loss) and math.isfinite(epoch.dev_loss)
    ]


def reliability_points(metrics: Mapping[str, Any]) -> list[ReliabilityPoint]:
    """Returns how well captions score by how likely the model found them.

    The points are those of the model's last evaluation on the dev split. The result is empty if
    there are fewer than two.
    """
    try:
        evaluations = [record for record in metrics["evaluations"] if record["split"] == "dev"]
        points = [
            ReliabilityPoint(float(fifth["word_probability"]), float(fifth["cider"]))
            for fifth in evaluations[-1]["reliability"]
        ]
    except (ValueError, TypeError, KeyError, IndexError):
        return []
    return points if len(points) > 1 else []


def stage_times(run: RunReader) -> list[StageTime]:
    """Returns how long each stage of a run took, as far as the manifest says so."""
    records = {
        name: record for name, record in run.section("stages").items() if isinstance(record, dict)
    }
    return [
        StageTime(name, record["wall_time_s"])
        for name, record in records.items()
        if isinstance(record.get("wall_time_s"), int | float)
    ]
