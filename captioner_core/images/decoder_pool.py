"""Decodes images in separate processes, so that a harmful file affects no other image.

Pillow's decoders are C libraries that read untrusted bytes. In a worker's own process, a decoder
that hangs could not be ended, one that crashes would end the worker, and one that takes too much
memory could exhaust the machine. In a separate process, each of these is one row in the failures
table, and the next image gets a new process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

import numpy as np

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import decoding
from captioner_core.images.decoder_worker import LARGE, READY, Answer, Request
from captioner_core.io.json_text import JsonObject

# With -m alone, Python would import modules from the current folder, whose files may be hostile.
_COMMAND = (sys.executable, "-P", "-m", "captioner_core.images.decoder_worker")
# Each large image may take gigabytes, so one is decoded at a time.
_large_image_lock = threading.Lock()
_MAX_HEADER_BYTES = 65_536
_MAX_BODY_BYTES = 1 << 26
_PIPE_BYTES = 1 << 20
_GRACE_S = 1.0  # How long a process may take to end once its pipe has.

_Header = JsonObject
"""The JSON object in an answer; it may be anything, because the process may be compromised."""


class DecoderPool:
    """Decoder processes that are reused; all methods may be called from any thread.

    The pool keeps as many processes as threads have used it at the same time. They end when this
    process ends, in whatever way, because that closes their pipes.

    Args:
      command: the command line of a decoder process.
    """

    def __init__(self, command: Sequence[str] = _COMMAND) -> None:
        self._command = command
        self._idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()

    def decode(
        self,
        data: bytes,
        *,
        size: int = 299,
        max_pixels: int = decoding.DEFAULT_MAX_PIXELS,
        max_seconds: float = decoding.DEFAULT_MAX_SECONDS,
    ) -> decoding.DecodedPixels:
        """Decodes an image in another process; see ``decoding.decode``.

        Args:
          data: content of the file.
          size: width and height of the result, in pixels.
          max_pixels: largest number of pixels; a larger image is refused before it is decoded.
          max_seconds: longest time that decoding may take.

        Raises:
          ImageError: see ``decoding.decode``; or ``timed_out``, ``too_much_memory`` or
            ``decoder_crashed``.
          CaptionerError: no decoder process can be started, whatever the image.
        """
        request = Request("decode", size, max_pixels, max_seconds, len(data))
        body, width, height = self._request(request, data)
        if len(body) != size * size * 3:
            raise _crash_error(0, max_seconds)
        pixels = np.frombuffer(body, np.uint8).reshape(size, size, 3)
        return decoding.DecodedPixels(pixels, width, height)

    def make_thumbnail(
        self,
        data: bytes,
        side: int,
        *,
        max_pixels: int = decoding.DEFAULT_MAX_PIXELS,
        max_seconds: float = decoding.DEFAULT_MAX_SECONDS,
    ) -> tuple[bytes, tuple[int, int]]:
        """Makes a small JPEG in another process; see ``decoding.make_thumbnail``.

        Args:
          data: content of the file.
          side: longest side of the thumbnail, in pixels.
          max_pixels: largest number of pixels; a larger image is refused.
          max_seconds: longest time that decoding may take.

        Returns:
          The JPEG file, and its width and height in pixels.

        Raises:
          ImageError: see ``decode``.
          CaptionerError: see ``decode``.
        """
        request = Request("thumbnail", side, max_pixels, max_seconds, len(data))
        jpeg, width, height = self._request(request, data)
        return jpeg, (width, height)

    def _request(self, request: Request, data: bytes) -> Answer:
        decoder = self._borrow()
        try:
            answer = decoder.request(request, data)
        except ImageError:
            self._idle.put(decoder)
            raise
        except (OSError, EOFError, ValueError) as error:  # the pipe broke, or the answer is invalid
            raise _crash_error(decoder.end(), request.max_seconds) from error
        except BaseException:  # an interruption may leave half of an answer in the pipe
            decoder.end()
            raise
        self._idle.put(decoder)
        return answer

    def _borrow(self) -> _Decoder:
        """Returns an idle decoder process, or a new one if there is none."""
        with contextlib.suppress(queue.Empty):
            while True:
                decoder = self._idle.get_nowait()
                if decoder.is_alive:
                    return decoder
                decoder.end()  # it was killed while it waited, which is not the fault of any image
        return _Decoder(self._command)


class _Decoder:
    """A running decoder process.

    Args:
      command: the command line of the process.

    Raises:
      CaptionerError: the process can't be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        environment = {
            **os.environ,
            # One thread for each process, because there are as many processes as needed.
            "OPENBLAS_NUM_THREADS": "1",
            # The process finds the same modules as this one.
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        self._process = subprocess.Popen(  # noqa: S603  an argument list, no shell
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self._process.stdin, "Popen opens a pipe"
        assert self._process.stdout, "Popen opens a pipe"
        self._requests = self._process.stdin
        self._answers = self._process.stdout
        for pipe in (self._requests, self._answers):
            _widen(pipe)
        self._await_start(command)

    def _await_start(self, command: Sequence[str]) -> None:
        """Waits until the process is ready; otherwise a broken installation would fail every image.

        Raises:
          CaptionerError: the process ends or answers anything else.
        """
        try:
            is_ready = self._read_header() == READY
        except (EOFError, ValueError):
            is_ready = False
        if not is_ready:
            raise CaptionerError(
                f"image decoders can't be started: {shlex.join(command)} ended with exit code "
                f"{self.end()}; run it to see why"
            )

    @property
    def is_alive(self) -> bool:
        """Whether the process is still running."""
        return self._process.poll() is None

    def request(self, request: Request, data: bytes) -> Answer:
        """Sends a request with a file's bytes, and returns the answer.

        Raises:
          ImageError: the process answers that the image can't be decoded.
          OSError: the process has ended.
          EOFError: the process has ended.
          ValueError: the answer is invalid.
        """
        self._write(json.dumps(request._asdict()).encode() + b"\n", data)
        header = self._read_header()
        if header != LARGE:
            return self._read_answer(header)
        with _large_image_lock:
            self._write(b"\n")
            return self._read_answer(self._read_header())

    def _read_answer(self, header: _Header) -> Answer:
        error_type = header.get("error_type")
        message = header.get("message")
        if isinstance(error_type, str) and isinstance(message, str):
            raise ImageError(error_type, message)
        numbers = [header.get(name) for name in ("width", "height", "bytes")]
        if not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError("the answer is invalid")
        if header["bytes"] > _MAX_BODY_BYTES:
            raise ValueError("the answer is too long")
        body = self._answers.read(header["bytes"])
        if len(body) < header["bytes"]:
            raise EOFError
        return Answer(body, header["width"], header["height"])

    def _read_header(self) -> _Header:
        line = self._answers.readline(_MAX_HEADER_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        header = json.loads(line)
        if not isinstance(header, dict):
            raise ValueError("the answer is invalid")
        return header

    def _write(self, *chunks: bytes) -> None:
        self._requests.writelines(chunks)
        self._requests.flush()

    def end(self) -> int:
        """Ends the process, and returns its exit code, which is negative if a signal ended it.

        The exit code is 0 if the process had to be killed here: it did not crash, but it gave no
        valid answer.
        """
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            exit_code = self._process.wait()
            # On a busy machine, a process may have crashed and yet not have ended in time.
            return 0 if exit_code == -signal.SIGKILL else exit_code
        finally:
            self._answers.close()
            with contextlib.suppress(OSError):  # nobody reads what is left in the buffer
                self._requests.close()


def _widen(pipe: IO[bytes]) -> None:
    """Makes a pipe hold a whole picture if the system allows it; by default it holds 64 kB."""
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _crash_error(exit_code: int, max_seconds: float) -> ImageError:
    """Returns the error for an image whose decoder process ended or gave no valid answer."""
    if exit_code == -signal.SIGALRM:
        return ImageError(
            "timed_out", f"decoding took more than the {max_seconds:g} s that --max-seconds allows"
        )
    # If memory is short, the kernel kills decoders first; see decoder_worker.limit_process.
    if exit_code == -signal.SIGKILL:
        return ImageError(
            "too_much_memory",
            "its decoder was ended by SIGKILL, most likely because memory ran out",
        )
    if exit_code < 0:
        reason = f"was ended by {signal.Signals(-exit_code).name}"
    else:
        reason = "gave no answer"
    return ImageError(
        "decoder_crashed", f"its decoder {reason}; the file is damaged, or made to do harm"
    )


_shared_pool = DecoderPool()
decode = _shared_pool.decode
make_thumbnail = _shared_pool.make_thumbnail
