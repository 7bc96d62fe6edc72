"""Ctrl-C and requests to end: one line on stderr, a plain exit code, and nothing left behind.

What happens at the first signal:

1. The line is printed and stderr becomes silent, so that no library adds a traceback to it.
2. The main thread raises ``KeyboardInterrupt`` and unwinds.
3. A thread of this module watches. It receives signals even while the main thread runs native code.
   It ends the process at a second signal, or if the main thread has not ended after a few seconds.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from captioner_core.process import streams

LINE = "captioner: interrupted; run it again to complete"
"""The line that an interrupted program prints."""

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_PATIENCE_S = 5.0  # The main thread has this long to unwind.
_POLL_INTERVAL_S = 0.1
# ``timeout`` and Airflow send a signal to a process and again to its group: one request, not two.
_SAME_REQUEST_S = 1.0
_RETRY_DELAY_S = 0.05


class _State:
    def __init__(self) -> None:
        self.number = 0  # The signal's number; 0 before one has arrived.
        self.is_raised = False  # Whether the main thread has raised KeyboardInterrupt.
        self.is_retry = False  # Whether the next signal is one that this module sends itself.
        self.is_work_done = False  # Whether nothing is left that KeyboardInterrupt could end.
        self.on_stop: Callable[[int], None] | None = None
        self.patience_s = _PATIENCE_S
        self.cleanups: list[Callable[[], None]] = []
        self.announced = threading.Lock()  # Acquired once, by the thread that sees a signal first.
        self.leaving = threading.Lock()


_state = _State()


def number() -> int:
    """Returns the number of the signal that has interrupted this process, or 0."""
    return _state.number


def exit_code() -> int:
    """Returns the exit code that shells expect of an interrupted process: 128 and the signal."""
    return 128 + (_state.number or signal.SIGINT)


def on_exit(cleanup: Callable[[], None]) -> None:
    """Registers a function that is called before an interrupted process ends."""
    _state.cleanups.append(cleanup)


def is_installed() -> bool:
    """Returns whether this module handles the signals of this process."""
    return signal.getsignal(signal.SIGTERM) is _handle_signal


def install() -> None:
    """Takes over SIGINT, SIGTERM and SIGHUP for the rest of this process.

    They are blocked until ``listen`` is called. SIGHUP stays ignored if it is ignored now, as under
    ``nohup``. A second call does nothing, and so does a call outside the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or is_installed():
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(
        target=_watch, args=(reader,), name="captioner-interrupts", daemon=True
    ).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for signal_number in _SIGNALS:
        is_ignored = signal.getsignal(signal_number) is signal.SIG_IGN
        if signal_number is signal.SIGINT or not is_ignored:
            signal.signal(signal_number, _handle_signal)
    sys.unraisablehook = _make_unraisable_hook(sys.unraisablehook)


def listen() -> None:
    """Unblocks the signals, so that those that have arrived since ``install`` are handled too.

    A parent process may also have blocked them.
    """
    if is_installed():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def mark_work_done() -> None:
    """Records that nothing is left to unwind, so that a signal ends the process immediately.

    Python ignores exceptions while it ends, and the exit code would be that of a success.
    """
    _state.is_work_done = True


def ignore_from_now() -> None:
    """Ignores signals while a process ends, when its work is done and Python can't handle them."""
    for signal_number in _SIGNALS:
        if signal.getsignal(signal_number) is _handle_signal:
            signal.signal(signal_number, signal.SIG_IGN)


@contextlib.contextmanager
def deferred(on_stop: Callable[[int], None], patience_s: float) -> Iterator[None]:
    """Calls ``on_stop`` at a signal while the block runs, and raises no ``KeyboardInterrupt``.

    Args:
      on_stop: called with the signal's number; makes the block end its work soon.
      patience_s: time after which the process ends anyway, as it does at a second signal.
    """
    previous_on_stop = _state.on_stop
    previous_patience_s = _state.patience_s
    _state.on_stop = on_stop
    _state.patience_s = patience_s
    try:
        if _state.number:
            on_stop(_state.number)
        yield
    finally:
        _state.on_stop = previous_on_stop
        _state.patience_s = previous_patience_s


def announce(signal_number: int) -> None:
    """Records a signal and prints the line, once; from then on stderr is silent."""
    if _state.announced.acquire(blocking=False):
        _state.number = signal_number
        streams.print_last_line(LINE)


def leave(code: int | None = None, line: str = "") -> None:
    """Ends this process at once, with all processes that it has started and its temporary files.

    Args:
      code: exit code; None takes that of the signal.
      line: last line on stderr, which is not printed if a signal has been announced there.
    """
    # The lock is never released: any other thread waits here until the process has ended.
    with _state.leaving:
        if line:
            streams.print_last_line(line)
        _kill_descendants()
        for cleanup in reversed(_state.cleanups):
            with contextlib.suppress(Exception):
                cleanup()
        os._exit(exit_code() if code is None else code)


def _handle_signal(signal_number: int, _frame: FrameType | None) -> None:
    announce(signal_number)
    if _state.on_stop is not None:
        _state.on_stop(signal_number)
    elif not _state.is_raised and not _state.leaving.locked():  # leave() must not be interrupted.
        _state.is_raised = True
        raise KeyboardInterrupt


def _watch(reader: int) -> None:
    """Ends the process at a second signal, or if it has not ended in time after the first.

    Args:
      reader: pipe to which Python writes the number of each signal as soon as it arrives.
    """
    first_at: float | None = None
    while True:
        timeout_s = None if first_at is None else _POLL_INTERVAL_S
        is_ready = select.select([reader], [], [], timeout_s)[0]
        now = time.monotonic()
        for signal_number in os.read(reader, 64) if is_ready else b"":
            if signal_number not in _SIGNALS:
                continue
            if _state.is_retry:
                _state.is_retry = False
            elif first_at is None:
                first_at = now
                announce(signal_number)
            elif now - first_at > _SAME_REQUEST_S:
                leave()
        if first_at is not None and now - first_at > _state.patience_s:
            leave()


def _make_unraisable_hook(
    previous_hook: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], None]:
    """Returns a hook that raises ``KeyboardInterrupt`` again where Python had to ignore it.

    Python ignores it in a finalizer, for example.
    """

    def retry_interrupt(ignored: sys.UnraisableHookArgs) -> None:
        """Interrupts the main thread again a moment later, when it has left the finalizer."""
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            previous_hook(ignored)
        elif _state.number and _state.is_work_done:
            leave()
        elif _state.number:
            timer = threading.Timer(_RETRY_DELAY_S, _interrupt_again)
            timer.daemon = True
            timer.start()

    return retry_interrupt


def _interrupt_again() -> None:
    _state.is_retry = True
    _state.is_raised = False
    _thread.interrupt_main(signal.Signals(_state.number))


def _kill_descendants() -> None:
    """Kills every process that this one has started, and theirs, such as decoders and workers."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name of the process is in parentheses and may contain any character, so fields are
            # counted from the last parenthesis.
            parent = int(entry.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    family = [os.getpid()]
    for pid in family:
        family.extend(children.get(pid, ()))
    for pid in family[1:]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
