"""Standard streams that never stop the work: closed ones, broken pipes, and terminals without UTF-8.

Python's own ``sys.stderr`` goes to where file descriptor 2 went when the program began. The descriptor itself becomes
a pipe that a thread of this module reads: what native code and child processes write is passed on, without what
TensorFlow and its libraries say on every start.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import select
import sys
import threading
import time
from typing import Any, TextIO

BEAM_CHATTER = ("apitools not found", "Resource module is not available")
"""How Beam begins to speak of Google's clients, which local runs don't have, and of an import that its own model
manager needs, on every start."""
# What TensorFlow, XLA, gRPC and Beam log at levels below an error, and complaints of theirs that mean nothing.
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|[IW]\d{4} \d\d:\d\d:\d\d\.\d+ "
    rb"|[IW]\d{4} \d\d:\d\d:\d+\.\d+ "
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] (?:tensorflow|external)/"
    rb"|.*Unable to register cu\w+ factory"
    rb"|.*failed call to cuInit"
    rb"|To enable the following instructions: .*rebuild TensorFlow"
    # Beam, in the worker processes that it starts
    rb"|WARNING:root:(?:" + "|".join(BEAM_CHATTER).encode() + rb")"
)
_PARTIAL_S = 0.2  # after which a line without its end is passed on
_FLUSH_S = 2.0
_CHUNK = 65_536
_PIPE_BYTES = 1 << 20
_END_MARK = b"\0captioner: end of what was written before\0\n"


class _Streams:
    """What this module has changed in this process."""

    def __init__(self) -> None:
        self.stderr_fd = 2  # where Python's stderr goes
        self.is_silent = False
        self.output_error: OSError | None = None
        self.pump: _Pump | None = None


_state = _Streams()


class _SturdyFile(io.RawIOBase):
    """A file descriptor that writes go to until nobody can read them, and to nowhere from then on."""

    def __init__(self, fd: int, *, is_output: bool) -> None:
        super().__init__()
        self._fd, self._is_output = fd, is_output

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        error = _write(self._fd, memoryview(data).cast("B"))
        if error is not None:
            # a reader that has seen enough is no failure, nor is a terminal that was closed
            if self._is_output and not isinstance(error, BrokenPipeError) and not self.isatty():
                _state.output_error = error
            _send_nowhere(self._fd)
        return len(data)


def open_missing() -> None:
    """Opens the null device as each standard stream that is closed, or the next file would become that stream."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)


def take_over() -> None:
    """Makes this process' standard streams sturdy, and begins to filter what native code writes to stderr.

    A second call does nothing.
    """
    if _state.pump is not None:
        return
    _state.stderr_fd = os.dup(2)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  for the whole process
    output = _sturdy(sys.stdout, 1, is_output=True)
    errors = _sturdy(sys.stderr, _state.stderr_fd, is_output=False)
    sys.stdout = sys.__stdout__ = output  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = errors  # type: ignore[misc]
    _state.pump = _Pump(_state.stderr_fd)


def print_last_line(line: str) -> None:
    """Writes a line to stderr; nothing that is written there later is seen, whoever writes it."""
    if _state.is_silent:
        return
    begin = "\n" if os.isatty(_state.stderr_fd) else ""  # a progress bar, or ^C, may stand there
    _write(_state.stderr_fd, f"{begin}{line}\n".encode("utf-8", "backslashreplace"))
    _state.is_silent = True
    _send_nowhere(_state.stderr_fd)
    if _state.pump is None:
        _send_nowhere(2)


def finish() -> OSError | None:
    """Flushes the standard streams.

    Returns:
      Why stdout could not be written, where that is a failure: a reader that has gone is none.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if _state.pump is not None:
        _state.pump.flush()
    return _state.output_error


def give_back() -> None:
    """Ends the filter of stderr, before Python ends its thread; what comes later goes where stderr went at first."""
    if _state.pump is not None:
        _state.pump.end()


def _sturdy(stream: TextIO | None, fd: int, *, is_output: bool) -> io.TextIOWrapper:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None:
            stream.flush()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    is_unbuffered = is_output and bool(getattr(stream, "write_through", False))
    raw = _SturdyFile(fd, is_output=is_output)
    buffer: Any = raw if is_unbuffered else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=not is_output or raw.isatty(),
        write_through=is_unbuffered,
    )


def _write(fd: int, data: bytes | memoryview) -> OSError | None:
    """Writes all of the data, waiting where the descriptor does not block; returns why it could not."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except OSError as error:
            return error
    return None


def _send_nowhere(fd: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd, inheritable=fd < 3)
        os.close(null)


class _Pump:
    """Passes on what is written to file descriptor 2, but for chatter.

    Args:
      target: the descriptor that lines go to.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._reader, writer = os.pipe()
        with contextlib.suppress(
            AttributeError, OSError
        ):  # native code may write while Python's threads stand still
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.dup2(writer, 2)
        os.close(writer)
        self._flushed = threading.Event()
        self._is_ended = False
        threading.Thread(target=self._run, name="captioner-stderr", daemon=True).start()

    def flush(self) -> None:
        """Waits until all that was written so far has been passed on."""
        if self._is_ended:
            return
        self._flushed.clear()
        # in small pieces of time: a signal is to be heard, and the pipe may be full
        if _write(2, _END_MARK) is None:
            deadline = time.monotonic() + _FLUSH_S
            while not self._flushed.is_set() and time.monotonic() < deadline:
                self._flushed.wait(0.05)

    def end(self) -> None:
        """Makes file descriptor 2 what it was."""
        self.flush()
        self._is_ended = True
        with contextlib.suppress(OSError):
            os.dup2(self._target, 2)

    def _run(self) -> None:
        held = b""
        while True:
            ready = select.select([self._reader], [], [], _PARTIAL_S if held else None)[0]
            if not ready:
                self._pass_on(held)
                held = b""
                continue
            data = os.read(self._reader, _CHUNK)
            if not data:
                return
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                before, mark, _ = (line + b"\n").partition(_END_MARK)
                self._pass_on(before)
                if mark:
                    self._flushed.set()

    def _pass_on(self, line: bytes) -> None:
        if line and not _CHATTER.match(line) and not _state.is_silent:
            error = _write(self._target, line)
            if error is not None:
                _send_nowhere(self._target)
