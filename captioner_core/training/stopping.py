"""Asking a training to stop: it ends after the batch under way, with its checkpoint written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.process import interrupts

PATIENCE_S = 10.0
"""For a batch and its checkpoint. What takes longer, such as tracing the first step, is not worth waiting for."""


class Interrupted(CaptionerError):
    """Training was asked to stop, and can go on; the exit code is a shell's for the signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Whether a signal has asked for a stop."""

    def __init__(self) -> None:
        self._signal = 0

    @property
    def asked(self) -> bool:
        return bool(self._signal)

    def ask(self, signal_number: int, _frame: Any = None) -> None:
        """A signal handler; the second signal of a kind ends the process at once."""
        self._signal = signal_number
        if not interrupts.is_installed():
            signal.signal(signal_number, signal.SIG_DFL)

    def interrupted(self, message: str) -> Interrupted:
        """The error that ends training; another worker may have been the one that was asked."""
        return Interrupted(message, self._signal or signal.SIGTERM)


@contextmanager
def stop_on_signals(patience_s: float = PATIENCE_S) -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a request while the block runs; does nothing in another thread than the main one.

    Args:
      patience_s: after which the process ends, even if the batch has not; only in captioner's own programs.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    if interrupts.is_installed():
        with interrupts.deferred(request.ask, patience_s):
            yield request
        return
    before = {
        number: signal.signal(number, request.ask) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
