"""Standard streams that never stop the work, whether closed, full, broken or without UTF-8.

Python's ``sys.stderr`` writes to where file descriptor 2 led when the program began. The descriptor
itself becomes a pipe that a thread of this module reads. What native code and child processes write
to it is passed on, except for what TensorFlow and its libraries print on every start.
"""

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
"""Beginnings of messages that Beam logs on every start.

They are about Google's clients, which local runs do not need, and about a module of the system.
"""
# Messages of TensorFlow, XLA, gRPC and Beam below the level of an error, and harmless complaints.
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|[IW]\d{4} \d\d:\d\d:\d\d\.\d+ "
    rb"|[IW]\d{4} \d\d:\d\d:\d+\.\d+ "
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] (?:tensorflow|external)/"
    rb"|.*Unable to register cu\w+ factory"
    rb"|.*failed call to cuInit"
    rb"|To enable the following instructions: .*rebuild TensorFlow"
    # Beam's worker processes.
    rb"|WARNING:root:(?:" + "|".join(BEAM_CHATTER).encode() + rb")"
)
_PARTIAL_LINE_S = 0.2  # A line without its end is passed on after this time.
_FLUSH_TIMEOUT_S = 2.0
_CHUNK_BYTES = 65_536
_PIPE_BYTES = 1 << 20
_END_MARK = b"\0captioner: end of what was written before\0\n"


class _State:
    def __init__(self) -> None:
        self.stderr_fd = 2  # Descriptor that ``sys.stderr`` writes to.
        self.is_silent = False  # Whether the last line has been printed.
        self.output_error: OSError | None = None  # Why stdout could not be written.
        self.stderr_filter: _StderrFilter | None = None


_state = _State()


class _UnfailingFile(io.RawIOBase):
    """A file whose writes never fail: after the first error, the rest is discarded.

    Args:
      fd: file descriptor to write to.
      is_output: whether it is stdout, whose errors are reported when the program ends.
    """

    def __init__(self, fd: int, *, is_output: bool) -> None:
        super().__init__()
        self._fd = fd
        self._is_output = is_output

    def fileno(self) -> int:
        """Returns the file descriptor."""
        return self._fd

    def isatty(self) -> bool:
        """Returns whether the file is a terminal."""
        return os.isatty(self._fd)

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Any) -> int:
        """Writes all data, or discards it after an error; returns its length in bytes."""
        error = _write(self._fd, memoryview(data).cast("B"))
        if error is not None:
            # A reader that has seen enough is not a failure, and neither is a closed terminal.
            if self._is_output and not isinstance(error, BrokenPipeError) and not self.isatty():
                _state.output_error = error
            _redirect_to_null(self._fd)
        return len(data)


def open_missing() -> None:
    """Opens the null device as each standard stream that is closed.

    Otherwise the next file that is opened would become that stream.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)


def install() -> None:
    """Makes the standard streams of this process unfailing, and starts to filter stderr.

    A second call does nothing.
    """
    if _state.stderr_filter is not None:
        return
    _state.stderr_fd = os.dup(2)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  stays open
    output = _wrap(sys.stdout, 1, is_output=True)
    errors = _wrap(sys.stderr, _state.stderr_fd, is_output=False)
    sys.stdout = sys.__stdout__ = output  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = errors  # type: ignore[misc]
    _state.stderr_filter = _StderrFilter(_state.stderr_fd)


def print_last_line(line: str) -> None:
    """Writes a line to stderr and discards whatever anybody writes there later."""
    if _state.is_silent:
        return
    # On a terminal, a progress bar or ^C may occupy the current line.
    begin = "\n" if os.isatty(_state.stderr_fd) else ""
    _write(_state.stderr_fd, f"{begin}{line}\n".encode("utf-8", "backslashreplace"))
    _state.is_silent = True
    _redirect_to_null(_state.stderr_fd)
    if _state.stderr_filter is None:
        _redirect_to_null(2)


def finish() -> OSError | None:
    """Flushes the standard streams.

    Returns:
      Why stdout could not be written, or None. A reader that has closed its pipe is not a failure.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if _state.stderr_filter is not None:
        _state.stderr_filter.flush()
    return _state.output_error


def uninstall() -> None:
    """Ends the filter of stderr, before Python ends its thread.

    What is written later goes to where stderr led when the program began.
    """
    if _state.stderr_filter is not None:
        _state.stderr_filter.end()


def _wrap(stream: TextIO | None, fd: int, *, is_output: bool) -> io.TextIOWrapper:
    """Returns an unfailing text stream that takes the place of ``stream`` and writes to ``fd``."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if stream is not None:
            stream.flush()
    encoding = getattr(stream, "encoding", None) or "utf-8"
    is_unbuffered = is_output and bool(getattr(stream, "write_through", False))
    raw = _UnfailingFile(fd, is_output=is_output)
    buffer: Any = raw if is_unbuffered else io.BufferedWriter(raw)
    return io.TextIOWrapper(
        buffer,
        encoding=encoding,
        errors="backslashreplace",
        line_buffering=not is_output or raw.isatty(),
        write_through=is_unbuffered,
    )


def _write(fd: int, data: bytes | memoryview) -> OSError | None:
    """Writes all data, and waits if the descriptor does not block.

    Returns:
      The error that prevented it, or None.
    """
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except OSError as error:
            return error
    return None


def _redirect_to_null(fd: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, fd, inheritable=fd < 3)
        os.close(null)


class _StderrFilter:
    """Passes on what is written to file descriptor 2, except for chatter.

    Args:
      target: file descriptor to which lines are passed on.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._reader, writer = os.pipe()
        # The pipe must be large, because native code may write while Python's threads are blocked.
        with contextlib.suppress(AttributeError, OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.dup2(writer, 2)
        os.close(writer)
        self._flushed = threading.Event()
        self._is_ended = False
        threading.Thread(target=self._run, name="captioner-stderr", daemon=True).start()

    def flush(self) -> None:
        """Waits until everything that has been written so far has been passed on."""
        if self._is_ended:
            return
        self._flushed.clear()
        # The wait is split, so that signals are handled meanwhile.
        if _write(2, _END_MARK) is None:
            deadline = time.monotonic() + _FLUSH_TIMEOUT_S
            while not self._flushed.is_set() and time.monotonic() < deadline:
                self._flushed.wait(0.05)

    def end(self) -> None:
        """Lets file descriptor 2 lead again to where it led before."""
        self.flush()
        self._is_ended = True
        with contextlib.suppress(OSError):
            os.dup2(self._target, 2)

    def _run(self) -> None:
        """Reads the pipe and passes on complete lines, and incomplete ones after a moment."""
        held = b""
        while True:
            is_ready = select.select([self._reader], [], [], _PARTIAL_LINE_S if held else None)[0]
            if not is_ready:
                self._pass_on(held)
                held = b""
                continue
            data = os.read(self._reader, _CHUNK_BYTES)
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
                _redirect_to_null(self._target)
