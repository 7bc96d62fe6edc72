"""A run that is killed at any write never looks complete, and the next run completes it.

Each run is killed with SIGKILL at several of its writes: half of them random, half of them in
commits. The completed run must equal an undisturbed one, row by row.
"""

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
KILL_POINTS = 14  # for each of the two runs
REPORT = "report/index.html"

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def first(forks, tmp_path_factory):
    """Returns a folder of images, an undisturbed run over it, and the writes of that run."""
    folder = tmp_path_factory.mktemp("first")
    images = make_images(folder / "images", IMAGES, 1)
    root = folder / "root"
    code, writes = forks.run(images, root)
    assert code == 0
    return images, RunLayout(str(root), "run"), writes


@pytest.fixture(scope="module")
def second(forks, first, tmp_path_factory):
    """Returns the same after images of the folder have changed; this run replaces the first."""
    folder = tmp_path_factory.mktemp("second")
    images = folder / "images"
    root = folder / "root"
    shutil.copytree(first[0], images)
    make_images(images, IMAGES // 2, 2)
    (images / "003.png").unlink()
    shutil.copytree(first[1].root, root)
    code, writes = forks.run(images, root)
    assert code == 0
    return images, RunLayout(str(root), "run"), writes


def choose_kill_points(writes, seed):
    """Returns the numbers of the writes at which runs are killed.

    Half of them are random, and half of them belong to commits, where a mistake costs most. Of
    consecutive equal writes to a file only the first is considered.
    """
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
    """Returns the manifest of a complete run, or None if readers see no complete run.

    Anything between the two fails the test.
    """
    if not os.path.exists(run.manifest):
        with pytest.raises(CaptionerError, match="is missing or not complete"):
            commits.read_manifest(run.run_dir)
        return None
    errors = verify(run.run_dir)
    assert [error for error in errors if "left over from interrupted work" not in error] == []
    return commits.read_manifest(run.run_dir)


@pytest.mark.parametrize("replaces", [False, True], ids=["first", "again"])
def test_a_run_killed_at_any_write_is_completed_by_the_next(
    forks, first, second, replaces, tmp_path
):
    images, undisturbed, writes = second if replaces else first
    kills = 0
    print(f"FAULTS_SEED={SEED}; {len(writes)} writes")
    for number in choose_kill_points(writes, SEED + replaces):
        root = tmp_path / str(number)
        if replaces:
            shutil.copytree(first[1].root, root)
        run = RunLayout(str(root), "run")
        before = state(run) if replaces else None
        code, begun_writes = forks.run(images, root, kill_at=number)
        last_write = begun_writes[-1]
        print(f"killed at write {number}: {last_write}")
        kills += code == -signal.SIGKILL
        after = state(run)
        # A complete run is either the old one or the new one, and never a mixture.
        is_new = after is not None and counts(after) == counts(state(undisturbed))
        assert after is None or after == before or is_new, last_write
        assert forks.run(images, root)[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, undisturbed.run_dir)
        assert sorted(os.listdir(run.run_dir)) == sorted(os.listdir(undisturbed.run_dir)), (
            "nothing is left over"
        )
        assert (root / "runs" / "run" / REPORT).exists()
    assert kills >= 10


def counts(manifest):
    """Returns the numbers of rows and images of a manifest."""
    return {name: manifest["counts"][name] for name in (*layout.TABLES, "images_found")}
