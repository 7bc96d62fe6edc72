"""Images that vanish, change or turn into something else under a run: each the right row, and all others theirs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from beam_jobs import extract_features
from captioner_core.errors import ImageError
from captioner_core.images import listing
from captioner_core.io import storage
from captioner_core.options import ExtractOptions
from captioner_core.runs import image_list
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.fakes import FakeBackbone
from tests.same_tables import assert_same_tables, rows

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
TARGET = "below/target.bmp"  # not compressed, so that half of it is half a picture
SECRET = "outside.bmp"


def picture(path: Path, colour: str, size=(60, 40)) -> None:
    Image.new("RGB", size, colour).save(path, format="bmp")


@pytest.fixture
def folder(tmp_path):
    """Five images, the target among them, and one beside the folder that no run may read."""
    (tmp_path / "images" / "below").mkdir(parents=True)
    for number in range(4):
        picture(tmp_path / "images" / f"{number}.bmp", "red", (60 + number, 40))
    picture(tmp_path / "images" / TARGET, "green")
    picture(tmp_path / SECRET, "blue")
    return tmp_path / "images"


def vanish(path):
    path.unlink()


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def grow(path):
    with path.open("ab") as stream:
        stream.write(b"more")


def overwrite(path):
    """As a program does that saves a picture in place."""
    size = path.stat().st_size
    picture(path, "yellow")
    assert path.stat().st_size == size


def replace(path):
    """As a program does that writes beside and renames."""
    picture(path.with_suffix(".new"), "yellow")
    path.with_suffix(".new").replace(path)


def become_a_folder(path):
    path.unlink()
    path.mkdir()


def become_a_pipe(path):
    path.unlink()
    os.mkfifo(path)


def become_a_link_out(path):
    path.unlink()
    path.symlink_to(path.parents[2] / SECRET)


def become_a_link_within(path):
    path.unlink()
    path.symlink_to(path.parents[1] / "0.bmp")


def folder_becomes_a_link_out(path):
    outside = path.parents[2] / "elsewhere"
    outside.mkdir()
    shutil.copy(path.parents[2] / SECRET, outside / path.name)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(outside)


LISTED, OPENED, HALF_READ = "listed", "opened", "half read"
READ = "read"  # no failure: what was read is what one file held
CASES = [
    (LISTED, vanish, "unreadable"),
    (LISTED, truncate, "truncated"),
    (LISTED, grow, READ),
    (LISTED, replace, READ),
    (LISTED, become_a_folder, "unreadable"),
    (LISTED, become_a_pipe, "unreadable"),
    (LISTED, become_a_link_out, "unreadable"),
    (LISTED, become_a_link_within, READ),
    (LISTED, folder_becomes_a_link_out, "unreadable"),
    (OPENED, vanish, "unreadable"),
    (OPENED, replace, "changed"),
    (OPENED, become_a_link_out, "unreadable"),
    (OPENED, folder_becomes_a_link_out, "unreadable"),
    (HALF_READ, vanish, READ),
    (HALF_READ, truncate, "changed"),
    (HALF_READ, grow, "changed"),
    (HALF_READ, overwrite, "changed"),
    (HALF_READ, replace, READ),
    (HALF_READ, become_a_link_out, READ),
]


class Reader:
    """A file that is read in two halves, and changed between them."""

    def __init__(self, stream, between):
        self._stream, self._between = stream, between

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self._stream.close()

    def read(self, size):
        half = self._stream.read(os.fstat(self._stream.fileno()).st_size // 2)
        self._between()
        return half + self._stream.read(size - len(half))


def disturb(monkeypatch, moment, fault, target):
    """Lets the fault happen once, at its moment."""
    pending = [fault]

    def strike():
        if pending:
            pending.pop()(target)

    if moment == LISTED:
        write_image_list = image_list.write_image_list

        def listed(*arguments):
            found = write_image_list(*arguments)
            strike()
            return found

        monkeypatch.setattr(image_list, "write_image_list", listed)
    elif moment == OPENED:
        check_below = listing._check_below

        def opened(descriptor, path, folder):
            if path == os.fsencode(target):
                strike()
            check_below(descriptor, path, folder)

        monkeypatch.setattr(listing, "_check_below", opened)
    else:

        def half_read(descriptor, *arguments, **named):
            is_target = target.exists() and os.path.samestat(os.fstat(descriptor), target.stat())
            stream = open(descriptor, *arguments, **named, buffering=0)  # noqa: SIM115  whoever calls closes it
            return Reader(stream, strike) if is_target else stream

        monkeypatch.setattr(listing, "open", half_read, raising=False)


def extract(folder, root, **options):
    asked = ExtractOptions(images=str(folder), output=str(root), **options)
    extract_features.run(asked, load=FakeBackbone)
    return RunLayout(str(root), "run")


@pytest.mark.parametrize(
    ("moment", "fault", "expected"),
    CASES,
    ids=[f"{moment}-{fault.__name__}" for moment, fault, _ in CASES],
)
def test_an_image_that_changes_under_a_run(folder, tmp_path, monkeypatch, moment, fault, expected):
    undisturbed = extract(folder, tmp_path / "undisturbed")
    original = (folder / TARGET).read_bytes()
    with monkeypatch.context() as patch:
        disturb(patch, moment, fault, folder / TARGET)
        run = extract(folder, tmp_path / "out")
    assert verify(run.run_dir) == []
    failed = {
        row["image_id"]: row for row in storage.read_table(run.table(layout.FAILURES)).to_pylist()
    }
    others = rows(undisturbed.run_dir, layout.FEATURES)
    made = rows(run.run_dir, layout.FEATURES)
    assert made["image_id"].tolist() == [name for name in others["image_id"] if name not in failed]
    if expected == READ:
        assert failed == {}
    else:
        assert {name: row["error_type"] for name, row in failed.items()} == {TARGET: expected}
        assert ("leaves the images folder" in failed[TARGET]["error_message"]) == (
            "link_out" in fault.__name__
        )
    secret = hashlib.sha256((tmp_path / SECRET).read_bytes()).hexdigest()
    assert secret not in set(made["image_sha256"])

    mend(folder, original)
    extract(folder, tmp_path / "out", only_failures=expected != READ)
    assert verify(run.run_dir) == []
    assert_same_tables(run.run_dir, undisturbed.run_dir, (layout.FEATURES, layout.FAILURES))


def mend(folder, original):
    target = folder / TARGET
    if target.parent.is_symlink():
        target.parent.unlink()
        target.parent.mkdir()
    if target.is_dir():
        target.rmdir()
    target.unlink(missing_ok=True)
    target.write_bytes(original)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_permissions_lost_are_the_image_s_failure(folder):
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        path = Path(place, "mine.bmp")
        picture(path, "red")
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(ImageError, match="Permission denied") as caught:
                listing.read_bytes(str(path), 1 << 20, place)
        finally:
            os.seteuid(0)
    assert caught.value.error_type == "unreadable"
