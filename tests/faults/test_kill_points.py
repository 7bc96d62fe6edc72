"""SIGKILL at any write of a run: nothing incomplete is ever read as complete, and a rerun completes it, row for row."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from captioner_core import layout, runs
from captioner_core.errors import CaptionerError
from captioner_core.layout import RunLayout
from captioner_core.verify import verify
from tests.same_tables import assert_same_tables

SEED = int(os.environ.get("FAULTS_SEED") or 20_261)
KILL_POINTS = 26
IMAGES = 40
REPORT = "report/index.html"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


class Forks:
    """Starts ``captioner`` in forks of one process that has everything loaded."""

    def __init__(self, folder):
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.killed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)

    def run(self, images, root, kill_at=0):
        """The exit code of a run that is killed or does well, and the writes that were begun."""
        code, said = self.try_run(images, root, kill_at)
        assert code in (0, -signal.SIGKILL), said[-3000:]
        return code, (self._folder / "log").read_text().splitlines()

    def try_run(self, images, root, kill_at=0):
        """The exit code, negative for a signal, and what it said."""
        log = self._folder / "log"
        asked = ["run", f"--images={images}", f"--output={root}", "--precision=float32"]
        question = {"arguments": asked, "root": str(root), "log": str(log), "kill_at": kill_at}
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())["code"]
        return code, (self._folder / "log.said").read_text()


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    forks = Forks(tmp_path_factory.mktemp("forks"))
    yield forks
    forks.close()


def make_images(folder, count, seed):
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (count, 4, 5, 3), np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).resize((50, 40)).save(folder / f"{number:03d}.png")
    (folder / "empty.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def first(forks, tmp_path_factory):
    """A folder, its undisturbed run, and the writes of that."""
    folder = tmp_path_factory.mktemp("first")
    images, root = make_images(folder / "images", IMAGES, 1), folder / "root"
    code, writes = forks.run(images, root)
    assert code == 0
    return images, RunLayout(str(root), "run"), writes


@pytest.fixture(scope="module")
def second(forks, first, tmp_path_factory):
    """The same folder with other images in it, whose run replaces the first one's."""
    folder = tmp_path_factory.mktemp("second")
    images, root = folder / "images", folder / "root"
    shutil.copytree(first[0], images)
    make_images(images, IMAGES // 2, 2)
    (images / "003.png").unlink()
    shutil.copytree(first[1].root, root)
    code, writes = forks.run(images, root)
    assert code == 0
    return images, RunLayout(str(root), "run"), writes


def points(writes, seed):
    """Half of them anywhere, half of them in commits, where most is at stake; of many writes to a file the first."""
    rng = random.Random(seed)
    numbers = [number for number, write in enumerate(writes, 1) if number == 1 or write != writes[number - 2]]
    commits = [number for number in numbers if writes[number - 1].split()[0] in ("move", "delete_dir", "delete_file")]
    commits += [number for number in numbers if "manifest.json" in writes[number - 1]]
    return sorted({*rng.sample(numbers, KILL_POINTS // 4), *rng.sample(sorted(set(commits)), KILL_POINTS // 4)})


def state(run):
    """``None`` where readers see no complete run, else its manifest; whatever else would be a breach."""
    if not os.path.exists(run.manifest):
        with pytest.raises(CaptionerError, match="is missing or not complete"):
            runs.read_manifest(run.run_dir)
        return None
    assert [breach for breach in verify(run.run_dir) if "left over from work cut off" not in breach] == []
    return runs.read_manifest(run.run_dir)


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "again"])
def test_a_run_killed_at_any_write_is_completed_by_the_next(forks, first, second, replaces, tmp_path):
    images, undisturbed, writes = second if replaces else first
    killed = 0
    print(f"FAULTS_SEED={SEED}; {len(writes)} writes")
    for number in points(writes, SEED + replaces):
        root = tmp_path / str(number)
        if replaces:
            shutil.copytree(first[1].root, root)
        run = RunLayout(str(root), "run")
        before = state(run) if replaces else None
        code, done = forks.run(images, root, kill_at=number)
        print(f"killed at write {number}: {done[-1]}")
        killed += code == -signal.SIGKILL
        seen = state(run)
        # complete means wholly the old run or wholly the new one
        assert seen is None or seen == before or counts(seen) == counts(state(undisturbed)), done[-1]
        assert forks.run(images, root)[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, undisturbed.run_dir)
        assert sorted(os.listdir(run.run_dir)) == sorted(os.listdir(undisturbed.run_dir)), "nothing is left over"
        assert (root / "runs" / "run" / REPORT).exists()
    assert killed >= 10


def counts(manifest):
    return {name: manifest["counts"][name] for name in (*layout.TABLES, "images_found")}
