"""A decoder process that misbehaves as the bytes of the image tell it to."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from captioner_core.images.decoder_worker import LARGE, READY, Request, limit_process, set_alarm


def write(header, body=b""):
    """Writes an answer: a line of JSON and the bytes of the pixels."""
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + body)
    sys.stdout.buffer.flush()


def main():
    """Answers requests until stdin ends."""
    limit_process()
    write(READY)
    while line := sys.stdin.buffer.readline():
        request = Request(**json.loads(line))
        set_alarm(request.max_seconds)
        answer(request, sys.stdin.buffer.read(request.byte_count).decode())


def answer(request, action):
    """Does what the image's text names; answers any other text with the id of this process."""
    pixels = bytes(request.size**2 * 3)
    if action == "hang":
        while True:
            pass
    elif action == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif action == "starve":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "leave":
        sys.exit(3)
    elif action == "print":
        sys.stdout.buffer.write(b"warning: odd file\n" * 9000)
        sys.stdout.buffer.flush()
        time.sleep(60)
    elif action == "lie":
        write({"width": "wide", "height": None})
    elif action == "list":
        write([1, 2])
    elif action == "half":
        write({"width": 1, "height": 1, "bytes": len(pixels)}, pixels[:100])
        sys.exit(0)
    elif action.startswith("large "):
        set_alarm(0)
        write(LARGE)
        sys.stdin.buffer.readline()
        with open(action.removeprefix("large "), "a", encoding="utf-8") as log:
            log.write("in\n")
            log.flush()
            time.sleep(0.05)
            log.write("out\n")
        write({"width": 9, "height": 9, "bytes": len(pixels)}, pixels)
    else:
        if action.startswith("meet "):
            meet(Path(action.removeprefix("meet ")))
        set_alarm(0)
        write({"width": os.getpid(), "height": 1, "bytes": len(pixels)}, pixels)


def meet(folder):
    """Waits until two processes are here, each of which has put a file into the folder."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)


if __name__ == "__main__":
    main()
