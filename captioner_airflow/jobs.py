"""Starts captioner's programs from a task, and ends them with it.

A program runs in the interpreter that the environment variable CAPTIONER_PYTHON names, so that
Airflow's own needs neither TensorFlow nor Beam. It is started from an argument list and never
through a shell: whatever a form holds is one argument.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import psutil  # comes with Airflow
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from captioner_core.errors import CaptionerError
from captioner_core.options import arguments_of
from captioner_core.security.redaction import redact_arguments

_GRACE_S = 15.0
_LOOK_EVERY_S = 0.5
_CHECK_FAILED, _BAD_USAGE = 1, 2  # Python too ends with 1, whatever broke


def run_job(module: str, options: Any, runner_options: Sequence[str] = ()) -> None:
    """Runs ``python -m MODULE`` with options; see ``run_program``.

    Args:
      module: such as ``beam_jobs.extract_features``.
      options: the dataclass that the module parses its arguments into.
      runner_options: Beam's options; see ``runners``.
    """
    run_program(module, *arguments_of(options), *runner_options)


def run_command(name: str, *arguments: str) -> None:
    """Runs ``captioner NAME`` with arguments; see ``run_program``."""
    run_program("captioner_cli", name, *arguments)


def run_check(name: str, *arguments: str) -> None:
    """Runs ``captioner NAME``, whose exit code 1 is its answer and will be so again.

    Raises:
      AirflowFailException: the check failed; see ``run_program`` too.
    """
    run_program("captioner_cli", name, *arguments, final=(_CHECK_FAILED, _BAD_USAGE))


def ask_command(name: str, *arguments: str) -> Any:
    """Runs ``captioner NAME``, which prints JSON.

    Returns:
      What it printed; what it says on stderr goes into the task's log.

    Raises:
      AirflowFailException: see ``run_program``.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        run_program("captioner_cli", name, *arguments, stdout=printed)
        printed.seek(0)
        return json.load(printed)


def counts_of(run_dir: str) -> dict[str, int]:
    """What the manifest of a run counts."""
    counts: dict[str, int] = ask_command("manifest", run_dir)["counts"]
    return counts


def run_program(
    module: str,
    *arguments: str,
    stdout: IO[str] | None = None,
    final: Collection[int] = (_BAD_USAGE,),
) -> None:
    """Runs a module of captioner's and waits for its end; its output comes line by line in the task's log.

    Args:
      module: to run.
      arguments: each one argument, whatever it holds.
      stdout: takes what the program prints, apart from what it logs.
      final: exit codes that another try would not change.

    Raises:
      AirflowFailException: it ended with one of those, or CAPTIONER_PYTHON can't be started.
      AirflowException: it was killed, or broke; a retry may go well.
    """
    python = os.environ.get("CAPTIONER_PYTHON") or sys.executable
    command = [python, "-P", "-m", module, *arguments]
    print("running", module, redact_arguments(arguments), flush=True)
    environment = {
        **_without_airflow(os.environ),
        "CAPTIONER_LAUNCHER": str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }
    # In the task's own process group, which Airflow ends as a whole where the task is cleared or marked failed
    try:
        process = subprocess.Popen(  # noqa: S603  an argument list
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT
            if stdout is None
            else subprocess.PIPE,  # one pipe, so none fills unread
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise AirflowFailException(
            f"CAPTIONER_PYTHON {python!r} can't be started ({error.strerror}); name the python of an environment that "
            "has captioner installed"
        ) from error
    with process, _ended_with_the_block(process.pid), _ended_with_the_supervisor(process.pid):
        for line in process.stdout or process.stderr or ():
            print(line, end="", flush=True)
    _check(module, process.returncode, final)


def _without_airflow(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without Airflow's own: its database and connections are no business of jobs.

    But for its home, by which a process can be told to be a job of this Airflow.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("AIRFLOW_") or name == "AIRFLOW_HOME"
    }


def _check(module: str, code: int, final: Collection[int]) -> None:
    if code in final:
        what = (
            "found its input or options bad" if code == _BAD_USAGE else "says that a check failed"
        )
        raise AirflowFailException(f"{module} {what} (exit code {code}); its last line says which")
    if code:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise AirflowException(f"{module} {how}; a retry goes on or replaces what it had done")


@contextlib.contextmanager
def _ended_with_the_block(pid: int) -> Iterator[None]:
    try:
        yield
    except (
        BaseException
    ):  # the task's time is up, or it is interrupted: a retry must not meet the job at work
        _end(pid)
        raise


@contextlib.contextmanager
def _ended_with_the_supervisor(pid: int) -> Iterator[None]:
    """Ends a program while the block runs if the process that supervises this task is gone.

    Airflow then tries the task again, which must not meet the job at work. This task itself notices only
    when it next writes to its log, and a job may print nothing for minutes.
    """
    supervisor = os.getppid()
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.wait(_LOOK_EVERY_S):
            if os.getppid() != supervisor:
                with contextlib.suppress(psutil.NoSuchProcess):
                    _end(pid)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def _end(pid: int) -> None:
    """Ends a process and all that it has started, by force where it does not go by itself."""
    leader = psutil.Process(pid)
    processes = [*leader.children(recursive=True), leader]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(processes, timeout=_GRACE_S)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """What a user can mend ends the task at once, with its one line and no retry."""
    try:
        yield
    except CaptionerError as error:
        raise AirflowFailException(str(error)) from error
