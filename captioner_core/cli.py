"""What every command line of the project shares: parsing, errors, exit codes."""

from __future__ import annotations

import _thread
import argparse
import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from captioner_core.errors import CaptionerError
from captioner_core.options import StoreOnce, add_arguments, from_namespace
from captioner_core.shown import visible

# What disks and networks do while a job runs, the exit code that it becomes (another try may go well after 1), and
# what to do about it. Nothing is lost: nothing is a result before it is committed.
_MEND = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), (1, "free space where --output is")),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT), (1, "mend the disk or the connection")),
    errno.EROFS: (2, "name an --output that can be written"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), (2, "mend its permissions")),
}
_STORAGE_FAILED = 1
_INTERRUPTED = 130  # a shell's exit code for SIGINT
_UNWIND_S = 10.0
_LOADED = time.monotonic()
_STRIKE_AGAIN_S = 0.05
_LOOK_EVERY_S = 0.5
# Beam on Google's clients, which local runs don't have, and on an import that its own model manager needs
_SAID_ON_EVERY_START = ("apitools not found", "Resource module is not available")


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
        self.exit(2, f"{self.prog}: error: {visible(message)}; see {self.prog} --help\n")


def guarded(run: Callable[[], int], prog: str) -> int:
    """Runs a command; what a user can mend becomes one line on stderr and the exit code 1 or 2."""
    try:
        with _heard_interrupts(prog):
            return run()
    except CaptionerError as error:
        line = visible(" ".join(str(error).split()))
        print(f"{prog}: error: {line}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has seen enough
        return 0
    except KeyboardInterrupt:
        print(_interrupted(prog), file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:
        if error.errno is not None and error.errno not in _MEND:
            raise  # a mistake of ours, whose place is worth knowing
        code, line = _storage_failed(error)
        print(f"{prog}: error: {visible(line)}", file=sys.stderr)
        return code


def _storage_failed(error: OSError) -> tuple[int, str]:
    """The exit code and the line of what a disk or a storage client says."""
    if error.errno is None:  # a client's, which has no number for it
        said = " ".join(str(error).split())
        return _STORAGE_FAILED, f"the storage failed ({said}); mend the connection and run it again"
    code, mend = _MEND[error.errno]
    what = os.strerror(error.errno) + (f": {os.fsdecode(error.filename)!r}" if error.filename else "")
    return code, f"files can't be read or written ({what}); {mend} and run it again"


def _interrupted(prog: str) -> str:
    return f"{prog}: interrupted; run it again to complete"


@contextmanager
def _heard_interrupts(prog: str) -> Iterator[None]:
    """Makes sure that Ctrl-C ends the block.

    Libraries with a bare ``except`` or a callback from C swallow KeyboardInterrupt where it
    happens to strike. Whatever still runs a while after it is ended outright, which loses
    nothing: nothing is a result before it is committed. Where Python itself has to ignore it,
    as in a finalizer, it strikes again a moment later instead of being printed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave() -> None:
        os.write(2, f"{_interrupted(prog)}\n".encode())
        os._exit(_INTERRUPTED)

    timer = threading.Timer(_UNWIND_S, leave)
    timer.daemon = True

    def interrupt(_number: int, _frame: Any) -> None:
        if not timer.is_alive():
            timer.start()
        raise KeyboardInterrupt

    def strike() -> None:
        if signal.getsignal(signal.SIGINT) is interrupt:  # the block has not ended meanwhile
            _thread.interrupt_main()

    def again(ignored: sys.UnraisableHookArgs) -> None:
        if issubclass(ignored.exc_type, KeyboardInterrupt):
            threading.Timer(_STRIKE_AGAIN_S, strike).start()
        else:
            ignored_before(ignored)

    before, ignored_before = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = ignored_before
        signal.signal(signal.SIGINT, before)
        timer.cancel()


def run_command(
    prog: str, description: str, options_class: type, run: Callable[..., int], argv: Sequence[str] | None = None
) -> int:
    """Parses ``argv`` into checked options and runs with them; for modules run with ``-m``."""
    parser = OneLineParser(prog=prog, description=description)
    add_arguments(parser, options_class)
    namespace: Any = parser.parse_args(argv)
    return guarded(lambda: run(from_namespace(options_class, namespace)), prog)


def end_with_launcher() -> None:
    """Ends this process soon after the one whose id CAPTIONER_LAUNCHER holds, where it is set.

    Whoever starts a job that must not outlive it sets the variable: a worker that trains would wait
    for the others for ever, and a task's retry would meet the job at work.
    """
    launcher = os.environ.pop("CAPTIONER_LAUNCHER", "")  # what this process starts has another launcher
    if launcher.isdigit():
        threading.Thread(target=_end_after, args=(int(launcher),), daemon=True).start()


def _end_after(launcher: int) -> None:
    direct = os.getppid() == launcher  # else there is a wrapper between the two, such as conda's
    while os.getppid() == launcher if direct else _is_there(launcher):
        time.sleep(_LOOK_EVERY_S)
    os.write(2, b"captioner: what started this has ended, so this ends too\n")
    os._exit(1)


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


def quiet_libraries() -> None:
    """Keeps off stderr what TensorFlow and Beam say on every start; must come before they are imported.

    What goes wrong still comes as an exception.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger().addFilter(lambda record: not str(record.msg).startswith(_SAID_ON_EVERY_START))
