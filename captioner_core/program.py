"""The beginning and the end of every program of captioner's, and what its errors become.

``begin`` is called before anything heavy is imported, ``guarded`` runs the work. Both leave a process alone that is
not captioner's own, such as one that tests or other programs call ``main`` in.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from captioner_core import interrupts, streams

_STDOUT_FAILED = 1
_SCRIPT = "captioner"


class _Program:
    """Whether this process is a program of captioner's."""

    is_own = False


def begin() -> None:
    """Makes this process a program of captioner's: its signals, its standard streams, its end.

    A second call does nothing.
    """
    if _Program.is_own:
        interrupts.listen()  # ``early`` holds signals back before it calls this
        return
    _Program.is_own = True
    streams.open_missing()
    interrupts.install()
    streams.take_over()
    interrupts.on_exit(_remove_temporary)
    from captioner_core import environment

    environment.quiet_libraries()
    sys.excepthook, threading.excepthook = _say_uncaught, _say_uncaught_in_thread
    sys.unraisablehook = _say_unraisable(sys.unraisablehook)
    atexit.register(_end)  # the first that is registered is the last that is called
    interrupts.listen()


def guarded(run: Callable[[], int], prog: str) -> int:
    """Runs a command; whatever goes wrong becomes one line on stderr and an exit code.

    Returns:
      What ``run`` returns; 128 and the signal's number where one has interrupted it; else the error's exit code.
    """
    try:
        code = run()
    except SystemExit as stop:
        code = _code_of(stop)
    except BaseException as error:
        code = _report(error, prog)
    if interrupts.number():
        return _interrupted()
    if _Program.is_own:
        failure = streams.finish()
        if failure is not None and not code:
            print(f"{prog}: error: stdout can't be written ({failure.strerror}); free space there", file=sys.stderr)
            code = _STDOUT_FAILED
        interrupts.work_is_done()
    return code


def check_environment() -> None:
    """Checks what surrounds this process, where it is a program of captioner's; called once its options are parsed.

    Raises:
      CaptionerError: no work can go well in this environment; see ``environment.check``.
    """
    if _Program.is_own:
        from captioner_core import environment

        environment.check()


def _code_of(stop: SystemExit) -> int:
    """Returns the exit code that Python would make of it."""
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0)
    print(stop.code, file=sys.stderr)
    return 1


def _report(error: BaseException, prog: str) -> int:
    """Prints the line of an error; after a signal every error is part of the interruption."""
    if interrupts.number():
        return interrupts.exit_code()
    if isinstance(error, KeyboardInterrupt):
        print(interrupts.LINE, file=sys.stderr, flush=True)
        return interrupts.exit_code()
    from captioner_core.error_lines import describe, describe_unforeseen, print_line

    try:
        return print_line(prog, describe(error) or describe_unforeseen(error))
    except KeyboardInterrupt:  # a signal came while the error was told
        return interrupts.exit_code()


def _interrupted() -> int:
    """Ends a program at once; in a process of others', returns the exit code."""
    if _Program.is_own:
        interrupts.leave()
    return interrupts.exit_code()


def _remove_temporary() -> None:
    from captioner_core import temporary

    temporary.remove()


def _end() -> None:
    """Leaves nothing behind; called when Python has ended all threads but those that nobody waits for."""
    if interrupts.number():
        interrupts.leave()
    _remove_temporary()
    streams.finish()
    interrupts.ignore_from_now()
    if interrupts.number():
        interrupts.leave()
    streams.give_back()


def _say_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Takes the place of ``sys.excepthook``: ends the process with one line for what a module's imports raise."""
    code = _report(error.with_traceback(trace), _SCRIPT)
    _end()
    os._exit(code)


def _say_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    """Takes the place of ``threading.excepthook``."""
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit) and not interrupts.number():
        _report(args.exc_value, _SCRIPT)


def _say_unraisable(
    before: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    def say(ignored: sys.UnraisableHookArgs) -> None:
        if isinstance(ignored.exc_value, KeyboardInterrupt) or os.environ.get("CAPTIONER_DEBUG"):
            before(ignored)
        elif ignored.exc_value is not None:
            # the program goes on: what is worth knowing is kept, and nothing is said
            from captioner_core.error_lines import save_traceback

            save_traceback(ignored.exc_value)

    return say
