"""Progress of a job in this process: a bar on a terminal, and plain lines elsewhere.

Worker processes call ``advance`` too. They show no progress, so the call does nothing there, and
their work is counted when the job has succeeded.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

_LINE_INTERVAL_S = 10.0


class _PlainLines:
    """Progress as lines on stderr, with the methods of ``tqdm`` that this module uses.

    Args:
      label: what the job does.
      total: number of items that the job will process.
      unit: plural noun for the items.

    Attributes:
      n: number of items that have been processed.
    """

    def __init__(self, label: str, total: int, unit: str) -> None:
        self.n = 0
        self._label = label
        self._total = total
        self._unit = unit
        self._start = time.monotonic()
        self._last_printed = self._start
        self._first_count = 0
        self._first_time: float | None = None

    def update(self, count: int) -> None:
        """Counts processed items, and prints a line if the last one is ten seconds old."""
        self.n += count
        now = time.monotonic()
        if self._first_time is None:
            # The rate is measured from here. Before the first items, models are loaded, and a rate
            # that included this time would overestimate the time left.
            self._first_count = self.n
            self._first_time = now
        if now - self._last_printed < _LINE_INTERVAL_S or self.n == self._first_count:
            return
        self._last_printed = now
        rate = (self.n - self._first_count) / (now - self._first_time)
        seconds_left = (self._total - self.n) / rate
        self._print(f"{rate:.1f}/s, {seconds_left:.0f} s left", separator=",")

    def finish(self) -> None:
        """Prints how long the job took; called only if it succeeded."""
        self._print(f"in {time.monotonic() - self._start:.1f} s")

    def close(self) -> None:
        """Prints nothing: if the job failed, its error must be the last line."""

    def _print(self, text: str, separator: str = "") -> None:
        count = f"{self._label}: {self.n}/{self._total} {self._unit}{separator}"
        print(count, text, file=sys.stderr, flush=True)


_current: Any = None
_is_hidden = False
_lock = threading.Lock()


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[None]:
    """Shows the progress that ``advance`` counts while the block runs.

    Args:
      label: what the job does.
      total: number of items that the job will process.
      unit: plural noun for the items.
    """
    global _current
    if _is_hidden:
        yield
        return
    display = (
        tqdm(total=total, desc=label, unit=f" {unit}")
        if sys.stderr.isatty()
        else _PlainLines(label, total, unit)
    )
    _current = display
    try:
        yield
        if not display.n:  # The work was done in other processes, so nothing was counted here.
            display.update(total)
        if isinstance(display, _PlainLines):
            display.finish()
    finally:
        _current = None
        display.close()


@contextlib.contextmanager
def hide_progress() -> Iterator[None]:
    """Shows no progress while the block runs."""
    global _is_hidden
    _is_hidden = True
    try:
        yield
    finally:
        _is_hidden = False


def advance(count: int) -> None:
    """Counts ``count`` more items as processed; may be called from any thread."""
    with _lock:
        if _current is not None:
            _current.update(count)
