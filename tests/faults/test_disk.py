"""Disks that fill up, are read-only, or belong to another user.

The command must print one line, must not show incomplete tables as complete, and must complete
the run when it is repeated on a good disk. The disks are tmpfs mounts, which only root can make.
"""

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
    """Returns a folder of images, a complete run over them, and the size of its root in bytes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    images = make_images(folder / "images", IMAGES, 1)
    root = folder / "root"
    assert forks.run(images, root)[0] == 0
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return images, RunLayout(str(root), "run"), size


@contextlib.contextmanager
def small_disk(folder, options):
    """Mounts a tmpfs with mount options at a new folder while the block runs."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("not allowed to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def error_line(output):
    """Returns the last line of an output, which must contain the whole error."""
    assert "Traceback" not in output
    return output.splitlines()[-1]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.6, 0.9, 1.0])
def test_a_full_disk_is_an_error_of_one_line_and_the_next_run_completes(
    forks, undisturbed, tmp_path, share
):
    """The disk is full during the listing, the rows, the commit, or the report."""
    images, complete, size = undisturbed
    with small_disk(tmp_path / "disk", f"size={max(4096, int(size * share))}") as disk:
        run = RunLayout(str(disk / "root"), "run")
        code, output = forks.try_run(images, disk / "root")
        assert code == 1
        assert "No space left on device" in error_line(output)
        assert "free space" in error_line(output)
        if os.path.exists(run.manifest):  # then only the report did not fit
            assert [error for error in verify(run.run_dir) if "left over" not in error] == []
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert forks.run(images, disk / "root")[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, complete.run_dir)


def test_a_disk_that_fills_while_a_run_is_replaced_never_shows_a_mixture(
    forks, undisturbed, tmp_path
):
    images, complete, size = undisturbed
    changed = tmp_path / "images"
    shutil.copytree(images, changed)
    make_images(changed, IMAGES // 2, 5)
    with small_disk(tmp_path / "disk", f"size={int(size * 1.6)}") as disk:
        shutil.copytree(complete.root, disk / "root")
        run = RunLayout(str(disk / "root"), "run")
        (disk / "ballast").write_bytes(bytes(int(size * 0.4)))
        code, output = forks.try_run(changed, disk / "root")
        assert code == 1
        assert "No space left on device" in error_line(output)
        if os.path.exists(run.manifest):
            assert_same_tables(run.run_dir, complete.run_dir)
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        assert forks.run(changed, disk / "root")[0] == 0
        assert verify(run.run_dir) == []


def test_a_read_only_output_is_an_error_of_one_line(forks, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", "size=4m,ro") as disk:
        code, output = forks.try_run(undisturbed[0], disk / "root")
    assert code == 2
    assert "Read-only file system" in error_line(output)
    assert "--output" in error_line(output)


def test_a_run_on_a_disk_that_became_read_only_is_completed_later(forks, undisturbed, tmp_path):
    images, complete, _ = undisturbed
    with small_disk(tmp_path / "disk", "size=64m") as disk:
        run = RunLayout(str(disk / "root"), "run")
        assert forks.run(images, disk / "root", kill_at=60)[0] != 0
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        code, output = forks.try_run(images, disk / "root")
        assert code == 2
        assert "Read-only file system" in error_line(output)
        assert not os.path.exists(run.manifest)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert forks.run(images, disk / "root")[0] == 0
        assert verify(run.run_dir) == []
        assert_same_tables(run.run_dir, complete.run_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_an_output_without_write_permission_is_an_error_of_one_line(forks, undisturbed, tmp_path):
    (tmp_path / "root").mkdir(mode=0o500)
    code, output = forks.try_run(undisturbed[0], tmp_path / "root")
    assert code == 2
    assert "Permission denied" in error_line(output)
