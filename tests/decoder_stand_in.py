"""A decoder process that does what the bytes it gets tell it to: whatever a broken decoder may do."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from captioner_core.images.decoder_worker import (
    READY,
    USUAL_MEMORY,
    _go_first_when_memory_is_short,
    _heed_the_clock,
    _limit_memory,
    _set_clock,
)


def say(header, data=b""):
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def main():
    _limit_memory(USUAL_MEMORY)
    _heed_the_clock()
    _go_first_when_memory_is_short()
    say(READY)
    while line := sys.stdin.buffer.readline():
        asked = json.loads(line)
        what = sys.stdin.buffer.read(asked["bytes"]).decode()
        _set_clock(asked["max_seconds"])
        picture = bytes(asked["size"] ** 2 * 3)
        if what == "hang":
            while True:
                pass
        elif what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif what == "starve":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "leave":
            sys.exit(3)
        elif what == "print":
            sys.stdout.buffer.write(b"warning: odd file\n" * 9000)
            sys.stdout.buffer.flush()
            time.sleep(60)
        elif what == "lie":
            say({"width": "wide", "height": None})
        elif what == "list":
            say([1, 2])
        elif what == "half":
            say({"width": 1, "height": 1, "bytes": len(picture)}, picture[:100])
            sys.exit(0)
        elif what.startswith("large "):
            _set_clock(0)
            say({"large": True})
            sys.stdin.buffer.readline()
            with open(what.removeprefix("large "), "a", encoding="utf-8") as log:
                log.write("in\n")
                log.flush()
                time.sleep(0.05)
                log.write("out\n")
            say({"width": 9, "height": 9, "bytes": len(picture)}, picture)
        else:
            _set_clock(0)
            say({"width": os.getpid(), "height": 1, "bytes": len(picture)}, picture)


if __name__ == "__main__":
    main()
