"""Collects what a finished run says and renders it as one HTML page.

The tables are streamed: what is kept is the images shown, counts, and the distinct
captions. All text in them is a stranger's, so every value passes through ``escape_control_chars`` and
Jinja's autoescape on its way into the page.
"""

from __future__ import annotations

import datetime
import functools
import heapq
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jinja2
import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as pads
from markupsafe import Markup

from captioner_core.captioning.saved_model import METRICS, model_path
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import PRETRAINED
from captioner_core.report import plots
from captioner_core.report.pictures import (
    CARD_SIDE,
    MATCH_SIDE,
    Gallery,
    ImageFinder,
    Picture,
    id_filter,
)
from captioner_core.runs import commits, run_files
from captioner_core.runs.identity import collection_of_run
from captioner_core.security.allowed_roots import is_allowed
from captioner_core.security.redaction import escape_control_chars
from captioner_core.tables import layout
from captioner_core.tables.schemas import COLLECTION_COLUMNS, MATCHED

T = TypeVar("T")

MAX_FAILURES = 200
MAX_COMMON = 10
_TEXT_LIMIT = 500
_PICTURE = "data:image/jpeg;base64,"
_CAPTION_COLUMNS = ("image_id", "caption", "log_prob")
_SUMMARY_COLUMNS = (
    "query_image_id",
    "query_collection",
    "query_caption",
    "status",
    "n_above_threshold",
    "best_score",
    "best_match_image_id",
    "best_match_collection",
)
_MATCH_COLUMNS = (
    "query_image_id",
    "query_collection",
    "rank",
    "match_image_id",
    "match_collection",
    "match_caption",
    "match_source",
    "score",
    "feature_score",
    "image_text_score",
    "is_duplicate",
)


@dataclass(frozen=True)
class Match:
    """One of a card's matches; the scores that are not known are None."""

    rank: int
    picture: Picture
    image_id: str
    collection: str | None
    caption: str
    source: str
    score: float
    feature_score: float | None
    image_text_score: float | None
    is_duplicate: bool


@dataclass(frozen=True)
class Closest:
    """The best image that fell short of the threshold; its captions as far as they are known."""

    picture: Picture
    image_id: str
    collection: str | None
    captions: list[str]


@dataclass(frozen=True)
class Card:
    """One new image with its caption and matches; ``status`` is None where nothing was matched."""

    image_id: str
    collection: str | None
    picture: Picture
    caption: str
    log_prob: float | None
    status: str | None
    n_above: int
    best_score: float | None
    matches: list[Match]
    closest: Closest | None


@dataclass(frozen=True)
class Summary:
    """What a whole run's match_summary and matches come to."""

    matched: int
    queries: int
    best_scores: plots.ScoreCounts
    match_scores: plots.ScoreCounts


@dataclass(frozen=True)
class Captions:
    """What a whole run's captions come to; ``unique`` of them belong to one image alone."""

    total: int
    distinct: int
    unique: int
    common: list[tuple[str, int]]
    lengths: Mapping[int, int]


@dataclass(frozen=True)
class Failures:
    """A run's failures: counts by type, and the first rows in order of stage and image."""

    total: int
    by_type: list[tuple[str, int]]
    rows: list[dict[str, str]]


def write_report(run_dir: str, *, max_images: int = 100) -> str:
    """Writes a run's ``report/index.html``: one file that needs nothing else and no network.

    Args:
      run_dir: ``ROOT/runs/RUN_ID`` of a finished run.
      max_images: most images shown; of more, as many are taken at even distances by image id.

    Returns:
      The URI of the page.

    Raises:
      CaptionerError: the run is missing or not complete; or no picture can be opened now, and the report that is there
        shows some.
      OSError: the page can't be written.
    """
    if max_images < 0:
        raise CaptionerError(f"--max-images {max_images} must be 0 or more; 100 is the default")
    manifest = commits.read_manifest(run_dir)
    run = _Run(run_dir, manifest)
    values = _collect(run, max_images)
    page = _render(values)
    uri = layout.join(run_dir, "report", "index.html")
    if values["cards"] and _PICTURE not in page and _has_pictures(uri):
        raise CaptionerError(
            f"report {uri!r} shows pictures, and none of them can be opened now, so it stays as it is; put the images "
            f"back where they were (--images was {run.options.get('images')!r}), or delete the report first"
        )
    run_files.claim_report(run_dir)
    storage.write_text(uri, page)
    return uri


def _has_pictures(uri: str) -> bool:
    """Returns whether a report is there that shows pictures."""
    try:
        return _PICTURE.encode() in storage.read_bytes(uri)
    except FileNotFoundError:
        return False


class _Run:
    """The tables and the manifest of a finished run, whatever is missing from either."""

    def __init__(self, run_dir: str, manifest: commits.Manifest) -> None:
        self.run_dir = run_dir
        self.manifest = manifest
        self.counts = {name: n for name, n in self.facts("counts").items() if isinstance(n, int)}
        self.options = self.facts("options")

    def facts(self, name: str) -> dict[str, Any]:
        value = self.manifest.get(name)
        return value if isinstance(value, dict) else {}

    def number(self, option: str) -> float | None:
        value = self.options.get(option)
        return value if isinstance(value, int | float) and math.isfinite(value) else None

    def table(self, name: str) -> pads.Dataset | None:
        """A table of the run; None where the run has no row of it.

        Raises:
          CaptionerError: the manifest counts rows that aren't there.
        """
        uri = layout.join(self.run_dir, name)
        if storage.list_parts(uri):
            return storage.open_table(uri, f"{name} table")
        if self.counts.get(name, 0):
            raise CaptionerError(
                f"run {self.run_dir!r} lacks its {name} table, though manifest.json counts "
                f"{self.counts[name]} rows of it; run it again"
            )
        return None

    def batches(
        self, name: str, columns: Sequence[str], ids: Sequence[str] | None = None
    ) -> Iterator[Any]:
        """A table's rows; with ``ids``, those alone whose first column is one of them."""
        table = self.table(name)
        if table is not None:
            there = [column for column in columns if column in table.schema.names]
            missing = [
                column
                for column in columns
                if column not in there and column not in COLLECTION_COLUMNS
            ]
            if missing:
                raise CaptionerError(
                    f"run {self.run_dir!r}: {name} has no column {missing[0]!r}; run it again"
                )
            chosen = None if ids is None else id_filter(table, columns[0], ids)
            yield from table.to_batches(columns=there, filter=chosen)

    def rows(
        self, name: str, columns: Sequence[str], ids: Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        absent = dict.fromkeys(COLLECTION_COLUMNS.intersection(columns))
        for batch in self.batches(name, columns, ids):
            yield from ({**absent, **row} for row in batch.to_pylist())

    @functools.cached_property
    def own_collection(self) -> str | None:
        """The collection of the images that the run captioned; None where its matches name no collections."""
        matched = self.table(layout.MATCH_SUMMARY)
        if matched is not None and "query_collection" not in matched.schema.names:
            return None
        return collection_of_run(self.manifest, self.run_dir)

    @property
    def captions_tables(self) -> list[str]:
        """Where images and captions of either side of a match may be listed."""
        listed = [self.options.get(name) for name in ("index", "captions")]
        tables = [
            uri for uris in listed if isinstance(uris, list) for uri in uris if isinstance(uri, str)
        ]
        return [*tables, layout.join(self.run_dir, layout.CAPTIONS)]


class _ImageName(NamedTuple):
    """What identifies an image of the run; the collection is None in tables of earlier versions."""

    image_id: str
    collection: str | None


def sample_evenly(items: Sequence[T], limit: int) -> list[T]:
    """Returns at most ``limit`` of the items, in order, at even distances, the first and last among them.

    >>> spread("abcdefghi", 3)
    ['a', 'e', 'i']
    """
    if len(items) <= limit:
        return list(items)
    if limit < 2:
        return list(items[:limit])
    return [items[n * (len(items) - 1) // (limit - 1)] for n in range(limit)]


def _images(run: _Run, captioned: bool) -> set[_ImageName]:
    """Returns the images that the run captioned, or else those that it matched."""
    if not captioned:
        rows = run.rows(layout.MATCH_SUMMARY, ("query_image_id", "query_collection"))
        return {_ImageName(row["query_image_id"], row["query_collection"]) for row in rows}
    own = run.own_collection
    return {_ImageName(row["image_id"], own) for row in run.rows(layout.CAPTIONS, ("image_id",))}


def _collect(run: _Run, max_images: int) -> dict[str, Any]:
    """Everything that the template shows, by the names it uses."""
    captioned = layout.CAPTION in run.facts("stages") or run.table(layout.CAPTIONS) is not None
    images = sorted(
        _images(run, captioned), key=lambda image: (image.image_id, image.collection or "")
    )
    gallery = Gallery()
    cards = _cards(run, sample_evenly(images, max_images), gallery)
    summary, captions = _summary(run), _captions(run)
    threshold = run.number("threshold")
    metrics = _metrics(run)
    history, known = _history(metrics), _reliability(metrics)
    return {
        "run": run,
        "created": _when(run.manifest.get("created_utc")),
        "cards": cards,
        "images_total": len(images),
        "has_several_collections": len({image.collection for image in images}) > 1,
        "shared_pictures": gallery.load(),
        "summary": summary,
        "captions": captions,
        "captioned": captioned,
        "was_matched": layout.MATCH in run.facts("stages") or summary.queries > 0,
        "failures": _failures(run),
        "threshold": threshold,
        "history": history,
        "wall_times": _wall_times(run),
        "match_plot": _plot(
            summary.match_scores.total,
            plots.score_histogram,
            summary.match_scores,
            threshold,
            "matches",
        ),
        "best_plot": _plot(
            summary.best_scores.total,
            plots.score_histogram,
            summary.best_scores,
            threshold,
            "images",
        ),
        "length_plot": _plot(len(captions.lengths), plots.length_histogram, captions.lengths),
        "training_plot": _plot(len(history), plots.training_curve, history),
        "reliability_plot": _plot(len(known), plots.reliability_curve, *known),
    }


def _plot(amount: int, draw: Callable[..., str], *data: Any) -> Markup | None:
    """The plot, or None where there is nothing to draw; safe as it is, since plots hold numbers only."""
    return Markup(draw(*data)) if amount else None  # noqa: S704


def _cards(run: _Run, shown: Sequence[_ImageName], gallery: Gallery) -> list[Card]:
    ids = [image.image_id for image in shown]
    own = run.own_collection
    captions = {
        _ImageName(row["image_id"], own): row
        for row in run.rows(layout.CAPTIONS, _CAPTION_COLUMNS, ids)
    }
    summaries = {_query(row): row for row in run.rows(layout.MATCH_SUMMARY, _SUMMARY_COLUMNS, ids)}
    matches: dict[_ImageName, list[dict[str, Any]]] = {}
    for row in run.rows(layout.MATCHES, _MATCH_COLUMNS, ids):
        matches.setdefault(_query(row), []).append(row)
    wanted = {*ids, *(row["match_image_id"] for rows in matches.values() for row in rows)}
    wanted |= {
        row["best_match_image_id"] for row in summaries.values() if row["best_match_image_id"]
    }
    images = run.options.get("images")
    trusted = [run.run_dir, *([images] if isinstance(images, str) else [])]
    finder = ImageFinder(run.captions_tables, wanted, trusted)
    return [
        _card(
            image,
            captions.get(image),
            summaries.get(image),
            matches.get(image, []),
            finder,
            gallery,
        )
        for image in shown
    ]


def _query(row: Mapping[str, Any]) -> _ImageName:
    return _ImageName(row["query_image_id"], row["query_collection"])


def _card(
    image: _ImageName,
    own: Mapping[str, Any] | None,
    summary: Mapping[str, Any] | None,
    matches: list[dict[str, Any]],
    finder: ImageFinder,
    gallery: Gallery,
) -> Card:
    caption = own["caption"] if own else summary["query_caption"] if summary else ""
    closest = None
    if summary and summary["best_match_image_id"] and not matches:
        closest = _closest(
            summary["best_match_image_id"], summary["best_match_collection"], finder, gallery
        )
    return Card(
        image_id=image.image_id,
        collection=image.collection,
        picture=gallery.show(finder.location(image.image_id, caption, image.collection), CARD_SIDE),
        caption=caption,
        log_prob=_known(own["log_prob"]) if own else None,
        status=summary["status"] if summary else None,
        n_above=summary["n_above_threshold"] if summary else 0,
        best_score=_known(summary["best_score"]) if summary else None,
        matches=[
            _match(row, finder, gallery) for row in sorted(matches, key=lambda row: row["rank"])
        ],
        closest=closest,
    )


def _closest(
    image_id: str, collection: str | None, finder: ImageFinder, gallery: Gallery
) -> Closest:
    picture = gallery.show(finder.location(image_id, collection=collection), MATCH_SIDE)
    return Closest(picture, image_id, collection, finder.captions(image_id, collection))


def _match(row: Mapping[str, Any], finder: ImageFinder, gallery: Gallery) -> Match:
    image_id, caption, collection = (
        row["match_image_id"],
        row["match_caption"],
        row["match_collection"],
    )
    return Match(
        rank=row["rank"],
        picture=gallery.show(finder.location(image_id, caption, collection), MATCH_SIDE),
        image_id=image_id,
        collection=collection,
        caption=caption,
        source=row["match_source"],
        score=row["score"],
        feature_score=_known(row["feature_score"]),
        image_text_score=_known(row["image_text_score"]),
        is_duplicate=row["is_duplicate"],
    )


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _summary(run: _Run) -> Summary:
    best, all_scores = plots.ScoreCounts(), plots.ScoreCounts()
    matched = queries = 0
    for batch in run.batches(layout.MATCH_SUMMARY, ("status", "best_score")):
        queries += batch.num_rows
        matched += pc.sum(pc.equal(batch.column("status"), MATCHED)).as_py() or 0
        best.add(batch.column("best_score").to_numpy(zero_copy_only=False))
    for batch in run.batches(layout.MATCHES, ("score",)):
        all_scores.add(batch.column("score").to_numpy(zero_copy_only=False))
    return Summary(matched, queries, best, all_scores)


def _captions(run: _Run) -> Captions:
    counts: Counter[str] = Counter()
    lengths: Counter[int] = Counter()
    for batch in run.batches(layout.CAPTIONS, ("caption", "n_tokens")):
        for found in pc.value_counts(batch.column("caption")).to_pylist():
            counts[found["values"]] += found["counts"]
        values, numbers = np.unique(
            batch.column("n_tokens").to_numpy(zero_copy_only=False), return_counts=True
        )
        lengths.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    common = heapq.nsmallest(MAX_COMMON, counts.items(), key=lambda item: (-item[1], item[0]))
    unique = sum(number == 1 for number in counts.values())
    return Captions(counts.total(), len(counts), unique, common, dict(sorted(lengths.items())))


def _failures(run: _Run) -> Failures:
    counts: Counter[str] = Counter()

    def counted(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
        for row in rows:
            counts[row["error_type"]] += 1
            yield row

    rows = counted(run.rows(layout.FAILURES, ("stage", "image_id", "error_type", "error_message")))
    # the first in order, whichever part files the rows are in
    first = heapq.nsmallest(
        MAX_FAILURES, rows, key=lambda row: (row["stage"], row["image_id"], row["error_type"])
    )
    by_type = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return Failures(counts.total(), by_type, first)


def _metrics(run: _Run) -> dict[str, Any]:
    """The metrics of the run's model; empty where its folder isn't here or holds another program's."""
    path = run.facts("model").get("path")
    if not isinstance(path, str) or "://" in path or not (path == PRETRAINED or is_allowed(path)):
        return {}
    file = model_path(path) / METRICS
    try:
        metrics = storage.read_json(str(file)) if file.is_file() else {}
    except (OSError, ValueError):
        return {}
    return metrics if isinstance(metrics, dict) else {}


def _history(metrics: Mapping[str, Any]) -> list[plots.Epoch]:
    """The training history beside the model; self-critical epochs have a reward in place of a loss."""
    try:
        listed = [e for e in metrics["history"] if e["train_loss"] is not None]
        epochs = [
            plots.Epoch(int(e["epoch"]), float(e["train_loss"]), float(e["dev_loss"]))
            for e in listed
        ]
    except (ValueError, TypeError, KeyError):
        return []  # another program's metrics.json: the section says that there is none
    return [one for one in epochs if math.isfinite(one.train_loss) and math.isfinite(one.dev_loss)]


def _reliability(metrics: Mapping[str, Any]) -> list[list[float]]:
    """Word probabilities and CIDEr of the model's last evaluation on dev; empty where there is none."""
    try:
        listed = [one for one in metrics["evaluations"] if one["split"] == "dev"][-1]["reliability"]
        points = [(float(fifth["word_probability"]), float(fifth["cider"])) for fifth in listed]
    except (ValueError, TypeError, KeyError, IndexError):
        return []
    return [list(axis) for axis in zip(*points, strict=True)] if len(points) > 1 else []


def _wall_times(run: _Run) -> list[tuple[str, float]]:
    stages = run.facts("stages")
    times = {
        name: stage.get("wall_time_s") for name, stage in stages.items() if isinstance(stage, dict)
    }
    return [(name, seconds) for name, seconds in times.items() if isinstance(seconds, int | float)]


def _when(created: object) -> str:
    try:
        moment = datetime.datetime.fromisoformat(str(created)).astimezone(datetime.UTC)
    except ValueError:
        return "at an unknown time"
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _percent(part: int, whole: int) -> str:
    """Rounded down, so that 100 % is said of all and no fewer."""
    return f"{math.floor(1000 * part / whole) / 10:g} %" if whole else "–"


def _score(value: float) -> str:
    """Three decimals, rounded down, so that what fell short of a threshold doesn't look as if it met it."""
    return f"{math.floor(value * 1000 + 1e-3) / 1000:.3f}"


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    return (
        f"{value:.1f} s"
        if value < 60
        else f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {seconds} s"
    )


def _plain(value: Any) -> str:
    """An option or a version as text: strings as they are, lists one to a line's worth, the rest as JSON."""
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return (
        value
        if isinstance(value, str)
        else "none"
        if value is None
        else json.dumps(value, ensure_ascii=False)
    )


def _short(text: str, limit: int = _TEXT_LIMIT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _finalize(value: Any) -> Any:
    return (
        escape_control_chars(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent_of": _percent,
        "score": _score,
        "seconds": _seconds,
        "plain": _plain,
        "short": _short,
        "thousands": lambda number: f"{number:,}",
    }
    return environment


def _render(values: dict[str, Any]) -> str:
    return _environment().get_template("report.html.j2").render(values)
