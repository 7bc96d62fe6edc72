"""Images decoded in processes of their own: what one of them does to its decoder harms no other.

Pillow's decoders are C libraries that read bytes which anyone may have made. In a worker's own
process one that hangs could not be ended, one that crashes would take the worker with it, and
one that eats memory all there is. Here each is a row of failures, and the next image gets
a fresh process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import decoding
from captioner_core.images.decoder_worker import READY

# -P: with -m alone Python would import modules from the current folder, which may be one of strangers' files
_COMMAND = (sys.executable, "-P", "-m", "captioner_core.images.decoder_worker")
# several at once of what may take gigabytes each is more than a machine may have
_one_large = threading.Lock()
_HEADER_BYTES = 65_536
_PIPE_BYTES = 1 << 20
_MOST_BYTES = 1 << 26  # of an answer
_GRACE_S = 1.0  # between a pipe's end and its process'


def decode(
    data: bytes,
    *,
    size: int = 299,
    max_pixels: int = decoding.DEFAULT_MAX_PIXELS,
    max_seconds: float = decoding.DEFAULT_MAX_SECONDS,
) -> tuple[npt.NDArray[np.uint8], int, int]:
    """Decodes as ``images.decode`` does, in another process; safe from any thread.

    As many processes are kept as threads have called at the same time. They end with this one, which
    closes their pipes, however it ends.

    Args:
      data: a file's bytes.
      size: height and width to scale to, in pixels.
      max_pixels: images with more are refused before any pixel is decoded.
      max_seconds: the decoder is ended after so many.

    Returns:
      uint8 [size, size, 3], and the upright image's width and height.

    Raises:
      ImageError: as ``images.decode``; or ``timed_out``, ``too_much_memory``, or ``decoder_crashed``.
      CaptionerError: no decoder can be started, whatever the image.
    """
    made, width, height = _ask("picture", data, size, max_pixels, max_seconds)
    if len(made) != size * size * 3:
        raise _ended(0, max_seconds)
    return np.frombuffer(made, np.uint8).reshape(size, size, 3), width, height


def thumbnail(
    data: bytes,
    side: int,
    *,
    max_pixels: int = decoding.DEFAULT_MAX_PIXELS,
    max_seconds: float = decoding.DEFAULT_MAX_SECONDS,
) -> tuple[bytes, tuple[int, int]]:
    """Makes a thumbnail as ``images.thumbnail`` does, in another process; see ``decode``.

    Returns:
      The JPEG's bytes, with its width and height.

    Raises:
      ImageError: as ``decode``.
      CaptionerError: likewise.
    """
    jpeg, width, height = _ask("thumbnail", data, side, max_pixels, max_seconds)
    return jpeg, (width, height)


def _ask(
    make: str, data: bytes, size: int, max_pixels: int, max_seconds: float
) -> tuple[bytes, int, int]:
    decoder = _borrow()
    limits = {"max_pixels": max_pixels, "max_seconds": max_seconds}
    try:
        answer, made = decoder.ask({"make": make, "size": size, **limits, "bytes": len(data)}, data)
    except (OSError, EOFError, ValueError) as error:  # the pipe broke, or what came is no answer
        raise _ended(decoder.end(), max_seconds) from error
    except BaseException:  # interrupted: half an answer may be in the pipe
        decoder.end()
        raise
    _idle.put(decoder)
    if made is None:
        raise ImageError(answer["error_type"], answer["message"])
    return made, answer["width"], answer["height"]


class _Decoder:
    def __init__(self) -> None:
        # one thread each: there are as many decoders as are wanted; the modules are found where ours are
        environment = {
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        self._process = subprocess.Popen(  # noqa: S603  an argument list
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self._process.stdin, "a pipe, as asked for"
        assert self._process.stdout, "a pipe, as asked for"
        self._questions, self._answers = self._process.stdin, self._process.stdout
        for pipe in (self._questions, self._answers):
            _widen(pipe)
        self._await_start()

    def _await_start(self) -> None:
        """Makes sure that the process answers, or a broken installation would look like a folder of broken images."""
        try:
            ready = self._header() == READY
        except (EOFError, ValueError):
            ready = False
        if not ready:
            raise CaptionerError(
                f"image decoders can't be started: {shlex.join(_COMMAND)} ended with exit code {self.end()}; "
                "run it to see why"
            )

    @property
    def is_alive(self) -> bool:
        """Whether nobody has ended the process since its last answer."""
        return self._process.poll() is None

    def ask(self, asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes | None]:
        self._write(json.dumps(asked).encode() + b"\n", data)
        answer = self._header()
        if answer.get("large"):
            with _one_large:
                self._write(b"\n")
                return self._rest(self._header())
        return self._rest(answer)

    def _rest(self, answer: dict[str, Any]) -> tuple[dict[str, Any], bytes | None]:
        if isinstance(answer.get("error_type"), str) and isinstance(answer.get("message"), str):
            return answer, None
        numbers = [answer.get(name) for name in ("width", "height", "bytes")]
        if (
            not all(isinstance(number, int) and number > 0 for number in numbers)
            or answer["bytes"] > _MOST_BYTES
        ):
            raise ValueError("no answer")
        made = self._answers.read(answer["bytes"])
        if len(made) < answer["bytes"]:
            raise EOFError
        return answer, made

    def _header(self) -> dict[str, Any]:
        line = self._answers.readline(_HEADER_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        answer = json.loads(line)
        if not isinstance(answer, dict):
            raise ValueError("no answer")
        return answer

    def _write(self, *some: bytes) -> None:
        for data in some:
            self._questions.write(data)
        self._questions.flush()

    def end(self) -> int:
        """Ends the process; its exit code, negative where a signal had ended it before."""
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return 0  # it did not crash, and yet gave no answer
        finally:
            self._answers.close()
            with contextlib.suppress(OSError):  # what is left in the buffer has nobody to read it
                self._questions.close()


_idle: queue.LifoQueue[_Decoder] = queue.LifoQueue()


def _widen(pipe: IO[bytes]) -> None:
    """Lets a picture through at once, where the system can; by default a pipe holds 64 kB."""
    with contextlib.suppress(AttributeError, ImportError, OSError):
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _borrow() -> _Decoder:
    with contextlib.suppress(queue.Empty):
        while True:
            decoder = _idle.get_nowait()
            if decoder.is_alive:
                return decoder
            decoder.end()  # killed while it waited, which no image is to blame for
    return _Decoder()


def _ended(code: int, max_seconds: float) -> ImageError:
    if code == -signal.SIGALRM:
        return ImageError(
            "timed_out", f"decoding took more than the {max_seconds:g} s that --max-seconds allows"
        )
    if (
        code == -signal.SIGKILL
    ):  # the kernel's way out where memory is short; it picks decoders first
        return ImageError(
            "too_much_memory", "its decoder was ended by SIGKILL, most likely since memory ran out"
        )
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "gave no answer"
    return ImageError(
        "decoder_crashed", f"its decoder {how}; the file is damaged, or made to do harm"
    )
