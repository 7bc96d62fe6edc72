"""The first thing that a program of captioner's imports: from here on a signal ends it with one line.

It imports as little as it can, since a signal that comes before is Python's own to handle.
"""

import signal
import sys

_SCRIPT = "captioner"


def begin_if_main() -> None:
    """Begins a program where Python is about to run a module of the calling package with ``-m``, or its script.

    While Python imports a package on its way to such a module, ``sys.argv`` begins with ``-m``.
    """
    called = sys.argv[0] if sys.argv else ""
    if called != "-m" and called.rpartition("/")[2] != _SCRIPT:
        return
    # held back until they can be handled
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    from captioner_core.process import program

    program.begin()
