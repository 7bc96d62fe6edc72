"""The report's plots, as SVG to stand inside an HTML page.

Only numbers go in, so no text of a user's is ever part of a plot. Colours are drawn as
stand-ins and leave as CSS variables, so that the page decides them for light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

_INK, _LINE, _FIRST, _SECOND = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {
    _INK: "var(--soft)",
    _LINE: "var(--line)",
    _FIRST: "var(--accent)",
    _SECOND: "var(--second)",
}
_SIZE_INCHES = (3.3, 2.2)
_FINE = (
    2000  # bins of a cosine from -1 to 1, each 0.001 wide, so that any table is counted in one pass
)
_BARS = 30


@dataclass
class ScoreCounts:
    """Counts cosines into fine bins as they stream by; NaN, which compares with nothing, is left out."""

    bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_FINE, np.int64))

    def add(self, scores: npt.NDArray[np.floating[Any]]) -> None:
        finite = scores[np.isfinite(scores)].astype(np.float64)
        # a score on a bin's edge, such as float32 0.9, must not fall below it
        places = np.floor((np.clip(finite, -1, 1) + 1) * (_FINE / 2) + 1e-4).astype(np.int64)
        self.bins += np.bincount(np.minimum(places, _FINE - 1), minlength=_FINE)

    @property
    def total(self) -> int:
        return int(self.bins.sum())


@dataclass(frozen=True)
class Epoch:
    """Losses of one epoch of training, nats a word."""

    epoch: int
    train_loss: float
    dev_loss: float


def score_histogram(counts: ScoreCounts, threshold: float | None, unit: str) -> str:
    """How often which score occurs, with the threshold as a line.

    Args:
      counts: the scores; at least one.
      threshold: least score of a match, None where unknown.
      unit: what is counted, for the upright axis.
    """
    filled = np.flatnonzero(counts.bins)
    first, last = int(filled[0]), int(filled[-1])
    if threshold is not None and -1 <= threshold <= 1:
        place = round((threshold + 1) * (_FINE / 2))
        first, last = min(first, place), max(last, place)
    width = max(1, -(-(last - first + 1) // _BARS))
    first -= first % width
    bars = np.add.reduceat(counts.bins[first : last + 1], np.arange(0, last + 1 - first, width))
    left = (first + width * np.arange(len(bars))) * (2 / _FINE) - 1
    figure, axes = _figure("score (cosine)", unit)
    axes.bar(left, bars, width=0.92 * width * 2 / _FINE, align="edge", color=_FIRST, linewidth=0)
    if threshold is not None:
        axes.axvline(threshold, color=_SECOND, linewidth=1.6, linestyle=(0, (4, 2)))
    # room on both sides, lest a lone bar fills the plot
    axes.set_xlim(
        left[0] - max(0.01, width * 2 / _FINE),
        min(1.02, left[-1] + max(0.02, 3 * width * 2 / _FINE)),
    )
    _whole_numbers(axes)
    return _svg(figure, f"hist-{unit}")


def length_histogram(lengths: Mapping[int, int]) -> str:
    """How many captions have how many words.

    Args:
      lengths: number of captions by number of words; at least one.
    """
    figure, axes = _figure("words in a caption", "captions")
    axes.bar(list(lengths), list(lengths.values()), width=0.86, color=_FIRST, linewidth=0)
    axes.set_xlim(max(min(lengths) - 1.5, -0.6), max(lengths) + 1.5)
    _whole_numbers(axes)
    _whole_numbers(axes, "x")
    return _svg(figure, "lengths")


def training_curve(history: Sequence[Epoch]) -> str:
    """Loss on the training and the dev split by epoch."""
    figure, axes = _figure("epoch", "loss (nats a word)")
    epochs = [one.epoch for one in history]
    style: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.8}
    axes.plot(epochs, [one.train_loss for one in history], color=_FIRST, **style)
    axes.plot(epochs, [one.dev_loss for one in history], color=_SECOND, **style)
    axes.margins(0.06)
    _whole_numbers(axes, "x")
    return _svg(figure, "training")


def reliability_curve(word_probability: Sequence[float], cider: Sequence[float]) -> str:
    """CIDEr on the dev split by how likely the model held its captions; at least two points."""
    figure, axes = _figure("probability of a word", "CIDEr")
    axes.plot(word_probability, cider, color=_FIRST, marker="o", markersize=4, linewidth=1.8)
    axes.margins(0.08)
    axes.set_ylim(bottom=0)
    return _svg(figure, "reliability")


def _figure(x_label: str, y_label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # takes half a second, so only once a plot is drawn

    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.set_xlabel(x_label, color=_INK, fontsize=9.5)
    axes.set_ylabel(y_label, color=_INK, fontsize=9.5)
    return figure, axes


def _whole_numbers(axes: Any, axis: str = "y") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    place = getattr(axes, f"{axis}axis")
    place.set_major_locator(MaxNLocator(nbins=4 if axis == "y" else 8, integer=True, min_n_ticks=1))
    place.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _svg(figure: Any, name: str) -> str:
    """The figure as an ``<svg>`` element that can stand beside others in one HTML page."""
    import matplotlib

    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]  # without prolog and document type, which HTML has no use for
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL
    )  # it would style the whole page
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', "", text)
    text = text.replace("xlink:href", "href")
    prefix = re.sub(r"\W+", "-", name)
    text = re.sub(
        r'( id="| href="#|url\(#)', rf"\g<1>{prefix}-", text
    )  # ids are unique in a page, not a figure
    text = re.sub(r"font-family: [^;\"]*;", "", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg", '<svg aria-hidden="true"', 1).strip()
