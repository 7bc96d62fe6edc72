"""The first module that a program imports: from then on, a signal ends the program with one line.

It imports as little as possible, because Python itself handles a signal that arrives earlier.
"""

import signal
import sys

_SCRIPT = "captioner"


def begin_if_main() -> None:
    """Begins a program if Python is about to run the script, or a module of the calling package.

    While Python imports a package in order to run one of its modules with ``-m``, ``sys.argv``
    begins with ``-m``.
    """
    called = sys.argv[0] if sys.argv else ""
    if called != "-m" and called.rpartition("/")[2] != _SCRIPT:
        return
    # Signals are blocked until they can be handled.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    from captioner_core.process import program

    program.begin()
