"""Ctrl-C or a request to end, at any moment, gives one line and a plain exit code.

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
PYTHON_START_S = (
    0.5  # Python's own start, in which signals are its own business, takes a tenth of this
)
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@dataclass(frozen=True)
class Interrupted:
    """How a program ended after it received a signal."""

    code: int
    err: str
    took_s: float
    left: list[str]


def interrupt(
    command, temporary, number, after_s=0.0, *, whole_group=False, held=None, **changes
) -> Interrupted:
    """Sends a signal to a program, or to its whole group as a terminal does.

    Args:
      command: the program and its arguments.
      temporary: the folder for its temporary files.
      number: the signal.
      after_s: the time after which it is sent.
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
    if ended.code == 0:
        return  # it was done by then
    assert ended.code == 128 + number, ended
    assert ended.err.count(LINE) == 1, ended.err
    assert ended.err.rstrip("\n").splitlines()[-1] == LINE, ended.err
    assert "Traceback" not in ended.err
    assert "Exception" not in ended.err
    assert ended.left == []
    assert ended.took_s < 60, "it hangs"


def moments(count, longest_s, seed):
    """Returns random moments and signals, which depend on the seed alone."""
    chosen = random.Random(f"{SEED} {seed}")
    print(f"FAULTS_SEED={SEED}")
    return [
        (chosen.uniform(PYTHON_START_S, longest_s), chosen.choice(SIGNALS)) for _ in range(count)
    ]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images") / "images", 12, 1)


def run_command(images, root):
    return [*CAPTIONER, "run", "--images", images, "--output", root]


def job_command(images, root):
    module = [sys.executable, "-P", "-m", "beam_jobs.extract_features"]
    return [*module, "--images", images, "--output", root, "--run-id", "run"]


def workers_command(images, root):
    return [
        *job_command(images, root),
        "--direct_running_mode=multi_processing",
        "--direct_num_workers=2",
    ]


def run_local_command(_, root):
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
    root = tmp_path / "root"
    command = COMMANDS[name](images, root)
    for place, (after_s, number) in enumerate(moments(count, longest_s, name)):
        ended = interrupt(command, tmp_path / "tmp", number, after_s, whole_group=place % 2 == 1)
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
    interrupt_and_complete(name, 4, 25, images, tmp_path)


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
def test_imports_and_options_are_interrupted_in_one_line(module, number, tmp_path):
    # The program is held where its first heavy import would be.
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
        print("begun", flush=True)
        time.sleep(60)

def swallow(kind):
    print("begun", flush=True)
    while True:
        try:
            time.sleep(0.1)
        except kind:
            pass

def native():
    print("begun", flush=True)
    ctypes.CDLL(None).poll(None, 0, 60_000)  # does not return when a signal comes, if its mask holds it back
    ctypes.CDLL(None).sleep(60)

def finalizer():
    Finalized()
    time.sleep(60)

def thread():
    threading.Thread(target=time.sleep, args=(60,)).start()  # Python would wait for it
    print("begun", flush=True)
    time.sleep(60)

def other_error():
    print("begun", flush=True)
    try:
        time.sleep(60)
    finally:
        raise RuntimeError("what a library makes of an interrupt")

def noisy_exit():
    import atexit
    atexit.register(time.sleep, 60)
    print("begun", flush=True)
    time.sleep(60)

def exiting():
    import atexit
    atexit.register(lambda: (print("begun", flush=True), time.sleep(60)))

def thread_at_exit():
    threading.Thread(target=lambda: (time.sleep(0.5), print("begun", flush=True), time.sleep(60))).start()

def slow_end():
    interrupts.on_exit(lambda: time.sleep(1))
    thread_at_exit()

def child():
    import subprocess
    subprocess.Popen([sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"],
                     start_new_session=True)
    time.sleep(60)

def main():
    {how}
    return 0

sys.exit(program.guarded(main, "work"))
"""
HOWS = [
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


def interrupt_work(how, *numbers, apart_s=0.0):
    command = [sys.executable, "-P", "-c", WORK.replace("{how}", how)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        assert process.stdout.readline() == "begun\n"
        children = psutil.Process(process.pid).children(recursive=True)
        time.sleep(0.2)
        start = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(apart_s)
        _, err = process.communicate(timeout=30)
    assert psutil.wait_procs(children, timeout=3)[1] == []
    return process.returncode, err, time.monotonic() - start


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("how", HOWS)
def test_wherever_a_signal_strikes_one_line_is_said(how, number):
    code, err, took_s = interrupt_work(how, number)
    assert (code, err) == (128 + number, f"{LINE}\n")
    assert took_s < 12


def test_a_second_signal_ends_it_at_once():
    code, err, took_s = interrupt_work(
        "swallow(BaseException)", signal.SIGINT, signal.SIGINT, apart_s=1.5
    )
    assert (code, err) == (130, f"{LINE}\n")
    assert took_s < 4


def test_a_signal_sent_twice_at_once_is_one_request():
    """``timeout`` sends a signal to a process and again to the group of the process."""
    code, err, _ = interrupt_work("thread()", signal.SIGTERM, signal.SIGTERM, signal.SIGTERM)
    assert (code, err) == (143, f"{LINE}\n")


def test_a_parent_that_blocks_or_ignores_signals_does_not_make_a_program_deaf():
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])\n"
        "os.execv(sys.executable, [sys.executable, '-P', '-c', sys.argv[1]])"
    )
    command = [sys.executable, "-P", "-c", code, WORK.replace("{how}", "thread()")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, f"{LINE}\n")


def test_signals_are_heard_after_every_package_of_programs_is_loaded(tmp_path):
    """Each package begins the program if it is imported first."""
    script = tmp_path / "captioner"
    script.write_text(
        WORK.replace("{how}", "thread()").replace("import ctypes", "import captioner_cli, ctypes")
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


def test_the_line_is_that_which_programs_print():
    assert interrupts.LINE == LINE
