"""Disks that fill or can't be written: one line, nothing half done is read as done, and the next run completes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

import pytest

from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from tests.faults.forks import IMAGES, make_images
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory):
    """A folder of images, its run, and how many bytes that takes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    images, root = make_images(folder / "images", IMAGES, 1), folder / "root"
    assert forks.run(images, root)[0] == 0
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return images, RunLayout(str(root), "run"), size


@contextlib.contextmanager
def small_disk(place, options):
    """A file system of its own."""
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", place], capture_output=True
    ).returncode:
        pytest.skip("not allowed to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def one_line(said):
    """The last line of what a run said, which is all that it said of the error."""
    assert "Traceback" not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6, 0.9, 1.0])
def test_a_full_disk_is_one_line_and_the_next_run_completes(forks, undisturbed, tmp_path, share):
    """It fills while images are listed, rows are written, tables are moved, and the report is made."""
    images, whole, size = undisturbed
    with small_disk(tmp_path / "disk", f"size={max(4096, int(size * share))}") as disk:
        run = RunLayout(str(disk / "root"), "run")
        code, said = forks.try_run(images, disk / "root")
        assert code == 1
        assert "No space left on device" in one_line(said)
        assert "free space" in one_line(said)
        if os.path.exists(run.manifest):  # only the report did not fit
            assert [breach for breach in verify(run.run_dir) if "left over" not in breach] == []
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert forks.run(images, disk / "root")[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, whole.run_dir)


def test_a_disk_that_fills_while_a_run_is_replaced_never_shows_a_mixture(
    forks, undisturbed, tmp_path
):
    images, whole, size = undisturbed
    changed = tmp_path / "images"
    shutil.copytree(images, changed)
    make_images(changed, IMAGES // 2, 5)
    with small_disk(tmp_path / "disk", f"size={int(size * 1.6)}") as disk:
        shutil.copytree(whole.root, disk / "root")
        run = RunLayout(str(disk / "root"), "run")
        (disk / "ballast").write_bytes(bytes(int(size * 0.4)))
        code, said = forks.try_run(changed, disk / "root")
        assert code == 1
        assert "No space left on device" in one_line(said)
        if os.path.exists(run.manifest):
            assert_same_tables(run.run_dir, whole.run_dir)
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert forks.run(changed, disk / "root")[0] == 0
        assert verify(run.run_dir) == []


def test_an_output_that_cant_be_written_is_one_line(forks, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", "size=4m,ro") as disk:
        code, said = forks.try_run(undisturbed[0], disk / "root")
    assert code == 2
    assert "Read-only file system" in one_line(said)
    assert "--output" in one_line(said)


def test_an_output_that_becomes_read_only_is_one_line_and_the_next_run_completes(
    forks, undisturbed, tmp_path
):
    images, whole, _ = undisturbed
    with small_disk(tmp_path / "disk", "size=64m") as disk:
        run = RunLayout(str(disk / "root"), "run")
        assert forks.run(images, disk / "root", kill_at=60)[0] != 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, said = forks.try_run(images, disk / "root")
        assert code == 2
        assert "Read-only file system" in one_line(said)
        assert not os.path.exists(run.manifest)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert forks.run(images, disk / "root")[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, whole.run_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_an_output_of_another_user_is_one_line(forks, undisturbed, tmp_path):
    (tmp_path / "root").mkdir(mode=0o500)
    code, said = forks.try_run(undisturbed[0], tmp_path / "root")
    assert code == 2
    assert "Permission denied" in one_line(said)
