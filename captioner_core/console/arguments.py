"""What all command lines of the project share: how they start and how they parse their options."""

import argparse
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from captioner_core.options import StoreOnce, add_arguments, from_namespace
from captioner_core.process import environment, interrupts, program
from captioner_core.security.redaction import escape_control_chars

_LOADED_AT = time.monotonic()
_POLL_INTERVAL_S = 0.5
_LAUNCHER_ENDED = "captioner: the process that started this one has ended, so this one ends too"


def start(argv: Sequence[str] | None) -> None:
    """Begins a command; every ``main`` calls it first.

    Args:
      argv: the arguments that ``main`` was given. None means that the command is the whole process
        and its arguments are in ``sys.argv``; only then does it take over signals and streams.
    """
    if argv is None:
        program.begin()
    else:
        environment.quiet_libraries()
    end_with_launcher()


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that reports an error in one line.

    It accepts no abbreviated options, because a later version could have another option that begins
    the same way. It accepts an option with one value only once.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        for name in (None, "store"):
            self.register("action", name, StoreOnce)

    def error(self, message: str) -> NoReturn:
        """Prints the message in one line and exits with code 2."""
        line = f"{self.prog}: error: {escape_control_chars(message)}; see {self.prog} --help\n"
        self.exit(2, line)


def run_command(
    prog: str,
    description: str,
    options_class: type,
    run: Callable[..., int],
    argv: Sequence[str] | None = None,
) -> int:
    """Runs a command of a module that is started with ``python -m``.

    Args:
      prog: name of the program, for its help and its errors.
      description: what it does, for its help.
      options_class: dataclass whose fields are the options.
      run: called with the checked options; returns the exit code.
      argv: arguments; None takes those of the process.

    Returns:
      The exit code.
    """
    start(argv)

    def parse_and_run() -> int:
        """Parses the arguments, checks the environment and runs the command."""
        parser = OneLineParser(prog=prog, description=description)
        add_arguments(parser, options_class)
        namespace: Any = parser.parse_args(argv)
        program.check_environment()
        return run(from_namespace(options_class, namespace))

    return program.guarded(parse_and_run, prog)


def end_with_launcher() -> None:
    """Watches the process whose id is in CAPTIONER_LAUNCHER, if it is set, and ends when it ends.

    A process that starts a job sets this variable if the job must not outlive it. Otherwise a
    training worker would wait forever for other workers, and a retried task would run beside its
    first job.
    """
    # The variable is removed, because processes started from here have this process as launcher.
    launcher = os.environ.pop("CAPTIONER_LAUNCHER", "")
    if launcher.isdigit():
        threading.Thread(target=_end_after, args=(int(launcher),), daemon=True).start()


def _end_after(launcher: int) -> None:
    is_parent = os.getppid() == launcher
    # If it is not the parent, a wrapper such as conda's is between the two processes.
    while os.getppid() == launcher if is_parent else _is_running(launcher):
        time.sleep(_POLL_INTERVAL_S)
    interrupts.leave(1, _LAUNCHER_ENDED)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # Signal 0 only checks whether the process exists.
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def seconds_since_start() -> float:
    """Returns how long this process has run: the time since a command loaded this module first."""
    return time.monotonic() - _LOADED_AT
