"""Progress of a job that runs in this process: a bar on a terminal, plain lines elsewhere.

Workers in other processes call ``advance`` too; there it finds no bar and does nothing. What they
did is counted when the job has ended well.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

_LINE_EVERY_S = 10.0


class _PlainLines:
    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self.n, self._start, self._said = 0, time.monotonic(), time.monotonic()  # n as tqdm has it
        self._first: tuple[int, float] | None = None

    def update(self, count: int) -> None:
        self.n += count
        # the rate leaves out the start, in which models are loaded, or it would foretell too much
        self._first = self._first or (self.n, time.monotonic())
        if time.monotonic() - self._said >= _LINE_EVERY_S and self.n > self._first[0]:
            self._said = time.monotonic()
            rate = (self.n - self._first[0]) / (self._said - self._first[1])
            left = (self._total - self.n) / rate
            line = f"{self._label}: {self.n}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Says how long it took, once all went well."""
        seconds = time.monotonic() - self._start
        print(
            f"{self._label}: {self.n}/{self._total} {self._unit} in {seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Says nothing: where the work failed, its error is the last line."""


_current: Any = None
_hidden = False
_lock = threading.Lock()


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[None]:
    """Shows what ``advance`` counts while the block runs."""
    global _current
    if _hidden:
        yield
        return
    shown = (
        tqdm(total=total, desc=label, unit=f" {unit}")
        if sys.stderr.isatty()
        else _PlainLines(label, total, unit)
    )
    _current = shown
    try:
        yield
        if not shown.n:  # the work was done in other processes, which count for themselves
            shown.update(total)
        if isinstance(shown, _PlainLines):
            shown.finish()
    finally:
        _current = None
        shown.close()


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """No bar and no lines within the block."""
    global _hidden
    _hidden = True
    try:
        yield
    finally:
        _hidden = False


def advance(count: int) -> None:
    """Counts ``count`` things as done; safe from any thread."""
    with _lock:
        if _current is not None:
            _current.update(count)
