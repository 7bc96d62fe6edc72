"""Stopping a training: it ends after the current batch, with its checkpoint written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.process import interrupts

PATIENCE_S = 10.0
"""Seconds allowed for a batch and its checkpoint. Longer steps, such as the first step's tracing,
are not worth waiting for."""


class Interrupted(CaptionerError):
    """A training was asked to stop and can be continued.

    Args:
      message: The message for the user.
      signal_number: The signal, from which the exit code of a shell follows.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopRequest:
    """Remembers whether a signal has requested a stop."""

    def __init__(self) -> None:
        self._signal = 0

    @property
    def is_requested(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self._signal)

    def handle_signal(self, signal_number: int, _frame: Any = None) -> None:
        """Handles a signal. A second signal of the same kind ends the process at once."""
        self._signal = signal_number
        if not interrupts.is_installed():
            signal.signal(signal_number, signal.SIG_DFL)

    def make_error(self, message: str) -> Interrupted:
        """Returns the error that ends the training.

        It counts as SIGTERM if another worker than this one received the signal.
        """
        return Interrupted(message, self._signal or signal.SIGTERM)


@contextmanager
def stop_on_signals(patience_s: float = PATIENCE_S) -> Iterator[StopRequest]:
    """Turns SIGTERM and SIGINT into a stop request while the block runs.

    In another thread than the main one, signals keep their usual effect.

    Args:
      patience_s: Seconds after which the process ends even if the batch has not ended. This holds
        only in captioner's own programs.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    if interrupts.is_installed():
        with interrupts.deferred(request.handle_signal, patience_s):
            yield request
        return
    previous_handlers = {
        number: signal.signal(number, request.handle_signal)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield request
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)
