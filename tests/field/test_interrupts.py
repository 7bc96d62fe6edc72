"""Interrupting a program at any moment gives one line and an exit code that names the signal.

Nothing is left behind, and the same command completes the work.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from captioner_core.process import interrupts
from captioner_core.runs.verify import verify
from tests.faults.forks import make_images
from tests.field.programs import CAPTIONER, call, environment

SEED = int(os.environ.get("FAULTS_SEED") or 20_261)
MOMENTS = int(os.environ.get("FAULTS_MOMENTS") or 20)
LINE = "captioner: interrupted; run it again to complete"
# Before this time Python itself may be starting, and it handles signals in its own way. Its start
# takes about a tenth of it.
PYTHON_START_S = 0.5
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@dataclass(frozen=True)
class Interrupted:
    """How a program ended after it received a signal.

    Args:
      code: its exit code, or minus the signal that killed it.
      err: what it wrote to stderr.
      took_s: seconds from the signal to its end.
      left: temporary files and child processes that it left.
    """

    code: int
    err: str
    took_s: float
    left: list[str]


def interrupt(
    command, temporary, number, after_s=0.0, *, whole_group=False, held=None, **changes
) -> Interrupted:
    """Sends a signal to a program, or to its whole process group as a terminal does.

    Args:
      command: the program and its arguments.
      temporary: the folder for its temporary files.
      number: the signal.
      after_s: seconds after which it is sent.
      whole_group: whether it is sent to the whole process group.
      held: a file that the program writes when it is to be interrupted.
      changes: environment variables.

    Returns:
      How the program ended, and which files and processes it left.
    """
    temporary.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(TMPDIR=str(temporary), **changes),
        start_new_session=True,
    )
    time.sleep(after_s)
    while held is not None and not held.exists() and process.poll() is None:
        time.sleep(0.05)
    children = (
        psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    )
    sent_at = time.monotonic()
    if process.poll() is None:
        os.killpg(process.pid, number) if whole_group else process.send_signal(number)
    _, err = process.communicate(timeout=120)
    took_s = time.monotonic() - sent_at
    _, alive = psutil.wait_procs(children, timeout=3)
    left = [*os.listdir(temporary), *(f"process {child.pid}" for child in alive)]
    return Interrupted(process.returncode, err, took_s, left)


def check(ended: Interrupted, number) -> None:
    """Asserts that a program ended as an interrupted program must, or had already ended."""
    if ended.code == 0:
        return  # It had ended before the signal came.
    assert ended.code == 128 + number, ended
    assert ended.err.count(LINE) == 1, ended.err
    assert ended.err.rstrip("\n").splitlines()[-1] == LINE, ended.err
    assert "Traceback" not in ended.err
    assert "Exception" not in ended.err
    assert ended.left == []
    assert ended.took_s < 60, "it hangs"


def moments(count, longest_s, seed):
    """Returns pairs of a random moment in seconds and a signal, which depend on the seeds alone."""
    generator = random.Random(f"{SEED} {seed}")
    print(f"FAULTS_SEED={SEED}")
    return [
        (generator.uniform(PYTHON_START_S, longest_s), generator.choice(SIGNALS))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder with twelve images and a broken file."""
    return make_images(tmp_path_factory.mktemp("images") / "images", 12, 1)


def run_command(images, root):
    """Returns the command of a run."""
    return [*CAPTIONER, "run", "--images", images, "--output", root]


def job_command(images, root):
    """Returns the command of a job."""
    module = [sys.executable, "-P", "-m", "beam_jobs.extract_features"]
    return [*module, "--images", images, "--output", root, "--run-id", "run"]


def workers_command(images, root):
    """Returns the command of a job with two worker processes."""
    return [
        *job_command(images, root),
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
    ]


def run_local_command(_, root):
    """Returns the command of ``run-local``."""
    return [
        *CAPTIONER,
        "run-local",
        "--out",
        root,
        "--limit",
        "30",
        "--epochs",
        "2",
        "--threshold",
        "0.5",
    ]


COMMANDS = {
    "run": run_command,
    "job": job_command,
    "workers": workers_command,
    "run-local": run_local_command,
}
RUN_DIRS = {"run-local": "runs/new"}


def interrupt_and_complete(name, count, longest_s, images, tmp_path):
    """Interrupts a command again and again at random moments, then lets it end.

    Args:
      name: the command, a key of ``COMMANDS``.
      count: the number of interruptions.
      longest_s: the latest moment in seconds.
      images: the folder of images.
      tmp_path: a folder for outputs and temporary files.
    """
    root = tmp_path / "root"
    command = COMMANDS[name](images, root)
    for attempt, (after_s, number) in enumerate(moments(count, longest_s, name)):
        ended = interrupt(command, tmp_path / "tmp", number, after_s, whole_group=attempt % 2 == 1)
        print(f"{number.name} after {after_s:.2f} s: {ended}")
        check(ended, number)
    done = call(command, timeout=900)
    assert done.code == 0, done.err
    assert verify(str(root / RUN_DIRS.get(name, "runs/run"))) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["run", "job"])
def test_a_program_interrupted_at_random_moments_is_completed_by_the_next_call(
    name, images, tmp_path
):
    interrupt_and_complete(name, 2, 25, images, tmp_path)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "longest_s"),
    [("run", 30), ("job", 25), ("workers", 40), ("run-local", 150)],
    ids=list(COMMANDS),
)
def test_a_program_interrupted_at_many_random_moments_is_completed_by_the_next_call(
    name, longest_s, images, tmp_path
):
    interrupt_and_complete(name, MOMENTS, longest_s, images, tmp_path)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "module", ["captioner_cli", "beam_jobs.caption_images", "captioner_core.training"]
)
def test_interrupting_imports_and_options_gives_one_line(module, number, tmp_path):
    # The program is stopped at its first heavy import.
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, pathlib, sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('captioner_core.options', 'apache_beam'):\n"
        "            sys.meta_path.remove(self)\n"
        "            pathlib.Path(os.environ['HELD']).touch()\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
    )
    command = [sys.executable, "-P", "-m", module]
    python_path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    held = tmp_path / "held"
    ended = interrupt(
        command, tmp_path / "tmp", number, held=held, HELD=str(held), PYTHONPATH=python_path
    )
    assert (ended.code, ended.err, ended.left) == (128 + number, f"{LINE}\n", [])


WORK = """
import ctypes, os, sys, threading, time
from captioner_core.process import interrupts, program
program.begin()

class Finalized:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(60)

def swallow(kind):
    print("ready", flush=True)
    while True:
        try:
            time.sleep(0.1)
        except kind:
            pass

def native():
    print("ready", flush=True)
    ctypes.CDLL(None).poll(None, 0, 60_000)  # A masked signal does not end this call.
    ctypes.CDLL(None).sleep(60)

def finalizer():
    Finalized()
    time.sleep(60)

def thread():
    threading.Thread(target=time.sleep, args=(60,)).start()  # Python would wait for this thread.
    print("ready", flush=True)
    time.sleep(60)

def other_error():
    print("ready", flush=True)
    try:
        time.sleep(60)
    finally:
        raise RuntimeError("an error that a library raises for an interrupt")

def noisy_exit():
    import atexit
    atexit.register(time.sleep, 60)
    print("ready", flush=True)
    time.sleep(60)

def exiting():
    import atexit
    atexit.register(lambda: (print("ready", flush=True), time.sleep(60)))

def thread_at_exit():
    def work():
        time.sleep(0.5)
        print("ready", flush=True)
        time.sleep(60)

    threading.Thread(target=work).start()

def slow_end():
    interrupts.on_exit(lambda: time.sleep(1))
    thread_at_exit()

def child():
    import subprocess
    code = "import time; print('ready', flush=True); time.sleep(60)"
    subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    time.sleep(60)

def main():
    {statement}
    return 0

sys.exit(program.guarded(main, "work"))
"""
STATEMENTS = [
    "swallow(Exception)",
    "swallow(BaseException)",
    "native()",
    "finalizer()",
    "thread()",
    "other_error()",
    "noisy_exit()",
    "exiting()",
    "thread_at_exit()",
    "slow_end()",
    "child()",
]


def interrupt_work(statement, *numbers, pause_s=0.0):
    """Runs ``WORK`` with this statement and sends signals to it.

    Args:
      statement: the statement that the program runs.
      numbers: the signals.
      pause_s: seconds after each signal.

    Returns:
      The exit code, what it wrote to stderr, and the seconds from the first signal to its end.
    """
    command = [sys.executable, "-P", "-c", WORK.replace("{statement}", statement)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.2)
        start = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(pause_s)
        _, err = process.communicate(timeout=30)
    assert psutil.wait_procs(children, timeout=3)[1] == []
    return process.returncode, err, time.monotonic() - start


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_signal_at_any_moment_gives_one_line(statement, number):
    code, err, took_s = interrupt_work(statement, number)
    assert (code, err) == (128 + number, f"{LINE}\n")
    assert took_s < 12


def test_a_second_signal_ends_a_program_at_once():
    code, err, took_s = interrupt_work(
        "swallow(BaseException)", signal.SIGINT, signal.SIGINT, pause_s=1.5
    )
    assert (code, err) == (130, f"{LINE}\n")
    assert took_s < 4


def test_a_signal_that_is_sent_twice_at_once_counts_once():
    """``timeout`` sends a signal to a process and again to the group of the process."""
    code, err, _ = interrupt_work("thread()", signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert (code, err) == (143, f"{LINE}\n")


def test_a_program_hears_signals_that_its_parent_blocks_or_ignores():
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])\n"
        "os.execv(sys.executable, [sys.executable, '-P', '-c', sys.argv[1]])"
    )
    command = [sys.executable, "-P", "-c", code, WORK.replace("{statement}", "thread()")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, f"{LINE}\n")


def test_a_program_hears_signals_after_it_imports_every_package(tmp_path):
    """Each package sets up signals if it is imported first."""
    script = tmp_path / "captioner"
    script.write_text(
        WORK.replace("{statement}", "thread()").replace(
            "import ctypes", "import captioner_cli, ctypes"
        )
    )
    script.write_text(
        script.read_text().replace(
            "def main():", "def main():\n    import beam_jobs, captioner_core.training"
        )
    )
    with subprocess.Popen(
        [sys.executable, "-P", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (143, f"{LINE}\n")


def test_the_line_of_these_tests_is_that_of_the_programs():
    assert interrupts.LINE == LINE
