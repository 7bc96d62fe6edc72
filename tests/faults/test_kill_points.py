"""SIGKILL at any write of a run: nothing incomplete is ever read as complete, and a rerun completes it, row for row."""

from __future__ import annotations

import os
import random
import shutil
import signal

import pytest

from captioner_core.errors import CaptionerError
from captioner_core.runs import commits
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.faults.forks import IMAGES, make_images
from tests.same_tables import assert_same_tables

SEED = int(os.environ.get("FAULTS_SEED") or 20_261)
KILL_POINTS = 14  # of each of two runs
REPORT = "report/index.html"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


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
    numbers = [
        number
        for number, write in enumerate(writes, 1)
        if number == 1 or write != writes[number - 2]
    ]
    commits = [
        number
        for number in numbers
        if writes[number - 1].split()[0] in ("move", "delete_dir", "delete_file")
    ]
    commits += [number for number in numbers if "manifest.json" in writes[number - 1]]
    in_commits = rng.sample(sorted(set(commits)), KILL_POINTS // 2)
    anywhere = rng.sample(sorted({*numbers} - {*in_commits}), KILL_POINTS - len(in_commits))
    return sorted(in_commits + anywhere)


def state(run):
    """``None`` where readers see no complete run, else its manifest; whatever else would be a breach."""
    if not os.path.exists(run.manifest):
        with pytest.raises(CaptionerError, match="is missing or not complete"):
            commits.read_manifest(run.run_dir)
        return None
    assert [
        breach for breach in verify(run.run_dir) if "left over from interrupted work" not in breach
    ] == []
    return commits.read_manifest(run.run_dir)


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "again"])
def test_a_run_killed_at_any_write_is_completed_by_the_next(
    forks, first, second, replaces, tmp_path
):
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
        assert seen is None or seen == before or counts(seen) == counts(state(undisturbed)), done[
            -1
        ]
        assert forks.run(images, root)[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, undisturbed.run_dir)
        assert sorted(os.listdir(run.run_dir)) == sorted(os.listdir(undisturbed.run_dir)), (
            "nothing is left over"
        )
        assert (root / "runs" / "run" / REPORT).exists()
    assert killed >= 10


def counts(manifest):
    return {name: manifest["counts"][name] for name in (*layout.TABLES, "images_found")}
