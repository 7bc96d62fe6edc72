"""Draws the report's plots as SVG elements for an HTML page.

Plots show numbers only, never texts from a run's tables. Colours are drawn as placeholders and
replaced by CSS variables, so that the page can choose them for its light and dark themes.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Placeholders; each becomes a CSS variable.
_INK = "#010203"
_LINE = "#010204"
_FIRST = "#010205"
_SECOND = "#010206"
_VARIABLES = {
    _INK: "var(--soft)",
    _LINE: "var(--line)",
    _FIRST: "var(--accent)",
    _SECOND: "var(--second)",
}
_BINS = 2000  # Bins of a cosine from -1 to 1; each is 0.001 wide.
_BIN_WIDTH = 2 / _BINS
_MAX_BARS = 30


@dataclass
class ScoreCounts:
    """Counts of cosines in narrow bins, which a table's scores are added to as they are read.

    NaN, which stands for an unknown score, is not counted.

    Args:
      bins: int64 [2000], number of scores in each bin from -1 to 1.
    """

    bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, scores: npt.NDArray[np.floating[Any]]) -> None:
        """Counts scores of any shape."""
        finite = scores[np.isfinite(scores)].astype(np.float64)
        # The small addition keeps a score on the edge of a bin, such as float32 0.9, in that bin.
        positions = np.floor((np.clip(finite, -1, 1) + 1) / _BIN_WIDTH + 1e-4).astype(np.int64)
        self.bins += np.bincount(np.minimum(positions, _BINS - 1), minlength=_BINS)

    @property
    def total(self) -> int:
        """The number of scores counted."""
        return int(self.bins.sum())


@dataclass(frozen=True)
class Epoch:
    """The losses of one epoch of training, in nats per word."""

    epoch: int
    train_loss: float
    dev_loss: float


class ReliabilityPoint(NamedTuple):
    """A group of captions of similar probability.

    Args:
      word_probability: mean probability of a word, 0 to 1.
      cider: mean CIDEr of the captions.
    """

    word_probability: float
    cider: float


def score_histogram(counts: ScoreCounts, threshold: float | None, unit: str) -> str:
    """Returns a histogram of scores, with the threshold as a line.

    Args:
      counts: the scores; at least one.
      threshold: the lowest score of a match; None if it is not known.
      unit: what is counted, for the label of the y axis.
    """
    filled = np.flatnonzero(counts.bins)
    first = int(filled[0])
    last = int(filled[-1])
    if threshold is not None and -1 <= threshold <= 1:
        threshold_bin = round((threshold + 1) / _BIN_WIDTH)
        first = min(first, threshold_bin)
        last = max(last, threshold_bin)
    bins_per_bar = max(1, math.ceil((last - first + 1) / _MAX_BARS))
    first -= first % bins_per_bar
    starts = np.arange(0, last + 1 - first, bins_per_bar)
    bars = np.add.reduceat(counts.bins[first : last + 1], starts)
    left = (first + starts) * _BIN_WIDTH - 1
    bar_width = bins_per_bar * _BIN_WIDTH
    figure, axes = _figure("score (cosine)", unit)
    axes.bar(left, bars, width=0.92 * bar_width, align="edge", color=_FIRST, linewidth=0)
    if threshold is not None:
        axes.axvline(threshold, color=_SECOND, linewidth=1.6, linestyle=(0, (4, 2)))
    # Leave room on both sides, so that a single bar does not fill the plot.
    right_end = min(1.02, left[-1] + max(0.02, 3 * bar_width))
    axes.set_xlim(left[0] - max(0.01, bar_width), right_end)
    _use_whole_numbers(axes)
    return _to_svg(figure, f"hist-{unit}")


def length_histogram(lengths: Mapping[int, int]) -> str:
    """Returns a histogram of caption lengths.

    Args:
      lengths: number of captions by number of words; at least one.
    """
    figure, axes = _figure("words in a caption", "captions")
    axes.bar(list(lengths), list(lengths.values()), width=0.86, color=_FIRST, linewidth=0)
    axes.set_xlim(max(min(lengths) - 1.5, -0.6), max(lengths) + 1.5)
    _use_whole_numbers(axes)
    _use_whole_numbers(axes, "x")
    return _to_svg(figure, "lengths")


def training_curve(history: Sequence[Epoch]) -> str:
    """Returns the curves of the loss on the training split and the dev split by epoch."""
    figure, axes = _figure("epoch", "loss (nats a word)")
    numbers = [epoch.epoch for epoch in history]
    train_losses = [epoch.train_loss for epoch in history]
    dev_losses = [epoch.dev_loss for epoch in history]
    for losses, colour in ((train_losses, _FIRST), (dev_losses, _SECOND)):
        axes.plot(numbers, losses, color=colour, marker="o", markersize=3, linewidth=1.8)
    axes.margins(0.06)
    _use_whole_numbers(axes, "x")
    return _to_svg(figure, "training")


def reliability_curve(points: Sequence[ReliabilityPoint]) -> str:
    """Returns the curve of CIDEr by how likely the model found its captions.

    Args:
      points: at least two, in ascending order of word_probability.
    """
    figure, axes = _figure("probability of a word", "CIDEr")
    probabilities = [point.word_probability for point in points]
    cider = [point.cider for point in points]
    axes.plot(probabilities, cider, color=_FIRST, marker="o", markersize=4, linewidth=1.8)
    axes.margins(0.08)
    axes.set_ylim(bottom=0)
    return _to_svg(figure, "reliability")


def _figure(x_label: str, y_label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # Takes half a second, so only when a plot is drawn.

    figure = Figure(figsize=(3.3, 2.2), layout="constrained")
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


def _use_whole_numbers(axes: Any, axis: str = "y") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ticks = getattr(axes, f"{axis}axis")
    ticks.set_major_locator(MaxNLocator(nbins=4 if axis == "y" else 8, integer=True, min_n_ticks=1))
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _to_svg(figure: Any, name: str) -> str:
    """Returns a figure as an ``<svg>`` element that can stand beside others in an HTML page.

    Args:
      figure: the matplotlib figure.
      name: a name that no other plot of the page has.
    """
    import matplotlib

    stream = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", transparent=True, metadata=no_metadata)
    text = stream.getvalue()
    # HTML has no use for the XML prolog and the document type.
    text = text[text.index("<svg") :]
    # The figure's style sheet would apply to the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| (width|height)="[\d.]+pt"', "", text)
    text = text.replace("xlink:href", "href")
    # Ids must be unique within the page, and matplotlib's are unique only within a figure.
    prefix = re.sub(r"\W+", "-", name)
    text = re.sub(r'( id="| href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"font-family: [^;\"]*;", "", text)
    for placeholder, variable in _VARIABLES.items():
        text = text.replace(placeholder, variable)
    return text.replace("<svg", '<svg aria-hidden="true"', 1).strip()
