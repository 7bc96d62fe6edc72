"""Starts captioner's programs from an Airflow task, and ends them when the task ends.

Programs run in the Python interpreter that the environment variable CAPTIONER_PYTHON names, so that
Airflow's own environment needs neither TensorFlow nor Beam. They are started from a list of
arguments and never through a shell, so that a form value is always exactly one argument.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Any

import psutil  # Airflow requires psutil, so it is always installed
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from captioner_core.errors import CaptionerError
from captioner_core.options import arguments_of
from captioner_core.security.redaction import redact_arguments

_TERMINATION_GRACE_S = 15.0
_SUPERVISOR_POLL_S = 0.5
# Python also exits with 1 after any exception, so 1 is a final answer only for a check.
_CHECK_FAILED = 1
_BAD_USAGE = 2


def run_job(module: str, options: Any, beam_arguments: Sequence[str] = ()) -> None:
    """Runs ``python -m MODULE`` with options; raises what ``run_program`` raises.

    Args:
      module: the module to run, such as ``beam_jobs.extract_features``.
      options: the dataclass that the module parses its arguments into.
      beam_arguments: arguments for Beam; see ``runners.make_beam_arguments``.
    """
    run_program(module, *arguments_of(options), *beam_arguments)


def run_command(name: str, *arguments: str) -> None:
    """Runs ``captioner NAME`` with arguments; raises what ``run_program`` raises."""
    run_program("captioner_cli", name, *arguments)


def run_check(name: str, *arguments: str) -> None:
    """Runs ``captioner NAME``, whose exit code 1 means that a check failed.

    Raises:
      AirflowFailException: if the check failed. Airflow does not retry the task, because the check
        would fail again.
      AirflowException: see ``run_program``.
    """
    run_program("captioner_cli", name, *arguments, final_codes=(_CHECK_FAILED, _BAD_USAGE))


def read_command_json(name: str, *arguments: str) -> Any:
    """Runs ``captioner NAME`` and returns the JSON that it prints.

    What the command writes to stderr goes to the task's log. Raises what ``run_program`` raises.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        run_program("captioner_cli", name, *arguments, stdout=output)
        output.seek(0)
        return json.load(output)


def read_counts(run_dir: str) -> dict[str, int]:
    """Returns the counts in the manifest of a run, such as the number of rows of each table."""
    counts: dict[str, int] = read_command_json("manifest", run_dir)["counts"]
    return counts


def run_program(
    module: str,
    *arguments: str,
    stdout: IO[str] | None = None,
    final_codes: Collection[int] = (_BAD_USAGE,),
) -> None:
    """Runs a module of captioner and copies its output to the task's log, line by line.

    Args:
      module: the module to run.
      arguments: its arguments, which are passed on unchanged.
      stdout: a file for what the program prints to stdout; then only its stderr is logged.
      final_codes: the exit codes after which a retry would fail in the same way.

    Raises:
      AirflowFailException: if the program ended with one of these codes, or if the interpreter that
        CAPTIONER_PYTHON names cannot be started. Airflow does not retry the task.
      AirflowException: if the program was killed or ended with another code. Airflow retries.
    """
    command = [os.environ.get("CAPTIONER_PYTHON") or sys.executable, "-P", "-m", module, *arguments]
    print("running", module, redact_arguments(arguments), flush=True)
    process = _start(command, stdout)
    with process, _ended_on_error(process.pid), _ended_with_supervisor(process.pid):
        for line in process.stdout or process.stderr or ():
            print(line, end="", flush=True)
    _check_exit_code(module, process.returncode, final_codes)


def _start(command: list[str], stdout: IO[str] | None) -> subprocess.Popen[str]:
    """Starts a program in the task's process group, which Airflow ends when it ends the task."""
    environment = {
        **_without_airflow_settings(os.environ),
        "CAPTIONER_LAUNCHER": str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
    }
    # There is a single pipe: with two, the program would block as soon as the unread one is full.
    try:
        return subprocess.Popen(  # noqa: S603  an argument list
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise AirflowFailException(
            f"CAPTIONER_PYTHON {command[0]!r} can't be started ({error.strerror}); "
            "name the python of an environment in which captioner is installed"
        ) from error


def _without_airflow_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment without Airflow's settings, which hold secrets.

    These are the passwords of its database and connections. AIRFLOW_HOME stays, because it
    identifies the process as a job of this Airflow.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith("AIRFLOW_") or name == "AIRFLOW_HOME"
    }


def _check_exit_code(module: str, code: int, final_codes: Collection[int]) -> None:
    if code in final_codes:
        found = "its input or options are invalid" if code == _BAD_USAGE else "a check failed"
        raise AirflowFailException(
            f"{module} reports that {found} (exit code {code}); its last line says why"
        )
    if code:
        ending = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise AirflowException(f"{module} {ending}; a retry continues or replaces its work")


@contextlib.contextmanager
def _ended_on_error(pid: int) -> Iterator[None]:
    """Ends a program if the block is interrupted, for example because the task's time is up.

    Otherwise a retry would run beside the old program.
    """
    try:
        yield
    except BaseException:
        _end_process_tree(pid)
        raise


@contextlib.contextmanager
def _ended_with_supervisor(pid: int) -> Iterator[None]:
    """Ends a program if Airflow's supervisor of this task dies while the block runs.

    Airflow then retries the task, and the retry must not run beside the old program. The task
    itself notices the loss only when it next writes to its log, and a job may print nothing for
    minutes.
    """
    supervisor = os.getppid()
    is_done = threading.Event()

    def watch() -> None:
        """Waits for the end of the block or of the supervisor, whichever comes first."""
        while not is_done.wait(_SUPERVISOR_POLL_S):
            if os.getppid() != supervisor:
                with contextlib.suppress(psutil.NoSuchProcess):
                    _end_process_tree(pid)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_done.set()


def _end_process_tree(pid: int) -> None:
    root = psutil.Process(pid)
    processes = [*root.children(recursive=True), root]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, remaining = psutil.wait_procs(processes, timeout=_TERMINATION_GRACE_S)
    for process in remaining:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def fail_on_bad_input() -> Iterator[None]:
    """Turns a CaptionerError into a failure of the task with one line and no retry.

    Raises:
      AirflowFailException: if the block raises a CaptionerError.
    """
    try:
        yield
    except CaptionerError as error:
        raise AirflowFailException(str(error)) from error
