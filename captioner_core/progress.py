"""Progress of a job that runs in this process: a bar on a terminal, plain lines elsewhere.

Workers in other processes call ``advance`` too; there it finds no bar and does nothing.
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
        self._done, self._start, self._said = 0, time.monotonic(), time.monotonic()

    def update(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            rate = self._done / (self._said - self._start)
            left = (self._total - self._done) / rate
            line = f"{self._label}: {self._done}/{self._total} {self._unit}, {rate:.1f}/s, {left:.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        seconds = time.monotonic() - self._start
        print(f"{self._label}: {self._done}/{self._total} {self._unit} in {seconds:.1f} s", file=sys.stderr, flush=True)


_current: Any = None
_lock = threading.Lock()


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "images") -> Iterator[None]:
    """Shows what ``advance`` counts while the block runs."""
    global _current
    shown = tqdm(total=total, desc=label, unit=f" {unit}") if sys.stderr.isatty() else _PlainLines(label, total, unit)
    _current = shown
    try:
        yield
    finally:
        _current = None
        shown.close()


def advance(count: int) -> None:
    """Counts ``count`` things as done; safe from any thread."""
    with _lock:
        if _current is not None:
            _current.update(count)
