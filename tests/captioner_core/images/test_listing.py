"""A local folder is listed completely, and its files are read within their limits."""

from __future__ import annotations

import os
from functools import reduce

import pytest

from captioner_core.errors import CaptionerError, ImageError
from captioner_core.images.listing import (
    ListingCounts,
    SkippedEntry,
    list_images,
    local_path,
    read_bytes,
)
from captioner_core.tables.schemas import FailureRow, ImageRef
from tests.image_files import PASSED_OVER, make_hostile_folder


def test_every_image_is_listed_once_and_all_other_entries_are_counted(tmp_path):
    expected = make_hostile_folder(tmp_path / "in")
    entries = list(list_images(str(tmp_path / "in")))
    found = [entry.image_id for entry in entries if isinstance(entry, ImageRef)]
    assert sorted(found) == sorted(expected)
    counts = reduce(ListingCounts.with_entry, entries, ListingCounts())
    assert counts.images == len(expected)
    assert counts.passed_over == PASSED_OVER
    assert counts.as_manifest()["files_passed_over"] == PASSED_OVER


def test_entries_come_in_the_order_of_their_names(tmp_path):
    for name in ("b.jpg", "a.jpg", "c/a.jpg", "B.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [entry.image_id for entry in list_images(str(tmp_path))] == [
        "B.jpg",
        "a.jpg",
        "b.jpg",
        "c/a.jpg",
    ]


def test_a_uri_leads_back_to_the_file_whatever_its_name(tmp_path):
    make_hostile_folder(tmp_path / "in")
    for entry in list_images(str(tmp_path / "in")):
        if isinstance(entry, ImageRef):
            assert os.path.lexists(local_path(entry.image_uri))
            entry.image_uri.encode("utf-8")


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_missing_folder_is_an_error_at_the_call(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(CaptionerError, match=name):
        list_images(str(tmp_path / name))


def test_a_subfolder_that_cannot_be_listed_is_a_failure(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "open.jpg").touch()
    real_scandir = os.scandir

    def scandir(path):
        if os.fsdecode(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    failure, image = list_images(str(tmp_path))
    assert isinstance(image, ImageRef)
    assert isinstance(failure, FailureRow)
    assert failure.image_id == "closed"
    assert "Permission denied" in failure.error_message


def test_relative_and_absolute_folders_give_the_same_ids(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert list(list_images("in")) == list(list_images(str(tmp_path / "in") + "/"))


def test_reading_enforces_the_limit_and_reports_unreadable_files(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    assert read_bytes(str(path), 5) == b"12345"
    with pytest.raises(ImageError) as caught:
        read_bytes(str(path), 4)
    assert caught.value.error_type == "too_large"
    for unreadable in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ImageError) as caught:
            read_bytes(str(unreadable), 4)
        assert caught.value.error_type == "unreadable"


def test_a_pipe_is_skipped_and_reading_it_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert [type(entry) for entry in list_images(str(tmp_path))] == [SkippedEntry]
    with pytest.raises(ImageError, match="regular"):
        read_bytes(str(tmp_path / "pipe.jpg"), 10)
