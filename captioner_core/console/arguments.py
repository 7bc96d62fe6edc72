"""What every command line of the project shares: parsing, the launcher, and the way in."""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from captioner_core.options import StoreOnce, add_arguments, from_namespace
from captioner_core.process import interrupts, program
from captioner_core.process.environment import quiet_libraries
from captioner_core.process.program import guarded
from captioner_core.security.redaction import escape_control_chars

__all__ = [
    "OneLineParser",
    "end_with_launcher",
    "guarded",
    "quiet_libraries",
    "run_command",
    "start",
]

_LOADED = time.monotonic()
_LOOK_EVERY_S = 0.5
_LAUNCHER_ENDED = "captioner: what started this has ended, so this ends too"


def start(argv: Sequence[str] | None) -> None:
    """Begins a command line: to be called first by every ``main``.

    Args:
      argv: as ``main`` was given it; None where the process is the program's own, with its arguments in ``sys.argv``.
    """
    if argv is None:
        program.begin()
    else:
        quiet_libraries()
    end_with_launcher()


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line.

    It takes no abbreviated options, which could become another option's in a later version, and no option twice that
    takes one value.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        for name in (None, "store"):
            self.register("action", name, StoreOnce)

    def error(self, message: str) -> NoReturn:
        self.exit(
            2, f"{self.prog}: error: {escape_control_chars(message)}; see {self.prog} --help\n"
        )


def run_command(
    prog: str,
    description: str,
    options_class: type,
    run: Callable[..., int],
    argv: Sequence[str] | None = None,
) -> int:
    """Parses ``argv`` into checked options and runs with them; for modules run with ``-m``."""
    start(argv)

    def parse_and_run() -> int:
        parser = OneLineParser(prog=prog, description=description)
        add_arguments(parser, options_class)
        namespace: Any = parser.parse_args(argv)
        program.check_environment()
        return run(from_namespace(options_class, namespace))

    return guarded(parse_and_run, prog)


def end_with_launcher() -> None:
    """Ends this process soon after the one whose id CAPTIONER_LAUNCHER holds, where it is set.

    Whoever starts a job that must not outlive it sets the variable: a worker that trains would wait
    for the others for ever, and a task's retry would meet the job at work.
    """
    launcher = os.environ.pop(
        "CAPTIONER_LAUNCHER", ""
    )  # what this process starts has another launcher
    if launcher.isdigit():
        threading.Thread(target=_end_after, args=(int(launcher),), daemon=True).start()


def _end_after(launcher: int) -> None:
    direct = os.getppid() == launcher  # else there is a wrapper between the two, such as conda's
    while os.getppid() == launcher if direct else _is_there(launcher):
        time.sleep(_LOOK_EVERY_S)
    interrupts.leave(1, _LAUNCHER_ENDED)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def seconds_since_start() -> float:
    """Of this process, near enough: since this module was loaded, which commands do first."""
    return time.monotonic() - _LOADED
