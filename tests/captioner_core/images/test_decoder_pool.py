"""Decoding in processes of their own: the same pictures, and no harm by what a decoder may do."""

from __future__ import annotations

import os
import queue
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
from tests.image_files import bad_files, encoded, good_files, picture


@pytest.fixture
def stand_in(monkeypatch):
    """Decoders that do what they are told."""
    monkeypatch.setattr(decoder_pool, "_COMMAND", (sys.executable, "-m", "tests.decoder_stand_in"))
    monkeypatch.setattr(decoder_pool, "_idle", queue.LifoQueue())


def pid():
    """Of the decoder that would be used next, by the stand-in's word."""
    return decoder_pool.decode(b"hello", size=4)[1]


def test_pictures_are_the_same_as_in_this_process():
    for name, data in good_files().items():
        here, there = decoding.decode(data), decoder_pool.decode(data)
        np.testing.assert_array_equal(there[0], here[0], err_msg=name)
        assert there[1:] == here[1:], name


def test_failures_are_the_same_as_in_this_process():
    for name, (data, _) in bad_files().items():
        with pytest.raises(ImageError) as here:
            decoding.decode(data)
        with pytest.raises(ImageError) as there:
            decoder_pool.decode(data)
        assert (there.value.error_type, there.value.message) == (
            here.value.error_type,
            here.value.message,
        ), name


def test_an_image_that_takes_too_long_is_ended_and_the_next_is_decoded(stand_in):
    first = pid()
    with pytest.raises(ImageError, match=r"more than the 0\.3 s that --max-seconds") as raised:
        decoder_pool.decode(b"hang", max_seconds=0.3)
    assert raised.value.error_type == "timed_out"
    assert not psutil.pid_exists(first)
    assert pid() != first


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("crash", "SIGSEGV"),
        ("leave", "no answer"),
        ("print", "no answer"),
        ("lie", "no answer"),
        ("list", "no answer"),
    ],
)
def test_a_decoder_that_breaks_is_a_failure_and_the_next_image_gets_another(stand_in, does, said):
    first = pid()
    with pytest.raises(ImageError, match=said) as raised:
        decoder_pool.decode(does.encode())
    assert raised.value.error_type == "decoder_crashed"
    assert not psutil.pid_exists(first)
    assert pid() != first


def test_a_decoder_killed_while_it_waits_is_no_images_failure(stand_in):
    first = pid()
    os.kill(first, signal.SIGKILL)
    psutil.Process(first).wait(20)
    assert pid() != first


def test_a_decoder_that_the_kernel_ends_for_memory_says_so(stand_in):
    with pytest.raises(ImageError, match="SIGKILL") as raised:
        decoder_pool.decode(b"starve")
    assert raised.value.error_type == "too_much_memory"


@pytest.mark.parametrize(
    "held", ["signal.pthread_sigmask(signal.SIG_BLOCK, [a])", "signal.signal(a, signal.SIG_IGN)"]
)
def test_the_clock_ends_decoders_of_a_worker_that_holds_alarms_back(held):
    """Processes inherit that; a decoder that hangs would never end."""
    code = (
        f"import signal, sys; a = signal.SIGALRM; {held}; from captioner_core.images import decoder_pool;"
        "decoder_pool._COMMAND = (sys.executable, '-m', 'tests.decoder_stand_in');"
        "decoder_pool.decode(b'hang', max_seconds=0.2)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "--max-seconds allows" in done.stderr


def test_decoders_that_cannot_start_are_no_images_failure(stand_in, monkeypatch):
    """An installation that is broken must not make a whole folder look broken."""
    monkeypatch.setattr(
        decoder_pool, "_COMMAND", (sys.executable, "-c", "import nothing_of_this_name")
    )
    with pytest.raises(CaptionerError, match=r"can't be started: .* exit code 1; run it"):
        decoder_pool.decode(b"hello")


def test_no_module_is_imported_from_the_current_folder(tmp_path):
    """It may be a folder of strangers' images, with a json.py among them."""
    for name in ("json", "numpy", "PIL", "captioner_core"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('run')")
    (tmp_path / "good.png").write_bytes(encoded(picture(), "PNG"))
    code = "from captioner_core.images import decoder_pool; print(decoder_pool.decode(open('good.png', 'rb').read())[1:])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [
        sys.executable,
        "-P",
        "-c",
        code,
    ]  # as a console script, which has its own folder in that place
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(64, 48)\n", done.stderr


def test_the_kernel_ends_a_decoder_before_its_worker(stand_in):
    score = Path(f"/proc/{os.getpid()}/oom_score_adj")
    if not score.exists():
        pytest.skip("no Linux")
    decoder_pool.decode(b"hello")
    decoder = decoder_pool._idle.get_nowait()
    decoder_pool._idle.put(decoder)
    assert int(Path(f"/proc/{decoder._process.pid}/oom_score_adj").read_text()) > int(
        score.read_text()
    )


def test_half_an_answer_is_none(stand_in):
    with pytest.raises(ImageError) as raised:
        decoder_pool.decode(b"half")
    assert raised.value.error_type == "decoder_crashed"


def test_one_large_image_at_a_time_and_small_ones_side_by_side(stand_in, tmp_path):
    """Each may take gigabytes; as many at once as there are threads would be more than there is."""
    log = tmp_path / "log"
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(decoder_pool.decode, [f"large {log}".encode()] * 8))
        assert len(set(threads.map(lambda _: pid(), range(64)))) > 1
    assert log.read_text().split() == ["in", "out"] * 8


def test_an_image_that_needs_too_much_memory_is_a_failure():
    """81 megapixels, 243 MB, where 300 MB are allowed with all that Python and Pillow take themselves."""
    huge = encoded(Image.new("RGB", (9000, 9000)), "PNG", compress_level=1)
    limited = "import sys; from captioner_core.images import decoder_worker as d; d.LARGE_MEMORY = 300 << 20; "
    limited += "d.USUAL_MEMORY = 200 << 20; sys.exit(d.main())"
    command, decoder_pool._COMMAND = decoder_pool._COMMAND, (sys.executable, "-c", limited)
    idle, decoder_pool._idle = decoder_pool._idle, queue.LifoQueue()
    try:
        with pytest.raises(ImageError) as raised:
            decoder_pool.decode(huge)
        assert raised.value.error_type == "too_much_memory"
        assert decoder_pool.decode(encoded(picture(), "PNG"))[1:] == (64, 48)
    finally:
        decoder_pool._COMMAND, decoder_pool._idle = command, idle


def test_decoders_end_with_a_worker_that_is_killed():
    """Even the one that hangs; or workers that are lost would leave processes behind."""
    code = (
        "import sys, time; from captioner_core.images import decoder_pool;"
        "from concurrent.futures import ThreadPoolExecutor;"
        "decoder_pool._COMMAND = (sys.executable, '-m', 'tests.decoder_stand_in');"
        "pool = ThreadPoolExecutor(2);"
        "pool.submit(decoder_pool.decode, b'hang', max_seconds=3);"
        "print(pool.submit(decoder_pool.decode, b'hello', size=4).result()[1], flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as worker:
        worker.stdout.readline()
        children = psutil.Process(worker.pid).children()
        assert len(children) == 2
        os.kill(worker.pid, signal.SIGKILL)
    assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_decoder_needs_little_to_start():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, captioner_core.images.decoder_worker; print(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"pyarrow", "tensorflow", "apache_beam", "pandas"} & set(done.stdout.split())
