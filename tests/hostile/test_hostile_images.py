"""The caption job on several hundred damaged and malicious files.

Each file must become one row, the good images among them must be captioned, memory must stay
bounded, and nothing may be executed or written elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import psutil
import pytest

from captioner_core.io import storage
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from tests.hostile.inputs import FORMATS, hostile_files
from tests.image_files import encoded, picture

MIN_FILES = 300
# A decoder may take 1 GB, or 4 GB for one large image at a time. The memory of the worker is added.
MAX_MEMORY_BYTES = 6 << 30

pytestmark = pytest.mark.timeout(400)

JOB = """
import sys
from beam_jobs import caption_images
from captioner_core.options import CaptionOptions
from tests.fakes import load_captioning_models
images, root, model = sys.argv[1:]
options = CaptionOptions(
    images=images, output=root, model=model, precision="float32", max_seconds=20
)
caption_images.run(options, load=lambda: load_captioning_models(model))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Returns a folder of all hostile files and one good image of each format."""
    folder = tmp_path_factory.mktemp("hostile") / "images"
    folder.mkdir()
    for name, data in hostile_files().items():
        (folder / name).write_bytes(data)
    for kind, suffix in FORMATS.items():
        image = picture().convert("P") if kind == "GIF" else picture()
        (folder / f"good.{suffix}").write_bytes(encoded(image, kind))
    return folder


class MemoryMonitor(threading.Thread):
    """Measures the peak memory of a process and its descendants.

    Args:
      pid: The process id.

    Attributes:
      peak_bytes: The peak so far.
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.peak_bytes = 0

    def run(self):
        """Measures until the process has ended."""
        while self._process.is_running():
            try:
                family = [self._process, *self._process.children(recursive=True)]
                used_bytes = sum(process.memory_info().rss for process in family)
                self.peak_bytes = max(self.peak_bytes, used_bytes)
            except psutil.Error:
                continue
            time.sleep(0.05)


@pytest.fixture(scope="module")
def done(folder, model_dir):
    """Captions the folder; returns the layout of the run and its peak memory in bytes."""
    root = folder.parent / "root"
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, folder, root, model_dir], stderr=subprocess.PIPE, text=True
    )
    monitor = MemoryMonitor(process.pid)
    monitor.start()
    _, log = process.communicate(timeout=380)
    assert process.returncode == 0, log[-3000:]
    return RunLayout(str(root), "run"), monitor.peak_bytes


def rows(run, table):
    """Returns the rows of a table of a run."""
    return storage.read_table(run.table(table)).to_pylist()


def test_there_are_at_least_300_files(folder):
    assert len(list(folder.iterdir())) >= MIN_FILES


def test_each_file_is_one_caption_or_one_failure(done, folder):
    run, _ = done
    captions = [row["image_id"] for row in rows(run, "captions")]
    failures = [row["image_id"] for row in rows(run, "failures")]
    assert sorted(captions + failures) == sorted(path.name for path in folder.iterdir())
    assert verify(run.run_dir) == []
    assert len(captions) > 50
    assert len(failures) > 150


def test_good_images_among_the_files_are_captioned(done):
    captions = {row["image_id"] for row in rows(done[0], "captions")}
    assert {f"good.{suffix}" for suffix in FORMATS.values()} <= captions


def test_unsupported_formats_are_named_as_the_reason_of_failure(done):
    """They are formats that Pillow could open."""
    failed = {row["image_id"]: row["error_type"] for row in rows(done[0], "failures")}
    others = {name: failed.get(name) for name in hostile_files() if name.startswith("other-")}
    assert set(others.values()) == {"unsupported_format"}, others


def test_bombs_are_refused_and_memory_stays_within_its_limit(done):
    run, peak_bytes = done
    failed = {row["image_id"]: row["error_type"] for row in rows(run, "failures")}
    for name in ("bomb.png", "bomb.jpg", "bomb.ppm", "bomb.jp2", "bomb.tif", "bomb-4294967295.png"):
        assert failed[name] == "too_many_pixels", (name, failed.get(name))
    assert peak_bytes < MAX_MEMORY_BYTES


def test_nothing_is_executed_or_written_elsewhere(done, folder):
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"images", "root"}
    assert not (folder / "owned").exists()
