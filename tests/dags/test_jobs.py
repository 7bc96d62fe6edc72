"""Programs that a task starts: their output whole and line by line, and nothing left of them."""

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
    """Sets the interpreter of the jobs to a program that does what is written."""

    def write(code):
        program = tmp_path / "python"
        program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setenv("CAPTIONER_PYTHON", str(program))

    return write


def test_output_of_any_volume_comes_whole(python, capfd):
    """240 KB on one pipe while another is read would hang for ever."""
    python("for n in range(20000): print('out', n); print('err', n, file=sys.stderr)")
    jobs.run_program("captioner_cli")
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 40_001
    assert {"out 19999", "err 19999"} <= set(lines)


def test_a_module_of_the_working_folder_is_not_run(python, capfd):
    python("print(sys.argv[1:])")
    jobs.run_program("captioner_cli", "run")
    assert "['-P', '-m', 'captioner_cli', 'run']" in capfd.readouterr().out


def test_lines_come_as_they_are_said(python, capfd):
    """Progress that comes at the end is none."""
    python("print('begun', flush=True); time.sleep(60)")
    seen = []

    class Stop(Exception):
        pass

    def hear(*words, **_):
        seen.append(" ".join(map(str, words)))
        if seen[-1].startswith("begun"):
            raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "print", hear, raising=False)
        with pytest.raises(Stop):
            jobs.run_program("captioner_cli")
    assert seen[-1] == "begun\n"


def test_what_is_asked_is_told_apart_from_what_is_logged(python, capfd):
    python("print('{\"counts\": {\"captions\": 3}}'); print('x' * 300000, file=sys.stderr)")
    assert jobs.read_counts("run") == {"captions": 3}
    assert "x" * 300_000 in capfd.readouterr().out


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        ("sys.exit(2)", AirflowFailException, "its input or options are invalid"),
        ("raise OSError('the store is away')", AirflowException, "ended with exit code 1; a retry"),
        ("sys.exit(3)", AirflowException, "ended with exit code 3; a retry"),
        ("os.kill(os.getpid(), 9)", AirflowException, "was killed by signal 9; a retry"),
    ],
)
def test_how_a_program_ended_decides_whether_it_is_tried_again(python, code, error, said):
    python(code)
    with pytest.raises(error, match=said) as caught:
        jobs.run_program("beam_jobs.match_captions")
    assert isinstance(caught.value, AirflowFailException) == (error is AirflowFailException)


def test_what_a_check_says_is_final(python):
    """A job that breaks ends with 1 too, but may go well the next time."""
    python("sys.exit(1)")
    with pytest.raises(AirflowFailException, match="reports that a check failed"):
        jobs.run_check("verify", "run")


def test_an_interpreter_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setenv("CAPTIONER_PYTHON", "/nowhere/python")
    with pytest.raises(
        AirflowFailException,
        match=r"CAPTIONER_PYTHON '/nowhere/python' can't be started .*name the python",
    ):
        jobs.run_program("captioner_cli")


def test_a_job_that_is_interrupted_leaves_no_process(python, tmp_path, monkeypatch):
    """A retry would write into the same run as what goes on."""
    python(
        "import subprocess\nchild = subprocess.Popen(['sleep', '120'])\n"
        f"open({str(tmp_path / 'sleeper')!r}, 'w').write(str(child.pid))\nprint('started', flush=True)\nchild.wait()"
    )

    def hear(*words, **_):
        if words[0] == "started\n":
            raise TimeoutError  # as execution_timeout does

    monkeypatch.setattr(jobs, "print", hear, raising=False)
    with pytest.raises(TimeoutError):
        jobs.run_program("captioner_cli")
    sleeper = int((tmp_path / "sleeper").read_text())
    # one that has ended stays a zombie where nobody asks for its exit code
    assert (
        not psutil.pid_exists(sleeper) or psutil.Process(sleeper).status() == psutil.STATUS_ZOMBIE
    )


def test_a_silent_job_ends_when_the_supervisor_of_its_task_is_killed(python, tmp_path):
    """Airflow tries such a task again, beside a job that nobody would read."""
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
