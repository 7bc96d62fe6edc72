"""Which files of a user's folder are images, and what is reported of all others."""

from __future__ import annotations

import json
import os
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs as pafs

from beam_jobs import extract_features
from captioner_core.datasets import csv_captions
from captioner_core.datasets.sources import safe_image_id
from captioner_core.errors import CaptionerError
from captioner_core.images.image_ids import file_name_of, image_id_of, path_below
from captioner_core.images.listing import (
    EXCLUDED,
    JUNK,
    LINK,
    OWN,
    ListingCounts,
    PathPatterns,
    SkippedEntry,
    list_images,
    local_path,
    passed_over_lines,
)
from captioner_core.images.remote_listing import list_entries
from captioner_core.io import storage
from captioner_core.options import ExtractOptions
from captioner_core.runs.commits import Manifest, read_manifest
from captioner_core.runs.image_list import check_any_images
from captioner_core.runs.verify import verify
from captioner_core.tables.layout import RunLayout
from captioner_core.tables.schemas import ImageRef
from tests.fakes import FakeBackbone
from tests.image_files import encoded, picture, png_chunk

JPEG = encoded(picture(), "JPEG")
PNG = encoded(picture(), "PNG")
JUNK_NAMES = (
    "._photo.jpg",
    ".DS_Store",
    ".nfs000000000001.jpg",
    "Thumbs.db",
    "desktop.ini",
    "Desktop.INI",
    *(
        f"{folder}/photo.jpg"
        for folder in (".git", ".Trash", ".Trash-1000", ".ipynb_checkpoints", ".thumbnails")
    ),
    *(
        f"{folder}/photo.jpg"
        for folder in ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
    ),
    "System Volume Information/photo.jpg",
    "day1/@eaDir/photo.jpg/SYNOPHOTO_THUMB_M.jpg",
)


def write(folder: Path, *names: str, data: bytes = JPEG) -> Path:
    """Writes these files below a folder, and returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def ids(folder: Path, *exclude: str) -> list[str]:
    """Returns the ids of the images that are listed below a folder."""
    return [
        entry.image_id for entry in list_images(str(folder), exclude) if isinstance(entry, ImageRef)
    ]


def counts_of(folder: Path, *exclude: str) -> ListingCounts:
    """Returns the counts of what is listed and passed over below a folder."""
    return reduce(ListingCounts.with_entry, list_images(str(folder), exclude), ListingCounts())


def extract(images: Path, root: Path, **options: Any) -> Manifest:
    """Extracts the features of a folder with the fake backbone, and returns the manifest."""
    extract_options = ExtractOptions(images=str(images), output=str(root), **options)
    return extract_features.run(extract_options, load=FakeBackbone)


# --- Names that are not UTF-8


def test_two_files_have_two_ids_and_each_id_gives_its_file(tmp_path):
    names = [
        b"caf\xe9.jpg",
        rb"caf\xe9.jpg",
        rb"caf\x5cxe9.jpg",
        "café.jpg".encode(),
        rb"caf\\xe9.jpg",
        rb"a\x41.jpg",
    ]
    names += [b"fold\xff/" + names[0], rb"fold\xff/" + names[1]]
    for name in names:
        path = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(name)
    entries = [entry for entry in list_images(str(tmp_path)) if isinstance(entry, ImageRef)]
    assert len({entry.image_id for entry in entries}) == len(names)
    for entry in entries:
        with open(local_path(entry.image_uri), "rb") as file:
            name = file.read()
        assert file_name_of(entry.image_id) == name
        assert path_below(tmp_path, entry.image_id) == os.path.realpath(
            os.fsencode(tmp_path) + b"/" + name
        )
    assert image_id_of(b"caf\xe9.jpg") == r"caf\xe9.jpg"
    assert image_id_of(rb"caf\xe9.jpg") == r"caf\x5cxe9.jpg"
    assert image_id_of("żółw \\ 🐢.jpg".encode()) == "żółw \\ 🐢.jpg"


@given(st.binary(max_size=12) | st.text(r"\x5ceEf9a/", max_size=12).map(str.encode))
def test_an_id_gives_its_file_name_back(name):
    image_id = image_id_of(name)
    image_id.encode("utf-8")
    assert file_name_of(image_id) == name


@given(
    st.binary(max_size=6) | st.text(r"\x5ce9", max_size=10).map(str.encode),
    st.text(r"\x5ce9", max_size=10),
)
def test_two_file_names_have_two_ids(name, other):
    assert (image_id_of(name) == image_id_of(other.encode())) == (name == other.encode())


@pytest.mark.parametrize("image_id", [r"..\x2f..\x2fetc", "../x.jpg", "/etc/x.jpg", "a\0b.jpg", ""])
def test_an_id_with_escapes_cannot_leave_its_folder(tmp_path, image_id):
    found = path_below(tmp_path, image_id)
    assert found is None or found.startswith(os.fsencode(tmp_path) + b"/")


def test_a_dataset_may_contain_file_names_that_are_not_utf_8(tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for name in (b"caf\xe9.jpg", rb"caf\xe9.jpg"):
        with open(os.fsencode(images) + b"/" + name, "wb") as file:
            file.write(JPEG + name)
    table = tmp_path / "captions.csv"
    table.write_text("image_id,caption\ncaf\\xe9.jpg,one\ncaf\\x5cxe9.jpg,two\n", encoding="utf-8")
    csv_captions.build(tmp_path / "data", csv_file=table, images=images)
    assert sorted(ids(tmp_path / "data" / "images")) == [r"caf\x5cxe9.jpg", r"caf\xe9.jpg"]
    found = path_below(tmp_path / "data" / "images", r"caf\xe9.jpg")
    assert found is not None
    with open(found, "rb") as file:
        assert file.read() == JPEG + b"caf\xe9.jpg"


def test_backslashes_between_folders_become_slashes():
    assert safe_image_id(r"day1\IMG_1.jpg", "image") == "day1/IMG_1.jpg"
    for outside in (r"..\x.jpg", r"..\x5c..\x5cx.jpg", r"C:\x.jpg"):
        with pytest.raises(CaptionerError, match="outside its folder"):
            safe_image_id(outside, "image")


# --- Junk


def test_files_of_operating_systems_are_passed_over_and_counted(tmp_path):
    write(tmp_path, *JUNK_NAMES)
    write(tmp_path, "photo.jpg", ".photo.jpg", "day1/photo.jpg", "lost and found/photo.jpg")
    assert ids(tmp_path) == [
        ".photo.jpg",
        "day1/photo.jpg",
        "lost and found/photo.jpg",
        "photo.jpg",
    ]
    counts = counts_of(tmp_path)
    assert counts.passed == {JUNK: len(JUNK_NAMES)}
    assert counts.passed_over_text() == f"{len(JUNK_NAMES)} hidden folders and system files"


def test_a_hidden_folder_that_the_user_names_is_listed(tmp_path):
    assert ids(write(tmp_path / ".photos", "a.jpg")) == ["a.jpg"]


def own_picture() -> bytes:
    """Returns a PNG with the mark of pictures that captioner makes."""
    return PNG[:33] + png_chunk(b"tEXt", b"Software\0captioner") + PNG[33:]


def test_pictures_made_by_captioner_are_passed_over(tmp_path):
    write(tmp_path, "similar.png", "SIMILAR.PNG", data=own_picture())
    write(
        tmp_path,
        "drawing.png",
        data=PNG[:33] + png_chunk(b"tEXt", b"Software\0captioner 2 of mine") + PNG[33:],
    )
    write(tmp_path, "screenshot.png", data=PNG)
    assert ids(tmp_path) == ["drawing.png", "screenshot.png"]
    assert counts_of(tmp_path).passed == {OWN: 2}


@pytest.mark.parametrize(
    ("kind", "is_listed"),
    [("run", False), ("model", False), ("dataset", True), ("folder of images", True)],
)
def test_captioners_own_folders_are_passed_over_unless_they_hold_images(tmp_path, kind, is_listed):
    header = {"made_by": "captioner", "kind": kind, "format_version": 1}
    write(tmp_path, "own/.captioner-files", data=json.dumps(header).encode() + b"\n")
    write(tmp_path, "own/a.jpg")
    assert ids(tmp_path) == (["own/a.jpg"] if is_listed else [])
    assert ids(tmp_path / "own") == ["a.jpg"], "a folder that the user names is listed"


def test_a_marker_of_another_program_hides_nothing(tmp_path):
    write(tmp_path, "a/.captioner-files", data=b"my own list\n")
    write(tmp_path, "b/.captioner-files", data=b'["captioner"]\n')
    write(tmp_path, "a/a.jpg", "b/b.jpg")
    assert ids(tmp_path) == ["a/a.jpg", "b/b.jpg"]


# --- --exclude


@pytest.mark.parametrize(
    ("pattern", "excluded"),
    [
        ("*_thumb.jpg", {"a_thumb.jpg", "raw/b_thumb.jpg"}),
        ("raw", {"raw/b.jpg", "raw/b_thumb.jpg", "old/raw/c.jpg"}),
        ("raw/", {"raw/b.jpg", "raw/b_thumb.jpg", "old/raw/c.jpg"}),
        ("/raw/", {"raw/b.jpg", "raw/b_thumb.jpg"}),
        ("./raw", {"raw/b.jpg", "raw/b_thumb.jpg"}),
        ("old/raw", {"old/raw/c.jpg"}),
        ("raw/*.jpg", {"raw/b.jpg", "raw/b_thumb.jpg"}),
        ("old/*", {"old/raw/c.jpg"}),
        ("**/b.jpg", {"raw/b.jpg"}),
        ("**/a.jpg", {"a.jpg"}),
        ("a.jpg/", set()),
        ("A.JPG", set()),
        ("[ab].jpg", {"a.jpg", "raw/b.jpg"}),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}*", {"cafe\N{COMBINING ACUTE ACCENT}.jpg"}),
        (
            "*",
            {
                "a.jpg",
                "a_thumb.jpg",
                "raw/b.jpg",
                "raw/b_thumb.jpg",
                "old/raw/c.jpg",
                "cafe\u0301.jpg",
            },
        ),
    ],
)
def test_a_pattern_leaves_out_files_and_folders(tmp_path, pattern, excluded):
    all_names = {
        "a.jpg",
        "a_thumb.jpg",
        "raw/b.jpg",
        "raw/b_thumb.jpg",
        "old/raw/c.jpg",
        "cafe\u0301.jpg",
    }
    write(tmp_path, *all_names)
    assert set(ids(tmp_path, pattern)) == all_names - excluded
    assert bool(counts_of(tmp_path, pattern).passed.get(EXCLUDED)) == bool(excluded)


def test_a_file_is_left_out_if_any_pattern_matches(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg", "c/d.jpg")
    assert ids(tmp_path, "a.jpg", "c/") == ["b.jpg"]
    assert counts_of(tmp_path, "a.jpg", "c/").passed == {EXCLUDED: 2}


@pytest.mark.parametrize("pattern", ["", "/", ".", "./", "a\nb"])
def test_an_invalid_pattern_is_refused_in_one_line(pattern):
    with pytest.raises(
        CaptionerError, match=r"--exclude .* is no shell pattern; write one such as"
    ):
        ExtractOptions(images="in", output="out", exclude=(pattern,))


# --- Counts and messages


def test_files_are_counted_and_named_by_suffix(tmp_path):
    write(
        tmp_path, "a.HEIC", "b.heic", "c.heic", "notes.txt", "README", "x.a very long suffix indeed"
    )
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "other.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    counts = counts_of(tmp_path)
    assert counts.by_suffix() == {".heic": 3, ".txt": 1, "no suffix": 1, "other": 1}
    assert counts.passed_over_text() == (
        "3 .heic, 1 .txt, 1 without suffix, 1 other (not a supported format), "
        "2 links not followed, 1 pipe or device"
    )
    assert counts.as_manifest()["files_passed_over"] == 9


def test_any_number_of_suffixes_is_counted_in_little_memory():
    counts = ListingCounts()
    for number in range(1000):
        counts = counts.with_entry(SkippedEntry(f"x.{number}", "other"))
    for _ in range(5):
        counts = counts.with_entry(SkippedEntry("x.heic", "other"))
    counted = counts.by_suffix()
    assert len(counts.suffixes) <= 201
    assert len(counted) == 21
    assert sum(counted.values()) == 1005
    assert "and" not in counts.passed_over_text()
    assert counts.passed_over_text().endswith("with other suffixes (not a supported format)")


def test_a_run_reports_in_manifest_and_last_line_what_it_passed_over(tmp_path, capsys):
    write(tmp_path / "in", "a.jpg", "b.heic", "c.heic", "._a.jpg", "skip/d.jpg")
    options = ExtractOptions(
        images=str(tmp_path / "in"), output=str(tmp_path / "out"), exclude=("skip/",)
    )
    manifest = extract_features.run(options, load=FakeBackbone)
    assert manifest["passed_over_by_suffix"] == {".heic": 2}
    counts = manifest["counts"]
    names = (
        "images_found",
        "files_passed_over",
        "links_passed_over",
        "junk_passed_over",
        "excluded_passed_over",
    )
    assert [counts[name] for name in names] == [1, 4, 0, 1, 1]
    assert manifest["options"]["exclude"] == ("skip/",)
    run_dir = options.layout.run_dir
    assert verify(run_dir) == []
    (line,) = passed_over_lines(read_manifest(run_dir))
    assert line == (
        "passed over: 2 .heic (not a supported format), 1 hidden folder and system file, "
        "1 left out by --exclude"
    )
    assert passed_over_lines({"counts": {"images_found": 3, "files_passed_over": 1}}) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "exclude", "reason"),
    [
        (["a.heic", "b.HEIC"], (), r"2 \.heic \(not a supported format\)"),
        (["a.txt"], (), r"1 \.txt"),
        (["._a.jpg"], (), "1 hidden folder and system file"),
        (["a.jpg", "b.jpg"], ("*.jpg",), "2 left out by --exclude"),
        ([".hidden/a.jpg"], (), "1 hidden folder"),
    ],
)
def test_a_run_of_files_without_an_image_is_refused(tmp_path, names, exclude, reason):
    write(tmp_path / "in", *names)
    with pytest.raises(
        CaptionerError, match=f"no image that could be looked at, only {reason}.*; "
    ) as caught:
        extract(tmp_path / "in", tmp_path / "out", exclude=exclude)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_run_of_links_alone_is_refused_and_keeps_the_earlier_run(tmp_path):
    write(tmp_path / "in", "a.jpg")
    run = RunLayout(str(tmp_path / "out"), "run")
    extract(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.jpg").rename(tmp_path / "a.jpg")
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(CaptionerError, match="only 1 link not followed"):
        extract(tmp_path / "in", tmp_path / "out")
    assert read_manifest(run.run_dir)["counts"]["features"] == 1
    assert counts_of(tmp_path / "in").passed == {LINK: 1}


def test_an_empty_folder_gives_an_empty_run_and_a_message(tmp_path, capsys):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    manifest = extract(tmp_path / "in", tmp_path / "out")
    assert manifest["counts"]["images_found"] == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "folder" in line]
    assert line == f"images folder {str(tmp_path / 'in')!r} is empty, so the run has no image"


def test_a_run_without_images_can_be_allowed(tmp_path):
    write(tmp_path, "a.heic")
    check_any_images(str(tmp_path), allow_empty=True)
    with pytest.raises(CaptionerError):
        check_any_images(str(tmp_path))


# --- Object stores and helpers


def test_the_same_rules_hold_in_an_object_store(tmp_path, monkeypatch):
    """The objects of a store are listed by other code; a local folder stands in for the store."""
    write(tmp_path, *JUNK_NAMES, "a.jpg", ".b.jpg", "raw/c.jpg", "d.heic", rb"caf\xe9.jpg".decode())
    local = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    resolve = storage.resolve
    monkeypatch.setattr(
        storage, "resolve", lambda uri: (local, "/") if uri.startswith("s3://") else resolve(uri)
    )
    remote = list(list_entries("s3://bucket", ("raw/",)))
    local_entries = list(list_images(str(tmp_path), ("raw/",)))
    assert sorted(map(name_and_kind, remote)) == sorted(map(name_and_kind, local_entries))
    uris = {entry.image_id: entry.image_uri for entry in remote if isinstance(entry, ImageRef)}
    assert uris == {
        "a.jpg": "s3://bucket/a.jpg",
        ".b.jpg": "s3://bucket/.b.jpg",
        r"caf\x5cxe9.jpg": r"s3://bucket/caf\xe9.jpg",
    }


def name_and_kind(entry: object) -> tuple[str, str]:
    """Returns an entry's id and why it was passed over, or ``"image"``."""
    assert isinstance(entry, ImageRef | SkippedEntry)
    return entry.image_id, entry.reason if isinstance(entry, SkippedEntry) else "image"


def test_a_pattern_with_a_slash_at_its_end_matches_folders_alone():
    patterns = PathPatterns(("*.png", "raw/"))
    assert patterns.match("a/b.png", is_folder=False)
    assert not patterns.match("a/raw", is_folder=False)
    assert patterns.match("a/raw", is_folder=True)


def test_captioners_marker_is_not_counted_as_passed_over(tmp_path):
    (tmp_path / ".captioner-files").write_text(
        '{"made_by": "captioner", "kind": "folder of images"}\n'
    )
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    assert [entry.image_id for entry in list_entries(str(tmp_path))] == ["a.png"]
