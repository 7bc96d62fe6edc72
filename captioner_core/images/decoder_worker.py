"""A process that decodes one image after another for ``decoder_pool``.

Untrusted bytes reach Pillow only in this process, where the kernel limits time and memory. It is
started with ``python -m captioner_core.images.decoder_worker``.

The protocol: the process first writes ``READY``. Then it reads requests from stdin, each a line of
JSON with the fields of ``Request`` and the bytes of the file. It answers each on stdout with a line
of JSON and a body. After success the line holds ``width``, ``height`` and ``bytes``, and the body
is uint8 [size, size, 3] or a JPEG. After a failure the line holds ``error_type`` and ``message``,
and there is no body. Before it decodes a large image, the process writes ``LARGE`` and waits for
an empty line.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import IO, NamedTuple

from captioner_core.errors import ImageError
from captioner_core.images import decoding
from captioner_core.io.json_text import JsonObject

USUAL_MEMORY = 1 << 30
"""Limit of the address space in bytes, including 0.1 GB for Python and Pillow themselves.

Of images with 16 megapixels, JPEG 2000 with alpha needs most: 0.5 GB plus the file's size.
"""
LARGE_MEMORY = 4 << 30
"""Limit for images of more than ``decoding.LARGE_PIXELS``, of which one is decoded at a time.

Of images with 100 megapixels, JPEG 2000 with alpha needs most, 2.4 GB, and then float TIFF, 1.7 GB.
"""
READY = {"ready": True}
LARGE = {"large": True}


class Request(NamedTuple):
    """A request to decode an image, sent before the bytes of its file.

    Args:
      operation: ``decode`` or ``thumbnail``.
      size: width and height of the pixels, or the longest side of the thumbnail.
      max_pixels: largest number of pixels that is decoded.
      max_seconds: longest time that decoding may take.
      byte_count: size of the file, in bytes.
    """

    operation: str
    size: int
    max_pixels: int
    max_seconds: float
    byte_count: int


class Answer(NamedTuple):
    """The result of decoding an image.

    Args:
      body: uint8 [size, size, 3] as bytes, or a JPEG file.
      width: width of the original image or of the thumbnail, in pixels.
      height: height of the original image or of the thumbnail, in pixels.
    """

    body: bytes
    width: int
    height: int


def main() -> int:
    """Answers requests until stdin ends, and returns the exit code."""
    limit_process()
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints must not mix with the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with answers:
        _write(answers, READY)
        while line := sys.stdin.buffer.readline():
            request = Request(**json.loads(line))
            _answer(answers, request, sys.stdin.buffer.read(request.byte_count))
    return 0


def limit_process() -> None:
    """Limits this process' memory, and makes the kernel end it when its time or memory runs out."""
    _limit_memory(USUAL_MEMORY)
    # If memory is short, the kernel should end this process, not the worker that started it:
    # then one image fails and not a whole job.
    with (
        contextlib.suppress(OSError),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as file,
    ):
        file.write("1000")
    # The worker may ignore or block the alarm, and its child processes inherit that.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def set_alarm(seconds: float) -> None:
    """Makes the kernel end this process after some seconds, even in C code; 0 cancels the alarm."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _answer(answers: IO[bytes], request: Request, data: bytes) -> None:
    @contextlib.contextmanager
    def large_guard() -> Iterator[None]:
        """Waits for permission to decode a large image; the waiting time does not count."""
        set_alarm(0)
        _write(answers, LARGE)
        sys.stdin.buffer.readline()
        _limit_memory(LARGE_MEMORY)
        set_alarm(request.max_seconds)
        yield

    header: JsonObject
    set_alarm(request.max_seconds)
    try:
        body, width, height = _decode(request, data, large_guard)
        header = {"width": width, "height": height, "bytes": len(body)}
    except ImageError as error:
        body = b""
        header = {"error_type": error.error_type, "message": error.message}
    set_alarm(0)
    _limit_memory(USUAL_MEMORY)
    _write(answers, header, body)


def _decode(request: Request, data: bytes, large_guard: decoding.LargeGuard) -> Answer:
    if request.operation == "thumbnail":
        jpeg, (width, height) = decoding.make_thumbnail(
            data, request.size, max_pixels=request.max_pixels, large_guard=large_guard
        )
        return Answer(jpeg, width, height)
    pixels, width, height = decoding.decode(
        data, size=request.size, max_pixels=request.max_pixels, large_guard=large_guard
    )
    return Answer(pixels.tobytes(), width, height)


def _write(answers: IO[bytes], header: JsonObject, body: bytes = b"") -> None:
    answers.write(json.dumps(header).encode() + b"\n" + body)
    answers.flush()


def _limit_memory(limit: int) -> None:
    """Limits this process' address space; the limit can be raised again up to ``LARGE_MEMORY``."""
    with contextlib.suppress(OSError, ValueError):  # the system has stricter limits
        resource.setrlimit(resource.RLIMIT_AS, (limit, LARGE_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
