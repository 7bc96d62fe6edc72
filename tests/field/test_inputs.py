"""Runs and inboxes may contain junk files, and a report's pictures may be missing."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs as pafs

from captioner_cli.main import main
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import InboxOptions
from captioner_core.report import write_report
from captioner_core.runs.inbox import READY, WAITING, RemoteInbox, scan_inbox
from captioner_core.runs.verify import verify
from tests.image_files import encoded, picture
from tests.runs import make_run

JUNK = (
    *(
        ".DS_Store",
        "._part-00000.parquet",
        ".nfs0000000000c0ffee",
        "_SUCCESS",
        "_metadata",
        "_common_metadata",
    ),
    *(
        "Thumbs.db",
        "desktop.ini",
        ".part-00000.parquet.crc",
        "_committed_1234",
        ".captioner-files",
        ".Rhistory",
    ),
)


# --- Junk among tables


@pytest.mark.parametrize("name", JUNK)
def test_verify_ignores_the_files_that_readers_ignore(tmp_path, name):
    run_dir = make_run(tmp_path)
    for folder in (Path(run_dir), Path(run_dir, "captions"), Path(run_dir, "matches")):
        (folder / name).write_bytes(b"\0\5\x16\7junk")
    assert verify(run_dir) == []
    assert len(storage.read_table(f"{run_dir}/captions")) == 12


@pytest.mark.parametrize(
    "name",
    [
        "_staging/owner.json",
        "manifest.json.tmp",
        "captions/part-00009.parquet.tmp",
        "captions/copy.parquet",
        "captions/.part-1.parquet.tmp",
        "matches/notes.txt",
    ],
)
def test_verify_names_what_interrupted_work_has_left(tmp_path, name):
    run_dir = make_run(tmp_path)
    path = Path(run_dir, name)
    path.parent.mkdir(exist_ok=True)
    shutil.copy(Path(run_dir, "captions", "part-00000.parquet"), path)
    breaches = " ".join(verify(run_dir))
    assert "left over from interrupted work" in breaches
    assert name.partition("/")[0] in breaches


def test_a_folder_named_like_a_part_is_no_part_of_a_table(tmp_path):
    run_dir = make_run(tmp_path)
    Path(run_dir, "captions", "old.parquet").mkdir()
    assert len(storage.list_parts(f"{run_dir}/captions")) == 2


# --- Inbox


def write_images(folder: Path, *names: str) -> Path:
    """Writes an image to each of these files below a folder, and returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(), "JPEG"))
    return folder


def scan(inbox: Path, **options: Any) -> dict[str, tuple[str, str]]:
    """Returns the state of each folder of an inbox and the reason for it."""
    inbox_options = InboxOptions(
        inbox=str(inbox), output=f"{inbox}-out", **{"quiet_minutes": 0.0, **options}
    )
    return {folder.folder: (folder.state, folder.reason) for folder in scan_inbox(inbox_options)}


def test_a_folder_of_the_inbox_without_images_waits_and_says_why(tmp_path):
    write_images(tmp_path / "junk", "._a.jpg", ".DS_Store", "@eaDir/a.jpg")
    write_images(tmp_path / "heic", "a.heic", "b.HEIC")
    write_images(tmp_path / "marked", "_SUCCESS", "Thumbs.db")
    write_images(tmp_path / "good", "._a.jpg", "deep/a.jpg")
    write_images(tmp_path / "good and marked", "a.jpg", "_SUCCESS")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.jpg").symlink_to(tmp_path / "good" / "deep" / "a.jpg")
    states = scan(tmp_path)
    assert states["junk"] == (WAITING, "no image, only 3 hidden folders and system files")
    assert states["heic"] == (WAITING, "no image, only 2 .heic (not a supported format)")
    assert states["links"] == (WAITING, "no image, only 1 link not followed")
    assert states["marked"] == (READY, "_SUCCESS is there, but no image")
    assert states["good"][0] == READY
    assert states["good and marked"] == (READY, "_SUCCESS is there")
    assert scan(tmp_path, marker_only=True)["good"] == (WAITING, "no marker")


def test_an_inbox_in_a_store_ignores_junk_too(tmp_path):
    write_images(tmp_path / "inbox" / "junk", "._a.jpg", "@eaDir/deep/a.jpg", "notes.txt")
    write_images(tmp_path / "inbox" / "good", "deep/a.jpg")
    store = RemoteInbox(pafs.LocalFileSystem(), str(tmp_path / "inbox"))
    assert store.counts("good").images == 1
    assert store.counts("junk").images == 0
    assert store.counts("junk").passed_over_text() == (
        "1 .txt (not a supported format), 2 hidden folders and system files"
    )


# --- Report


def test_a_report_with_pictures_is_not_replaced_by_one_without(tmp_path, capsys):
    run_dir = make_run(tmp_path)
    assert main(["report", run_dir]) == 0
    report = Path(run_dir, "report", "index.html")
    before = report.read_bytes()
    for folder in (tmp_path / "new", tmp_path / "dataset" / "images"):
        folder.rename(f"{folder} moved")
    capsys.readouterr()
    assert main(["report", run_dir]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(str(report)) in line
    remedy = f"put the images back where they were (--images was {str(tmp_path / 'new')!r})"
    assert f"{remedy}, or delete the report" in line
    assert report.read_bytes() == before
    assert main(["report", run_dir, "--max-images", "0"]) == 0, "no picture was requested"
    report.unlink()
    assert main(["report", run_dir]) == 0


def test_a_report_is_written_if_some_pictures_exist(tmp_path):
    run_dir = make_run(tmp_path)
    write_report(run_dir)
    shutil.rmtree(tmp_path / "dataset" / "images")
    write_report(run_dir)
    assert "data:image/jpeg" in Path(run_dir, "report", "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, 1), (errno.EDQUOT, 1), (errno.EACCES, 2)]
)
def test_a_full_disk_is_not_blamed_on_the_input(tmp_path, monkeypatch, capsys, number, code):
    run_dir = make_run(tmp_path)

    def write_text(uri: str, text: str) -> None:
        raise OSError(number, "the disk is full")

    monkeypatch.setattr(storage, "write_text", write_text)
    assert main(["report", run_dir]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert ("free space" if code == 1 else "permissions") in line


def test_a_report_without_pictures_can_be_written_again(tmp_path):
    run_dir = make_run(tmp_path)
    for folder in (tmp_path / "new", tmp_path / "dataset" / "images"):
        shutil.rmtree(folder)
    assert write_report(run_dir) == write_report(run_dir)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(CaptionerError, match=r"no manifest\.json"):
        write_report(str(tmp_path))
