"""The inbox: a folder is captioned once it is complete, and once only."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from captioner_cli.main import main
from captioner_core.errors import CaptionerError
from captioner_core.io import storage
from captioner_core.options import InboxOptions
from captioner_core.runs.inbox import (
    DONE,
    READY,
    WAITING,
    InboxFolder,
    LocalInbox,
    RemoteInbox,
    scan_inbox,
)
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout, run_id_of

HOUR_S = 3600.0
names = st.text(max_size=300) | st.text("ab .-_/é", max_size=12)


@given(names)
def test_every_name_has_a_run_id_that_is_always_the_same(text):
    run_id = run_id_of(text)
    RunLayout("out", run_id)  # It refuses an invalid run id.
    assert run_id_of(text) == run_id
    assert run_id_of(run_id) == run_id, "a run id is its own"


@given(names, names)
def test_two_names_never_share_a_run_id(one, other):
    """If characters were only replaced, 'a b' would get the run of 'a-b' and be skipped."""
    assert (run_id_of(one) == run_id_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("2024-05 Oslo", "2024-05-Oslo-"),
        ("été/1", "t--1-"),
        (".hidden", "hidden-"),
        ("日本", "run-"),
        ("", "run-"),
    ],
)
def test_a_run_id_stays_readable(text, begins):
    assert run_id_of(text).startswith(begins)
    assert len(run_id_of(text)) == len(begins) + 8


def test_names_that_are_too_long_or_no_utf_8_have_one_too():
    first = run_id_of("a" * 400)
    second = run_id_of("a" * 401)
    assert len(first) == len(second) == 128
    assert first != second
    assert run_id_of("b\udcff") != run_id_of("b\udcfe")
    assert run_id_of("a" * 128) == "a" * 128


@pytest.fixture
def inbox(tmp_path):
    """Returns an empty inbox."""
    (tmp_path / "inbox").mkdir()
    return tmp_path / "inbox"


def fill(folder: Path, *files: str) -> Path:
    """Writes files into a folder, and returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("x")
    return folder


def make_options(inbox, **changes) -> InboxOptions:
    """Returns options for this inbox; ``changes`` replace some of them."""
    return InboxOptions(
        **{"inbox": str(inbox), "output": str(Path(str(inbox)).parent / "out"), **changes}
    )


def states(inbox, later_s=0.0, **changes):
    """Returns the state of each folder and the reason for it, some seconds later."""
    return {
        folder.folder: (folder.state, folder.reason)
        for folder in scan_inbox(make_options(inbox, **changes), time.time() + later_s)
    }


def finish(inbox, name):
    """Writes the manifest of this folder's run."""
    manifest = Path(RunLayout(str(inbox.parent / "out"), run_id_of(name)).manifest)
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")


def test_states_and_their_reasons(inbox):
    fill(inbox / "marked", "a.jpg", "_SUCCESS")
    fill(inbox / "fresh", "a.jpg")
    fill(inbox / "empty")
    fill(inbox / "only folders" / "below")
    fill(inbox / "a done one", "a.jpg")
    finish(inbox, "a done one")
    found = states(inbox, later_s=20)
    assert list(found) == sorted(found)
    assert found == {
        "a done one": (DONE, "its run is complete"),
        "empty": (WAITING, "empty"),
        "fresh": (WAITING, "changed 20 s ago"),
        "marked": (READY, "_SUCCESS is there"),
        "only folders": (WAITING, "empty"),
    }
    assert states(inbox, HOUR_S)["fresh"] == (READY, "unchanged for 60 min")
    assert states(inbox, HOUR_S)["empty"] == (WAITING, "empty")
    assert states(inbox, HOUR_S, quiet_minutes=61)["fresh"] == (WAITING, "changed 60 min ago")
    assert states(inbox, HOUR_S, marker_only=True)["fresh"] == (WAITING, "no marker")
    assert states(inbox, marker="a.jpg")["fresh"] == (READY, "a.jpg is there")


def test_a_marker_further_down_or_that_is_a_folder_marks_nothing(inbox):
    fill(inbox / "a", "below/_SUCCESS")
    fill(inbox / "b", "_SUCCESS/a.jpg")
    assert [state for state, _ in states(inbox, marker_only=True).values()] == [WAITING, WAITING]


def test_a_folder_of_a_run_not_complete_is_not_done(inbox):
    fill(inbox / "a", "_SUCCESS")
    Path(RunLayout(str(inbox.parent / "out"), "a").table("captions")).mkdir(parents=True)
    assert states(inbox)["a"][0] == READY


def test_a_copy_that_keeps_old_times_is_still_new(inbox):
    """Copies by cp -p and rsync -a keep mtimes, so a half-copied folder would look old."""
    source = fill(inbox.parent / "camera", "a.jpg", "deep/b.jpg")
    for path in (source, *source.rglob("*")):
        os.utime(path, (1e9, 1e9))
    shutil.copytree(source, inbox / "copied")  # copytree uses copy2, which keeps times.
    assert (inbox / "copied" / "deep" / "b.jpg").stat().st_mtime == 1e9
    assert states(inbox, later_s=5)["copied"] == (WAITING, "changed 5 s ago")


def test_a_time_in_the_future_does_not_wait_for_ever(inbox):
    """A camera's clock may be wrong; the ctime says when the file arrived."""
    fill(inbox / "a", "a.jpg")
    os.utime(inbox / "a" / "a.jpg", (4e9, 4e9))
    assert states(inbox, HOUR_S)["a"][0] == READY


@pytest.mark.parametrize(
    "change",
    [
        lambda deep: (deep / "b.jpg").write_text("longer"),
        lambda deep: (deep / "new").mkdir(),
        lambda deep: (deep / "b.jpg").unlink(),
        lambda deep: (deep / "b.jpg").rename(deep / "e.jpg"),
        lambda deep: (deep / "link").symlink_to("nowhere"),
        lambda deep: (deep / "b.jpg").chmod(0o600),
    ],
    ids=["written", "made", "removed", "renamed", "linked", "opened up"],
)
def test_any_change_however_deep_counts(inbox, change):
    deep = fill(inbox / "a", "deep/er/b.jpg", "deep/er/c.jpg", "d.jpg") / "deep" / "er"
    time.sleep(0.05)  # Longer than a tick of the file system's clock, as a ctime cannot be set.
    mark = time.time()

    def state_since_mark():
        now = time.time()
        return scan_inbox(make_options(inbox, quiet_minutes=(now - mark) / 60), now)[0].state

    assert state_since_mark() == READY
    time.sleep(0.05)
    change(deep)
    assert state_since_mark() == WAITING


def test_what_is_not_a_folder_of_the_inbox_is_ignored(inbox):
    elsewhere = fill(inbox.parent / "elsewhere", "_SUCCESS")
    fill(inbox / "a", "_SUCCESS")
    fill(inbox / ".hidden", "_SUCCESS")
    fill(inbox / "_staging", "_SUCCESS")
    (inbox / "file.jpg").write_text("x")
    (inbox / "out of it").symlink_to(elsewhere)
    (inbox / "loop").symlink_to(inbox)
    (inbox / "dangling").symlink_to("nowhere")
    (inbox / "within").symlink_to(inbox / "a")
    assert list(states(inbox)) == ["a", "within"]


def test_links_within_a_folder_are_followed_only_inside_the_inbox(inbox):
    outside = fill(inbox.parent / "elsewhere", "_SUCCESS", "a.jpg")
    folder = fill(inbox / "a")
    (folder / "_SUCCESS").symlink_to(outside / "_SUCCESS")
    (folder / "b.jpg").symlink_to(outside / "a.jpg")
    (folder / "all").symlink_to(outside)
    (folder / "again").symlink_to(folder)
    assert states(inbox, HOUR_S)["a"] == (WAITING, "empty")
    fill(inbox / "b", "_DONE")
    (folder / "_DONE").symlink_to(inbox / "b" / "_DONE")
    assert states(inbox, marker="_DONE")["a"][0] == READY


def test_the_folder_of_the_runs_is_no_delivery(inbox):
    """Otherwise the reports of each run would be the images of the next one, forever."""
    fill(inbox / "a", "_SUCCESS")
    fill(inbox / "out" / "runs" / "a" / "report", "index.html")
    fill(inbox / "runs" / "b", "x.jpg")
    assert list(states(inbox, output=str(inbox / "out"))) == ["a", "runs"]
    assert list(states(inbox, output=str(inbox))) == ["a", "out"]


def test_the_content_of_a_done_folder_is_not_listed(inbox, monkeypatch):
    fill(inbox / "a", "a.jpg")
    fill(inbox / "b", "a.jpg")
    finish(inbox, "a")
    listed = []
    real = os.scandir

    def scandir(path):
        listed.append(os.path.basename(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    states(inbox)
    assert os.fsdecode(listed[0]) == "inbox"
    assert set(map(os.fsdecode, listed[1:])) == {"b"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (FileNotFoundError(2, "removed"), "removed during"),
    ],
)
def test_a_folder_that_cannot_be_read_waits(inbox, monkeypatch, error, reason):
    """A folder that is unreadable or removed must not keep the others from being captioned."""
    fill(inbox / "a", "deep/a.jpg")
    fill(inbox / "b", "_SUCCESS")
    real = os.scandir

    def scandir(path):
        if os.fsdecode(path).endswith("deep"):
            raise error
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = states(inbox, HOUR_S)
    assert found["a"][0] == WAITING
    assert reason in found["a"][1]
    assert found["b"][0] == READY


def test_a_folder_that_is_removed_during_the_scan_waits(inbox, monkeypatch):
    fill(inbox / "a", "a.jpg")
    exists = storage.exists

    def vanish(uri):
        shutil.rmtree(inbox / "a")
        return exists(uri)

    monkeypatch.setattr(storage, "exists", vanish)
    assert states(inbox, HOUR_S) == {"a": (WAITING, "something was removed during the scan")}


def test_a_remote_inbox_goes_by_the_time_of_modification(inbox, monkeypatch):
    """Remote file systems have no ctime; SubTreeFileSystem stands in for one."""
    root = pafs.SubTreeFileSystem(str(inbox.parent), pafs.LocalFileSystem())
    monkeypatch.setattr(storage, "resolve", lambda uri: (root, uri.removeprefix("store://")))
    fill(inbox / "old", "deep/a.jpg")
    fill(inbox / "new", "deep/a.jpg")
    fill(inbox / "marked", "_SUCCESS")
    fill(inbox / "nothing")
    fill(inbox / "done", "a.jpg")
    finish(inbox, "done")
    for path in (inbox / "old", *(inbox / "old").rglob("*")):
        os.utime(path, (1e9, 1e9))
    found = scan_inbox(make_options("store://inbox", output="store://out"), 1e9 + 3 * HOUR_S)
    assert [(one.folder, one.state) for one in found] == [
        ("done", DONE),
        ("marked", READY),
        ("new", WAITING),
        ("nothing", WAITING),
        ("old", READY),
    ]
    assert found[-1] == InboxFolder("old", "store://inbox/old", "old", READY, "unchanged for 3 h")
    with pytest.raises(CaptionerError, match="is not a folder"):
        scan_inbox(make_options("store://nowhere", output="store://out"))


class Timeless:
    """A file system that does not know when its files changed."""

    def get_file_info(self, query):
        folder = pafs.FileInfo("inbox/a", pafs.FileType.Directory)
        return (
            [pafs.FileInfo("inbox/a/a.jpg", pafs.FileType.File)]
            if isinstance(query, pafs.FileSelector)
            else folder
        )


def test_unknown_times_do_not_count_as_old(inbox, monkeypatch):
    fill(inbox / "a", "a.jpg")
    remote = RemoteInbox(Timeless(), "inbox")
    monkeypatch.setattr(LocalInbox, "stats", lambda self, folder: remote.stats(folder))
    assert states(inbox, HOUR_S)["a"] == (
        WAITING,
        "no marker, and the time of the last change is unknown",
    )


def test_the_command_prints_lines_for_people_and_json_for_programs(inbox, capsys):
    fill(inbox / "two\nlines", "a.jpg")
    fill(inbox / "b", "_SUCCESS")
    command = ["inbox", "--inbox", str(inbox), "--output", str(inbox.parent / "out")]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ready", "b"], ["waiting", r"two\nlines"]]
    assert main([*command, "--json", "--quiet-minutes", "0"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert first == {
        "folder": "b",
        "uri": layout.join(str(inbox), "b"),
        "run_id": "b",
        "state": "ready",
        "reason": "_SUCCESS is there, but no image",
    }
    assert second["state"] == "ready", "with --quiet-minutes 0 no time need pass"
    assert second["run_id"].startswith("two-lines-")


def test_a_name_that_is_not_utf_8_is_shown(inbox, capsys):
    os.mkdir(os.fsencode(inbox) + b"/\xff")
    command = ["inbox", "--inbox", str(inbox), "--output", "out"]
    assert main(command) == 0
    capsys.readouterr().out.encode("utf-8")
    assert main([*command, "--json"]) == 0
    assert os.fsencode(json.loads(capsys.readouterr().out)[0]["folder"]) == b"\xff"


def test_an_empty_inbox_is_an_empty_list(inbox, capsys):
    assert main(["inbox", "--inbox", str(inbox), "--output", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    "changes",
    [
        ["--inbox", "nowhere"],
        ["--inbox", "file"],
        ["--inbox", "nosuch://store/inbox"],
        ["--output", "nosuch://store/out"],
        ["--output", ""],
        ["--marker", "../_SUCCESS"],
        ["--marker", ""],
        ["--quiet-minutes", "-1"],
        ["--quiet-minutes", "nan"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_scanned_is_reported_in_one_line(inbox, capsys, monkeypatch, changes):
    monkeypatch.chdir(inbox)
    (inbox / "file").write_text("x")
    arguments = {"--inbox": ".", "--output": "out", changes[0]: changes[1]}
    assert main(["inbox", *(part for pair in arguments.items() for part in pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(changes[1]) in line or changes[1] in line
    assert ";" in line
