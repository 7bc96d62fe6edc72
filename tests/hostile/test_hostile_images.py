"""Several hundred hostile files through the real captioning job: each one row, and nothing else happens."""

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

# a decoder may take 1 GB, and for one large image at a time 4; what the worker itself takes comes on top
LEAST_FILES = 300
MOST_BYTES = 6 << 30

pytestmark = pytest.mark.timeout(400)

JOB = """
import sys
from beam_jobs import caption_images
from captioner_core.options import CaptionOptions
from tests.fakes import load_captioning_models
images, root, model = sys.argv[1:]
options = CaptionOptions(images=images, output=root, model=model, precision="float32", max_seconds=20)
caption_images.run(options, load=lambda: load_captioning_models(model))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "images"
    folder.mkdir()
    for name, data in hostile_files().items():
        (folder / name).write_bytes(data)
    for kind, suffix in FORMATS.items():  # among the others, and none of them harmed
        image = picture().convert("P") if kind == "GIF" else picture()
        (folder / f"good.{suffix}").write_bytes(encoded(image, kind))
    return folder


class MostMemory(threading.Thread):
    """Watches how much memory a process and its children have at most, in bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._process, self.most = psutil.Process(pid), 0

    def run(self):
        while self._process.is_running():
            try:
                family = [self._process, *self._process.children(recursive=True)]
                self.most = max(self.most, sum(process.memory_info().rss for process in family))
            except psutil.Error:
                continue
            time.sleep(0.05)


@pytest.fixture(scope="module")
def done(folder, model_dir):
    """The finished run, and the most memory that it took."""
    root = folder.parent / "root"
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, folder, root, model_dir], stderr=subprocess.PIPE, text=True
    )
    watch = MostMemory(process.pid)
    watch.start()
    _, said = process.communicate(timeout=380)
    assert process.returncode == 0, said[-3000:]
    return RunLayout(str(root), "run"), watch.most


def rows(run, table):
    return storage.read_table(run.table(table)).to_pylist()


def test_there_are_enough(folder):
    assert len(list(folder.iterdir())) >= LEAST_FILES


def test_each_is_one_caption_or_one_failure(done, folder):
    run, _ = done
    captions = [row["image_id"] for row in rows(run, "captions")]
    failures = [row["image_id"] for row in rows(run, "failures")]
    assert sorted(captions + failures) == sorted(path.name for path in folder.iterdir())
    assert verify(run.run_dir) == []
    assert len(captions) > 50
    assert len(failures) > 150


def test_good_ones_among_them_are_captioned(done):
    captions = {row["image_id"] for row in rows(done[0], "captions")}
    assert {f"good.{suffix}" for suffix in FORMATS.values()} <= captions


def test_what_is_no_image_is_said_so(done):
    """None of the formats that are never opened has become a caption."""
    failed = {row["image_id"]: row["error_type"] for row in rows(done[0], "failures")}
    others = {name: failed.get(name) for name in hostile_files() if name.startswith("other-")}
    assert set(others.values()) == {"unsupported_format"}, others


def test_bombs_are_refused_and_memory_stays_within_its_limit(done):
    run, most = done
    failed = {row["image_id"]: row["error_type"] for row in rows(run, "failures")}
    for name in ("bomb.png", "bomb.jpg", "bomb.ppm", "bomb.jp2", "bomb.tif", "bomb-4294967295.png"):
        assert failed[name] == "too_many_pixels", (name, failed.get(name))
    assert most < MOST_BYTES


def test_nothing_was_run_or_written_elsewhere(done, folder):
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"images", "root"}
    assert not (folder / "owned").exists()
