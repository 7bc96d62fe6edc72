"""How every captioner program starts and ends, and what its errors become.

``begin`` is called before anything heavy is imported, and ``guarded`` runs the work. A process that
belongs to somebody else, such as a test or a program that calls ``main``, keeps its own signals and
streams: ``begin`` is not called there, and ``guarded`` changes nothing of the process.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType

from captioner_core.process import interrupts, streams

# Other modules are imported in the functions that need them. So little is imported before signals
# are handled.

_STDOUT_FAILED = 1
_SCRIPT = "captioner"


class _Program:
    """Whether this process is a captioner program, which owns its signals and streams."""

    is_own = False


def begin() -> None:
    """Makes this process a captioner program: takes over its signals, standard streams and end.

    A second call only unblocks signals.
    """
    if _Program.is_own:
        interrupts.listen()  # ``startup`` blocks signals before it calls this function.
        return
    _Program.is_own = True
    streams.open_missing()
    interrupts.install()
    streams.install()
    interrupts.on_exit(_remove_temporary_folder)
    from captioner_core.process import environment

    environment.quiet_libraries()
    sys.excepthook = _report_uncaught
    threading.excepthook = _report_uncaught_in_thread
    sys.unraisablehook = _make_unraisable_hook(sys.unraisablehook)
    atexit.register(_end)  # The function that is registered first is called last.
    interrupts.listen()


def guarded(run: Callable[[], int], prog: str) -> int:
    """Runs a command and turns whatever goes wrong into one line on stderr and an exit code.

    Args:
      run: does the work, and returns the exit code.
      prog: name of the program, with which the line begins.

    Returns:
      The exit code of ``run``, of the error, or of the signal (128 and its number).
    """
    try:
        code = run()
    except SystemExit as stop:
        code = _exit_code_of(stop)
    except BaseException as error:
        code = _report(error, prog)
    if interrupts.number():
        return _end_interrupted()
    if _Program.is_own:
        failure = streams.finish()
        if failure is not None and not code:
            print(
                f"{prog}: error: stdout can't be written ({failure.strerror}); free space there",
                file=sys.stderr,
            )
            code = _STDOUT_FAILED
        interrupts.mark_work_done()
    return code


def check_environment() -> None:
    """Checks the environment of a captioner program; called once its options are parsed.

    Raises:
      CaptionerError: no work can succeed in this environment; see ``environment.check``.
    """
    if _Program.is_own:
        from captioner_core.process import environment

        environment.check()


def _exit_code_of(stop: SystemExit) -> int:
    """Returns the exit code that Python would use, and prints a message as Python would."""
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0)
    print(stop.code, file=sys.stderr)
    return 1


def _report(error: BaseException, prog: str) -> int:
    """Prints the line of an error and returns its exit code.

    After a signal nothing is printed, because every error is then part of the interruption.
    """
    if interrupts.number():
        return interrupts.exit_code()
    if isinstance(error, KeyboardInterrupt):
        print(interrupts.LINE, file=sys.stderr, flush=True)
        return interrupts.exit_code()
    from captioner_core.process.error_lines import describe, describe_unexpected, print_line

    try:
        return print_line(prog, describe(error) or describe_unexpected(error))
    except KeyboardInterrupt:  # A signal arrived while the line was printed.
        return interrupts.exit_code()


def _end_interrupted() -> int:
    """Ends a captioner program at once; in somebody else's process, returns the exit code."""
    if _Program.is_own:
        interrupts.leave()
    return interrupts.exit_code()


def _remove_temporary_folder() -> None:
    from captioner_core.process import temporary_folder

    temporary_folder.remove()


def _end() -> None:
    """Leaves nothing behind; called when Python has ended all threads except daemon threads."""
    if interrupts.number():
        interrupts.leave()
    _remove_temporary_folder()
    streams.finish()
    interrupts.ignore_from_now()
    if interrupts.number():
        interrupts.leave()
    streams.uninstall()


def _report_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Replaces ``sys.excepthook``: ends the process with one line if an import raises an error."""
    code = _report(error.with_traceback(trace), _SCRIPT)
    _end()
    os._exit(code)


def _report_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    """Replaces ``threading.excepthook``: prints one line, and the program continues."""
    if (
        args.exc_value is not None
        and not issubclass(args.exc_type, SystemExit)
        and not interrupts.number()
    ):
        _report(args.exc_value, _SCRIPT)


def _make_unraisable_hook(
    previous_hook: Callable[[sys.UnraisableHookArgs], object],
) -> Callable[[sys.UnraisableHookArgs], object]:
    """Returns a hook that saves the traceback of an error that Python has to ignore."""

    def save_unraisable(ignored: sys.UnraisableHookArgs) -> None:
        """Saves the traceback without printing anything, because the program continues."""
        if isinstance(ignored.exc_value, KeyboardInterrupt) or os.environ.get("CAPTIONER_DEBUG"):
            previous_hook(ignored)
        elif ignored.exc_value is not None:
            from captioner_core.process.error_lines import save_traceback

            save_traceback(ignored.exc_value)

    return save_unraisable
