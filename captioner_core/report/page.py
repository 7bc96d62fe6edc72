"""Writes the report of a finished run: one HTML page that needs no other file and no network.

Tables are streamed. In memory are only the images shown, counts, and the distinct captions.
"""

import datetime
from collections.abc import Callable
from typing import Any

from markupsafe import Markup

from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.report import plots, run_reader, statistics, template
from captioner_core.report.cards import list_images, make_cards, sample_evenly
from captioner_core.report.pictures import DATA_URI_PREFIX, Gallery
from captioner_core.runs import commits, run_files
from captioner_core.tables import layout


def write_report(run_dir: str, *, max_images: int = 100) -> str:
    """Writes ``report/index.html`` into a run's folder.

    Args:
      run_dir: the folder of a finished run, ``ROOT/runs/RUN_ID``.
      max_images: the number of images to show at most. If the run has more, images at even
        distances in the order of their ids are shown.

    Returns:
      The path or URI of the page.

    Raises:
      CaptionerError: the run is missing or not complete, or none of its pictures can be opened
        now although the existing report shows some.
      OSError: the page cannot be written.
    """
    if max_images < 0:
        raise CaptionerError(f"--max-images {max_images} must be 0 or more; 100 is the default")
    run = run_reader.RunReader(run_dir, commits.read_manifest(run_dir))
    values = _collect_values(run, max_images)
    page = template.render(values)
    uri = layout.join(run_dir, "report", "index.html")
    if values["cards"] and DATA_URI_PREFIX not in page and _has_pictures(uri):
        raise CaptionerError(
            f"report {uri!r} shows pictures, but none of them can be opened now, so it is left as "
            "it is; put the images back where they were (--images was "
            f"{run.options.get('images')!r}), or delete the report first"
        )
    run_files.claim_report(run_dir)
    storage.write_text(uri, page)
    return uri


def _has_pictures(uri: str) -> bool:
    try:
        return DATA_URI_PREFIX.encode() in storage.read_bytes(uri)
    except FileNotFoundError:
        return False


def _collect_values(run: run_reader.RunReader, max_images: int) -> dict[str, object]:
    captioned = layout.CAPTION in run.section("stages") or run.table(layout.CAPTIONS) is not None
    images = list_images(run, captioned)
    gallery = Gallery()
    cards = make_cards(run, sample_evenly(images, max_images), gallery)
    summary = statistics.match_stats(run)
    captions = statistics.caption_stats(run)
    threshold = run.number("threshold")
    metrics = statistics.read_model_metrics(run)
    history = statistics.training_history(metrics)
    points = statistics.reliability_points(metrics)
    return {
        "run": run,
        "created": _format_time(run.manifest.get("created_utc")),
        "cards": cards,
        "images_total": len(images),
        "has_several_collections": len({image.collection for image in images}) > 1,
        "shared_pictures": gallery.load(),
        "summary": summary,
        "captions": captions,
        "captioned": captioned,
        "was_matched": layout.MATCH in run.section("stages") or summary.queries > 0,
        "failures": statistics.failure_stats(run),
        "threshold": threshold,
        "stage_times": statistics.stage_times(run),
        "match_plot": _score_plot(summary.match_scores, threshold, "matches"),
        "best_plot": _score_plot(summary.best_scores, threshold, "images"),
        "length_plot": _plot(len(captions.lengths), plots.length_histogram, captions.lengths),
        "training_plot": _plot(len(history), plots.training_curve, history),
        "reliability_plot": _plot(len(points), plots.reliability_curve, points),
    }


def _score_plot(counts: plots.ScoreCounts, threshold: float | None, unit: str) -> Markup | None:
    return _plot(counts.total, plots.score_histogram, counts, threshold, unit)


def _plot(amount: int, draw: Callable[..., str], *data: Any) -> Markup | None:
    """Returns a plot as SVG, or None if there is nothing to draw.

    Plots contain only numbers and captioner's own texts, so they need no escaping.
    """
    return Markup(draw(*data)) if amount else None  # noqa: S704


def _format_time(created: object) -> str:
    try:
        moment = datetime.datetime.fromisoformat(str(created)).astimezone(datetime.UTC)
    except ValueError:
        return "at an unknown time"
    return f"{moment:%Y-%m-%d %H:%M} UTC"
