"""Programs that a task starts: their output, their exit codes and their end.

Small Python programs stand in for the interpreter of the jobs.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from captioner_airflow import jobs


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Returns a function that replaces the interpreter of the jobs by a program with given code."""

    def write(code):
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("CAPTIONER_PYTHON", str(program))

    return write


def test_a_large_output_is_complete(python, capfd):
    """With two pipes, 240 KB on the one that is not being read would block the program forever."""
    python("for n in range(20000): print('out', n); print('err', n, file=sys.stderr)")
    jobs.run_program("captioner_cli")
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 40_001
    assert {"out 19999", "err 19999"} <= set(lines)


def test_the_working_folder_is_not_on_the_module_path(python, capfd):
    python("print(sys.argv[1:])")
    jobs.run_program("captioner_cli", "run")
    assert "['-P', '-m', 'captioner_cli', 'run']" in capfd.readouterr().out


def test_lines_are_logged_as_soon_as_they_are_printed(python, capfd):
    """Progress messages are useless if they arrive only at the end."""
    python("print('started', flush=True); time.sleep(60)")
    lines = []

    class Stop(Exception):
        pass

    def print_or_stop(*words, **_):
        lines.append(" ".join(map(str, words)))
        if lines[-1].startswith("started"):
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "print", print_or_stop, raising=False)
        with pytest.raises(Stop):
            jobs.run_program("captioner_cli")
    assert lines[-1] == "started\n"


def test_json_output_and_log_are_kept_apart(python, capfd):
    python("print('{\"counts\": {\"captions\": 3}}'); print('x' * 300000, file=sys.stderr)")
    assert jobs.read_counts("run") == {"captions": 3}
    assert "x" * 300_000 in capfd.readouterr().out


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("sys.exit(2)", AirflowFailException, "its input or options are invalid"),
        (
            "raise OSError('the store does not answer')",
            AirflowException,
            "ended with exit code 1; a retry",
        ),
        ("sys.exit(3)", AirflowException, "ended with exit code 3; a retry"),
        ("os.kill(os.getpid(), 9)", AirflowException, "was killed by signal 9; a retry"),
    ],
)
def test_the_exit_code_of_a_program_decides_about_a_retry(python, code, error, message):
    python(code)
    with pytest.raises(error, match=message) as caught:
        jobs.run_program("beam_jobs.match_captions")
    assert isinstance(caught.value, AirflowFailException) == (error is AirflowFailException)


def test_a_failed_check_is_not_retried(python):
    """A job that crashes also exits with 1, but a retry of it may succeed."""
    python("sys.exit(1)")
    with pytest.raises(AirflowFailException, match="reports that a check failed"):
        jobs.run_check("verify", "run")


def test_a_missing_interpreter_is_named(monkeypatch):
    monkeypatch.setenv("CAPTIONER_PYTHON", "/nowhere/python")
    with pytest.raises(
        AirflowFailException,
        match=r"CAPTIONER_PYTHON '/nowhere/python' can't be started .*name the python",
    ):
        jobs.run_program("captioner_cli")


def test_an_interrupted_job_leaves_no_process(python, tmp_path, monkeypatch):
    """A retry would write to the same run as a process that continues."""
    python(
        "import subprocess\nchild = subprocess.Popen(['sleep', '120'])\n"
        f"open({str(tmp_path / 'sleeper')!r}, 'w').write(str(child.pid))\n"
        "print('started', flush=True)\nchild.wait()"
    )

    def print_or_time_out(*words, **_):
        if words[0] == "started\n":
            raise TimeoutError  # as an execution_timeout raises

    monkeypatch.setattr(jobs, "print", print_or_time_out, raising=False)
    with pytest.raises(TimeoutError):
        jobs.run_program("captioner_cli")
    sleeper = int((tmp_path / "sleeper").read_text())
    # Without an init process that collects exit codes, an ended process stays a zombie.
    assert (
        not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == psutil.STATUS_ZOMBIE
    )


def test_a_silent_job_ends_when_the_supervisor_of_its_task_is_killed(python, tmp_path):
    """Airflow retries such a task, and the retry must not run beside the old job."""
    python(f"open({str(tmp_path / 'job')!r}, 'w').write(str(os.getpid())); time.sleep(600)")
    task = "from captioner_airflow import jobs; jobs.run_program('captioner_cli')"
    supervise = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {task!r}])"
    supervisor = subprocess.Popen([sys.executable, "-c", supervise])
    deadline = time.monotonic() + 60
    while not (tmp_path / "job").exists() or not (tmp_path / "job").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    job = psutil.Process(int((tmp_path / "job").read_text()))
    supervisor.kill()
    supervisor.wait()
    job.wait(30)
