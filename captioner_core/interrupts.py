"""Ctrl-C and requests to end: one line, a plain exit code, nothing left behind.

The first signal prints one line and silences stderr, so that no library adds a traceback to it. The main thread
then unwinds with ``KeyboardInterrupt``. A thread of this module watches: it hears signals even while the main thread
is in native code, and ends the process after a few seconds if the main thread cannot, or at a second signal.
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

from captioner_core import streams

LINE = "captioner: interrupted; run it again to complete"
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_GRACE_S = 5.0  # for the main thread to unwind
_LOOK_EVERY_S = 0.1
# ``timeout`` and Airflow send a signal to a process and again to its group, which is one request and not two.
_SAME_REQUEST_S = 1.0
_STRIKE_AGAIN_S = 0.05


class _Interruption:
    """What is known of the signal that this process got."""

    def __init__(self) -> None:
        self.number = 0
        self.is_raised = False
        self.is_strike = False
        self.is_work_done = False
        self.on_stop: Callable[[int], None] | None = None
        self.patience_s = _GRACE_S
        self.cleanups: list[Callable[[], None]] = []
        self.first = threading.Lock()  # taken once, by whoever hears the signal first
        self.leaving = threading.Lock()


_state = _Interruption()


def number() -> int:
    """Returns the signal that has interrupted this process, or 0."""
    return _state.number


def exit_code() -> int:
    """Returns a shell's exit code for the signal that has interrupted this process."""
    return 128 + (_state.number or signal.SIGINT)


def on_exit(cleanup: Callable[[], None]) -> None:
    """Adds what is to be done before an interrupted process ends."""
    _state.cleanups.append(cleanup)


def is_installed() -> bool:
    """Returns whether this module hears the signals of this process."""
    return signal.getsignal(signal.SIGTERM) is _hear


def install() -> None:
    """Takes over SIGINT, SIGTERM and SIGHUP for the rest of this process, and holds them back until ``listen``.

    SIGHUP stays ignored where it is, as under ``nohup``. A second call does nothing, as does one from another
    thread than the main one.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or is_installed():
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_watch, args=(reader,), name="captioner-interrupts", daemon=True).start()
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for one in _SIGNALS:
        if one is signal.SIGINT or signal.getsignal(one) is not signal.SIG_IGN:
            signal.signal(one, _hear)
    sys.unraisablehook = _strike_again(sys.unraisablehook)


def listen() -> None:
    """Lets signals through, those that have come since ``install`` too; a parent may have blocked them as well."""
    if is_installed():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def work_is_done() -> None:
    """Says that nothing is left to unwind: from now on a signal that Python ignores ends the process at once."""
    _state.is_work_done = True


def ignore_from_now() -> None:
    """Ignores signals in the last moments of a process, when its work is done and Python can't handle them."""
    for one in _SIGNALS:
        if signal.getsignal(one) is _hear:
            signal.signal(one, signal.SIG_IGN)


@contextlib.contextmanager
def deferred(on_stop: Callable[[int], None], patience_s: float) -> Iterator[None]:
    """Calls ``on_stop`` with the signal's number in place of raising ``KeyboardInterrupt`` while the block runs.

    Args:
      on_stop: makes the block end its work by itself.
      patience_s: after which the process ends all the same, as it does at a second signal.
    """
    before = _state.on_stop, _state.patience_s
    _state.on_stop, _state.patience_s = on_stop, patience_s
    try:
        if _state.number:
            on_stop(_state.number)
        yield
    finally:
        _state.on_stop, _state.patience_s = before


def announce(signal_number: int) -> None:
    """Notes the signal and prints the one line, once; from then on stderr is silent."""
    if _state.first.acquire(blocking=False):
        _state.number = signal_number
        streams.print_last_line(LINE)


def leave(code: int | None = None, line: str = "") -> None:
    """Ends this process at once, with what it has started and its temporary files.

    Args:
      code: its exit code; that of the signal where None.
      line: the last on stderr, unless a signal has been told there.
    """
    with _state.leaving:  # never given back: another thread waits here until the process is gone
        if line:
            streams.print_last_line(line)
        _end_descendants()
        for cleanup in reversed(_state.cleanups):
            with contextlib.suppress(Exception):
                cleanup()
        os._exit(exit_code() if code is None else code)


def _hear(signal_number: int, _frame: FrameType | None) -> None:
    """Handles a signal, in the main thread."""
    announce(signal_number)
    if _state.on_stop is not None:
        _state.on_stop(signal_number)
    elif not _state.is_raised and not _state.leaving.locked():  # or it would cut off what ends the process
        _state.is_raised = True
        raise KeyboardInterrupt


def _watch(reader: int) -> None:
    """Reads the signals' numbers, which Python writes to a pipe at once, and ends what does not end itself."""
    first: float | None = None
    while True:
        ready = select.select([reader], [], [], None if first is None else _LOOK_EVERY_S)[0]
        now = time.monotonic()
        for one in os.read(reader, 64) if ready else b"":
            if one not in _SIGNALS:
                continue
            if _state.is_strike:
                _state.is_strike = False
            elif first is None:
                first = now
                announce(one)
            elif now - first > _SAME_REQUEST_S:
                leave()
        if first is not None and now - first > _state.patience_s:
            leave()


def _strike_again(
    before: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], None]:
    """Returns a hook that raises ``KeyboardInterrupt`` again where Python had to ignore it, as in a finalizer."""

    def again(ignored: sys.UnraisableHookArgs) -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            before(ignored)
        elif _state.number and _state.is_work_done:
            leave()
        elif _state.number:
            timer = threading.Timer(_STRIKE_AGAIN_S, _strike)
            timer.daemon = True
            timer.start()

    return again


def _strike() -> None:
    _state.is_strike, _state.is_raised = True, False
    _thread.interrupt_main(signal.Signals(_state.number))


def _end_descendants() -> None:
    """Kills every process that this one has started, and theirs; decoders and workers outlive nothing."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # the name, which stands in parentheses, may hold anything
            parent = int(entry.read_bytes().rpartition(b")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.parent.name))
    found = [os.getpid()]
    for one in found:
        found.extend(parents.get(one, ()))
    for one in found[1:]:
        with contextlib.suppress(OSError):
            os.kill(one, signal.SIGKILL)
