"""Decoding in separate processes: the same pictures, and no harm from anything a decoder does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images import decoder_pool, decoding
from captioner_core.images.decoder_pool import DecoderPool
from tests.image_files import bad_files, encoded, good_files, picture

STAND_IN = (sys.executable, "-m", "tests.decoder_stand_in")
# For programs in a string: the same pool as the fixture's.
MAKE_POOL = (
    "import sys; from captioner_core.images.decoder_pool import DecoderPool;"
    "pool = DecoderPool((sys.executable, '-m', 'tests.decoder_stand_in'));"
)


@pytest.fixture
def pool():
    """A pool of decoders that do what the bytes of an image say."""
    return DecoderPool(STAND_IN)


def next_pid(pool):
    """Returns the process id of the decoder that the pool uses next."""
    return pool.decode(b"hello", size=4).width


def test_pictures_are_the_same_as_in_this_process():
    for name, data in good_files().items():
        here = decoding.decode(data)
        there = decoder_pool.decode(data)
        np.testing.assert_array_equal(there.pixels, here.pixels, err_msg=name)
        assert there[1:] == here[1:], name


def test_failures_are_the_same_as_in_this_process():
    for name, (data, _) in bad_files().items():
        with pytest.raises(ImageError) as here:
            decoding.decode(data)
        with pytest.raises(ImageError) as there:
            decoder_pool.decode(data)
        assert there.value.error_type == here.value.error_type, name
        assert there.value.message == here.value.message, name


def test_a_decoder_that_takes_too_long_is_ended_and_the_next_image_is_decoded(pool):
    first = next_pid(pool)
    with pytest.raises(ImageError, match=r"more than the 0\.3 s that --max-seconds") as raised:
        pool.decode(b"hang", max_seconds=0.3)
    assert raised.value.error_type == "timed_out"
    assert not psutil.pid_exists(first)
    assert next_pid(pool) != first


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ("crash", "SIGSEGV"),
        ("leave", "no answer"),
        ("print", "no answer"),
        ("lie", "no answer"),
        ("list", "no answer"),
    ],
)
def test_a_decoder_that_breaks_is_one_failure_and_is_replaced(pool, action, message):
    first = next_pid(pool)
    with pytest.raises(ImageError, match=message) as raised:
        pool.decode(action.encode())
    assert raised.value.error_type == "decoder_crashed"
    assert not psutil.pid_exists(first)
    assert next_pid(pool) != first


def test_a_decoder_that_is_killed_while_it_is_idle_fails_no_image(pool):
    first = next_pid(pool)
    os.kill(first, signal.SIGKILL)
    psutil.Process(first).wait(20)
    assert next_pid(pool) != first


def test_a_decoder_that_the_kernel_kills_is_reported_as_short_of_memory(pool):
    with pytest.raises(ImageError, match="SIGKILL") as raised:
        pool.decode(b"starve")
    assert raised.value.error_type == "too_much_memory"


@pytest.mark.parametrize(
    "hold", ["signal.pthread_sigmask(signal.SIG_BLOCK, [a])", "signal.signal(a, signal.SIG_IGN)"]
)
def test_the_alarm_ends_decoders_even_if_their_worker_blocks_alarms(hold):
    """Child processes inherit that, so a decoder that hangs would never end."""
    code = (
        f"import signal; a = signal.SIGALRM; {hold}; {MAKE_POOL}"
        "pool.decode(b'hang', max_seconds=0.2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--max-seconds allows" in done.stderr


def test_decoders_that_cannot_start_fail_no_image():
    """A broken installation must not make a whole folder of images look broken."""
    pool = DecoderPool((sys.executable, "-c", "import nothing_of_this_name"))
    with pytest.raises(CaptionerError, match=r"can't be started: .* exit code 1; run it"):
        pool.decode(b"hello")


def test_no_module_is_imported_from_the_current_folder(tmp_path):
    """The current folder may hold files of strangers, such as a hostile json.py."""
    for name in ("json", "numpy", "PIL", "captioner_core"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    (tmp_path / "good.png").write_bytes(encoded(picture(), "PNG"))
    code = (
        "from captioner_core.images import decoder_pool;"
        "print(decoder_pool.decode(open('good.png', 'rb').read())[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # With -P, as for a console script, the current folder is not on the path of this process.
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(64, 48)\n", done.stderr


def test_the_kernel_ends_a_decoder_before_its_worker(pool):
    score = Path(f"/proc/{os.getpid()}/oom_score_adj")
    if not score.exists():
        pytest.skip("no Linux")
    decoder_score = Path(f"/proc/{next_pid(pool)}/oom_score_adj")
    assert int(decoder_score.read_text()) > int(score.read_text())


def test_half_an_answer_is_a_crash(pool):
    with pytest.raises(ImageError) as raised:
        pool.decode(b"half")
    assert raised.value.error_type == "decoder_crashed"


def test_one_large_image_is_decoded_at_a_time_and_small_ones_in_parallel(pool, tmp_path):
    """Each large image may take gigabytes, so one for every thread could exhaust the machine."""
    log = tmp_path / "log"
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(pool.decode, [f"large {log}".encode()] * 8))
        small = [f"meet {meeting}".encode()] * 2
        one, other = threads.map(lambda data: pool.decode(data, size=4).width, small)
    assert one != other, "two processes decoded at the same time"
    assert log.read_text().split() == ["in", "out"] * 8


def test_an_image_that_needs_too_much_memory_is_a_failure():
    """81 megapixels take 243 MB, but Python, Pillow and the image may take 300 MB together."""
    huge = encoded(Image.new("RGB", (9000, 9000)), "PNG", compress_level=1)
    code = (
        "import sys; from captioner_core.images import decoder_worker as worker;"
        "worker.LARGE_MEMORY = 300 << 20; worker.USUAL_MEMORY = 200 << 20; sys.exit(worker.main())"
    )
    pool = DecoderPool((sys.executable, "-c", code))
    with pytest.raises(ImageError) as raised:
        pool.decode(huge)
    assert raised.value.error_type == "too_much_memory"
    assert pool.decode(encoded(picture(), "PNG"))[1:] == (64, 48)


def test_decoders_end_with_a_worker_that_is_killed():
    """Even a decoder that hangs ends; otherwise lost workers would leave processes behind."""
    code = (
        f"import time; from concurrent.futures import ThreadPoolExecutor; {MAKE_POOL}"
        "threads = ThreadPoolExecutor(2);"
        "threads.submit(pool.decode, b'hang', max_seconds=3);"
        "print(threads.submit(pool.decode, b'hello', size=4).result().width, flush=True);"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        children = psutil.Process(worker.pid).children()
        assert len(children) == 2
        os.kill(worker.pid, signal.SIGKILL)
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_decoder_loads_no_heavy_library():
    code = "import sys, captioner_core.images.decoder_worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pyarrow", "tensorflow", "apache_beam", "pandas"} & set(done.stdout.split())
