"""What is an image in folders as users have them, and what is said of all that is passed over."""

from __future__ import annotations

import json
import os
from functools import reduce
from pathlib import Path

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
from captioner_core.runs.commits import read_manifest
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
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def ids(folder: Path, *exclude: str) -> list[str]:
    return [
        entry.image_id for entry in list_images(str(folder), exclude) if isinstance(entry, ImageRef)
    ]


def counts_of(folder: Path, *exclude: str) -> ListingCounts:
    return reduce(ListingCounts.with_entry, list_images(str(folder), exclude), ListingCounts())


def extract(images: Path, root: Path, **options: object) -> dict[str, object]:
    asked = ExtractOptions(images=str(images), output=str(root), **options)  # type: ignore[arg-type]
    return extract_features.run(asked, load=FakeBackbone)


# --- Names that are not UTF-8


def test_two_files_never_share_an_id_and_each_leads_back_to_its_file(tmp_path):
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
def test_every_name_comes_back_from_its_id(name):
    image_id = image_id_of(name)
    image_id.encode("utf-8")
    assert file_name_of(image_id) == name


@given(
    st.binary(max_size=6) | st.text(r"\x5ce9", max_size=10).map(str.encode),
    st.text(r"\x5ce9", max_size=10),
)
def test_two_names_never_have_one_id(name, other):
    assert (image_id_of(name) == image_id_of(other.encode())) == (name == other.encode())


@pytest.mark.parametrize("image_id", [r"..\x2f..\x2fetc", "../x.jpg", "/etc/x.jpg", "a\0b.jpg", ""])
def test_an_id_leads_nowhere_else_by_its_escapes(tmp_path, image_id):
    found = path_below(tmp_path, image_id)
    assert found is None or found.startswith(os.fsencode(tmp_path) + b"/")


def test_a_dataset_is_made_of_files_whose_names_are_not_utf_8(tmp_path):
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


def test_backslashes_between_folders_still_become_slashes():
    assert safe_image_id(r"day1\IMG_1.jpg", "image") == "day1/IMG_1.jpg"
    for outside in (r"..\x.jpg", r"..\x5c..\x5cx.jpg", r"C:\x.jpg"):
        with pytest.raises(CaptionerError, match="outside its folder"):
            safe_image_id(outside, "image")


# --- Junk


def test_what_systems_leave_behind_is_passed_over_and_counted(tmp_path):
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


def test_a_hidden_folder_that_is_named_is_looked_into(tmp_path):
    assert ids(write(tmp_path / ".photos", "a.jpg")) == ["a.jpg"]


def own_picture() -> bytes:
    return PNG[:33] + png_chunk(b"tEXt", b"Software\0captioner") + PNG[33:]


def test_pictures_that_captioner_made_are_passed_over(tmp_path):
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
    ("kind", "is_looked_into"),
    [("run", False), ("model", False), ("dataset", True), ("folder of images", True)],
)
def test_folders_of_captioners_own_are_passed_over_unless_they_hold_images(
    tmp_path, kind, is_looked_into
):
    header = {"made_by": "captioner", "kind": kind, "format_version": 1}
    write(tmp_path, "made/.captioner-files", data=json.dumps(header).encode() + b"\n")
    write(tmp_path, "made/a.jpg")
    assert ids(tmp_path) == (["made/a.jpg"] if is_looked_into else [])
    assert ids(tmp_path / "made") == ["a.jpg"], "named directly, it is looked into"


def test_a_stranger_s_marker_hides_nothing(tmp_path):
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
    every = {
        "a.jpg",
        "a_thumb.jpg",
        "raw/b.jpg",
        "raw/b_thumb.jpg",
        "old/raw/c.jpg",
        "cafe\u0301.jpg",
    }
    write(tmp_path, *every)
    assert set(ids(tmp_path, pattern)) == every - excluded
    assert bool(counts_of(tmp_path, pattern).passed.get(EXCLUDED)) == bool(excluded)


def test_several_patterns_add_up(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg", "c/d.jpg")
    assert ids(tmp_path, "a.jpg", "c/") == ["b.jpg"]
    assert counts_of(tmp_path, "a.jpg", "c/").passed == {EXCLUDED: 2}


@pytest.mark.parametrize("pattern", ["", "/", ".", "./", "a\nb"])
def test_a_pattern_that_is_none_is_refused_in_one_line(pattern):
    with pytest.raises(
        CaptionerError, match=r"--exclude .* is no shell pattern; write one such as"
    ):
        ExtractOptions(images="in", output="out", exclude=(pattern,))


# --- Counts, and what is said of them


def test_files_are_counted_by_suffix_and_the_line_names_them(tmp_path):
    write(
        tmp_path, "a.HEIC", "b.heic", "c.heic", "notes.txt", "README", "x.a very long suffix indeed"
    )
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "other.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    counts = counts_of(tmp_path)
    assert counts.by_suffix() == {".heic": 3, ".txt": 1, "no suffix": 1, "other": 1}
    assert counts.passed_over_text() == (
        "3 .heic, 1 .txt, 1 without suffix, 1 other (not a supported format), 2 links not followed, 1 pipe or device"
    )
    assert counts.as_manifest()["files_passed_over"] == 9


def test_any_number_of_suffixes_is_counted_in_little_memory():
    counts = ListingCounts()
    for number in range(1000):
        counts = counts.with_entry(SkippedEntry(f"x.{number}", "other"))
    for _ in range(5):
        counts = counts.with_entry(SkippedEntry("x.heic", "other"))
    stated = counts.by_suffix()
    assert len(counts.suffixes) <= 201
    assert len(stated) == 21
    assert sum(stated.values()) == 1005
    assert "and" not in counts.passed_over_text()
    assert counts.passed_over_text().endswith("with other suffixes (not a supported format)")


def test_a_run_states_in_manifest_and_last_line_what_it_passed_over(tmp_path, capsys):
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
        "passed over: 2 .heic (not a supported format), 1 hidden folder and system file, 1 left out by --exclude"
    )
    assert passed_over_lines({"counts": {"images_found": 3, "files_passed_over": 1}}) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "exclude", "said"),
    [
        (["a.heic", "b.HEIC"], (), r"2 \.heic \(not a supported format\)"),
        (["a.txt"], (), r"1 \.txt"),
        (["._a.jpg"], (), "1 hidden folder and system file"),
        (["a.jpg", "b.jpg"], ("*.jpg",), "2 left out by --exclude"),
        ([".hidden/a.jpg"], (), "1 hidden folder"),
    ],
)
def test_a_run_over_files_of_which_none_is_an_image_is_refused(tmp_path, names, exclude, said):
    write(tmp_path / "in", *names)
    with pytest.raises(
        CaptionerError, match=f"no image that could be looked at, only {said}.*; "
    ) as caught:
        extract(tmp_path / "in", tmp_path / "out", exclude=exclude)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out").exists()


def test_a_run_over_links_alone_is_refused_and_leaves_the_earlier_run(tmp_path):
    write(tmp_path / "in", "a.jpg")
    run = RunLayout(str(tmp_path / "out"), "run")
    extract(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.jpg").rename(tmp_path / "a.jpg")
    (tmp_path / "in" / "a.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(CaptionerError, match="only 1 link not followed"):
        extract(tmp_path / "in", tmp_path / "out")
    assert read_manifest(run.run_dir)["counts"]["features"] == 1
    assert counts_of(tmp_path / "in").passed == {LINK: 1}


def test_an_empty_folder_makes_an_empty_run_and_is_named(tmp_path, capsys):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    manifest = extract(tmp_path / "in", tmp_path / "out")
    assert manifest["counts"]["images_found"] == 0  # type: ignore[index]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "folder" in line]
    assert line == f"images folder {str(tmp_path / 'in')!r} is empty, so the run has no image"


def test_a_run_over_no_image_can_be_allowed(tmp_path):
    write(tmp_path, "a.heic")
    check_any_images(str(tmp_path), allow_empty=True)
    with pytest.raises(CaptionerError):
        check_any_images(str(tmp_path))


# --- Elsewhere


def test_the_same_rules_hold_in_an_object_store(tmp_path, monkeypatch):
    """A store's keys are listed by other code; a local folder stands in for the store."""
    write(tmp_path, *JUNK_NAMES, "a.jpg", ".b.jpg", "raw/c.jpg", "d.heic", rb"caf\xe9.jpg".decode())
    local = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    resolve = storage.resolve
    monkeypatch.setattr(
        storage, "resolve", lambda uri: (local, "/") if uri.startswith("s3://") else resolve(uri)
    )
    found = list(list_entries("s3://bucket", ("raw/",)))
    here = list(list_images(str(tmp_path), ("raw/",)))
    assert sorted(map(name_and_kind, found)) == sorted(map(name_and_kind, here))
    uris = {entry.image_id: entry.image_uri for entry in found if isinstance(entry, ImageRef)}
    assert uris == {
        "a.jpg": "s3://bucket/a.jpg",
        ".b.jpg": "s3://bucket/.b.jpg",
        r"caf\x5cxe9.jpg": r"s3://bucket/caf\xe9.jpg",
    }


def name_and_kind(entry: object) -> tuple[str, str]:
    assert isinstance(entry, ImageRef | SkippedEntry)
    return entry.image_id, entry.reason if isinstance(entry, SkippedEntry) else "image"


def test_patterns_are_compiled_once_for_any_number_of_files():
    patterns = PathPatterns(("*.png", "raw/"))
    assert patterns.match("a/b.png", is_folder=False)
    assert not patterns.match("a/raw", is_folder=False)
    assert patterns.match("a/raw", is_folder=True)


def test_the_list_of_captioners_files_is_not_told_as_passed_over(tmp_path):
    (tmp_path / ".captioner-files").write_text(
        '{"made_by": "captioner", "kind": "folder of images"}\n'
    )
    (tmp_path / "a.png").write_bytes(encoded(picture(), "PNG"))
    assert [entry.image_id for entry in list_entries(str(tmp_path))] == ["a.png"]
