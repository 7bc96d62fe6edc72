"""A process that decodes one image after another for ``decoders``: ``python -m captioner_core.images.decoder_worker``.

Bytes that anyone may have made meet Pillow here and nowhere else, with a clock and a limit to
memory that the kernel keeps. First goes ``{"ready": true}`` to stdout. On stdin comes a line of
JSON (``make``, ``size``, ``max_pixels``, ``max_seconds``, ``bytes``) and so many bytes; on stdout
goes a line of JSON (``width``, ``height``, ``bytes``) and so many bytes: uint8 [size, size, 3], or
of a thumbnail a JPEG. Of what is no image goes ``error_type`` and ``message``. Before an image that
needs much memory goes ``{"large": true}``, and an empty line is waited for.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

from captioner_core.errors import ImageError
from captioner_core.images import decoding

USUAL_MEMORY = 1 << 30
"""Bytes of address space, Python's and Pillow's own 0.1 GB included.

Of images of 16 megapixels, JPEG 2000 with alpha needs most: 0.5 GB, and the file's bytes come on top.
"""
LARGE_MEMORY = 4 << 30
"""For an image of more than ``images.LARGE`` pixels, of which a worker decodes one at a time.

Of images of 100 megapixels, JPEG 2000 with alpha needs most: 2.4 GB; then float TIFF: 1.7 GB.
"""
READY = {"ready": True}


def main() -> int:
    """Answers until stdin ends."""
    _limit_memory(USUAL_MEMORY)
    _go_first_when_memory_is_short()
    _heed_the_clock()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints must not become an answer
    with answers:
        _say(answers, READY)
        while line := sys.stdin.buffer.readline():
            asked = json.loads(line)
            _answer(answers, asked, sys.stdin.buffer.read(asked["bytes"]))
    return 0


def _answer(answers: IO[bytes], asked: dict[str, Any], data: bytes) -> None:
    @contextlib.contextmanager
    def large() -> Iterator[None]:
        _set_clock(0)
        _say(answers, {"large": True})
        sys.stdin.buffer.readline()
        _limit_memory(LARGE_MEMORY)
        _set_clock(asked["max_seconds"])
        yield

    header: dict[str, Any]
    _set_clock(asked["max_seconds"])
    try:
        made, width, height = _made(asked, data, large)
        header = {"width": width, "height": height, "bytes": len(made)}
    except ImageError as error:
        made, header = b"", {"error_type": error.error_type, "message": error.message}
    _set_clock(0)
    _limit_memory(USUAL_MEMORY)
    _say(answers, header, made)


def _made(
    asked: dict[str, Any], data: bytes, large: Callable[[], AbstractContextManager[None]]
) -> tuple[bytes, int, int]:
    if asked["make"] == "thumbnail":
        jpeg, (width, height) = decoding.thumbnail(
            data, asked["size"], max_pixels=asked["max_pixels"], large=large
        )
        return jpeg, width, height
    pixels, width, height = decoding.decode(
        data, size=asked["size"], max_pixels=asked["max_pixels"], large=large
    )
    return pixels.tobytes(), width, height


def _say(answers: IO[bytes], header: dict[str, Any], data: bytes = b"") -> None:
    answers.write(json.dumps(header).encode() + b"\n" + data)
    answers.flush()


def _set_clock(seconds: float) -> None:
    """Has the kernel end this process after so many seconds, in C code too; 0 stops the clock."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _heed_the_clock() -> None:
    """Takes back what a worker may have set for itself and processes inherit: to ignore or to hold back the alarm."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])


def _go_first_when_memory_is_short() -> None:
    """Has the kernel end this process rather than the worker: one image fails, not a job."""
    with (
        contextlib.suppress(OSError),
        open("/proc/self/oom_score_adj", "w", encoding="ascii") as file,
    ):
        file.write("1000")


def _limit_memory(limit: int) -> None:
    """Limits this process' address space; up to ``LARGE_MEMORY`` the limit may be raised again."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, LARGE_MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):  # a system without such limits, or with tighter ones
        return


if __name__ == "__main__":
    sys.exit(main())
