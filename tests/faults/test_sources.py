"""Images that vanish, change or turn into something else during a run.

One image is disturbed after it was listed, when it is opened, or when half of it is read. It must
get the right row or failure, all other images must keep their rows, and no file outside of the
images folder may be read. A run after the repair must equal an undisturbed one.
"""

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
# The image that is disturbed. It is not compressed, so that half of the file is half a picture.
TARGET = "below/target.bmp"
# An image beside the images folder, which no run may read.
SECRET = "outside.bmp"


def write_image(path: Path, colour: str, size=(60, 40)) -> None:
    """Writes an image of one colour."""
    Image.new("RGB", size, colour).save(path, format="bmp")


@pytest.fixture
def folder(tmp_path):
    """Returns a folder of five images, with the target among them and the secret beside it."""
    (tmp_path / "images" / "below").mkdir(parents=True)
    for number in range(4):
        write_image(tmp_path / "images" / f"{number}.bmp", "red", (60 + number, 40))
    write_image(tmp_path / "images" / TARGET, "green")
    write_image(tmp_path / SECRET, "blue")
    return tmp_path / "images"


def vanish(path):
    """Deletes an image."""
    path.unlink()


def truncate(path):
    """Cuts off the second half of an image."""
    os.truncate(path, path.stat().st_size // 2)


def grow(path):
    """Appends bytes to an image."""
    with path.open("ab") as stream:
        stream.write(b"more")


def overwrite(path):
    """Writes another image of the same size into the file, as some programs save a picture."""
    size = path.stat().st_size
    write_image(path, "yellow")
    assert path.stat().st_size == size


def replace(path):
    """Renames another image to the file, as other programs save a picture."""
    write_image(path.with_suffix(".new"), "yellow")
    path.with_suffix(".new").replace(path)


def become_a_folder(path):
    """Replaces an image by a folder."""
    path.unlink()
    path.mkdir()


def become_a_pipe(path):
    """Replaces an image by a named pipe."""
    path.unlink()
    os.mkfifo(path)


def become_a_link_out(path):
    """Replaces an image by a link to the secret image."""
    path.unlink()
    path.symlink_to(path.parents[2] / SECRET)


def become_a_link_within(path):
    """Replaces an image by a link to another image of the folder."""
    path.unlink()
    path.symlink_to(path.parents[1] / "0.bmp")


def folder_becomes_a_link_out(path):
    """Replaces the image's folder by a link to a folder with a copy of the secret image."""
    outside = path.parents[2] / "elsewhere"
    outside.mkdir()
    shutil.copy(path.parents[2] / SECRET, outside / path.name)
    shutil.rmtree(path.parent)
    path.parent.symlink_to(outside)


# The moments at which an image is disturbed.
LISTED = "listed"
OPENED = "opened"
HALF_READ = "half read"
# The expected outcome of an image that is no failure, since its bytes are those of one file.
READ = "read"
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
    """A stream that is read in two halves, with a call between them.

    Args:
      stream: The stream.
      between: The function to call.
    """

    def __init__(self, stream, between):
        self._stream = stream
        self._between = between

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self._stream.close()

    def read(self, size):
        """Returns the next bytes."""
        half = self._stream.read(os.fstat(self._stream.fileno()).st_size // 2)
        self._between()
        return half + self._stream.read(size - len(half))


def disturb(monkeypatch, moment, fault, target):
    """Lets a fault happen to the target once, at its moment."""
    pending = [fault]

    def disturb_once():
        if pending:
            pending.pop()(target)

    if moment == LISTED:
        write_image_list = image_list.write_image_list

        def list_and_disturb(*arguments):
            files = write_image_list(*arguments)
            disturb_once()
            return files

        monkeypatch.setattr(image_list, "write_image_list", list_and_disturb)
    elif moment == OPENED:
        open_file = os.open

        def open_and_disturb(path, *arguments, **keywords):
            descriptor = open_file(path, *arguments, **keywords)
            if path == os.fsencode(target):
                disturb_once()
            return descriptor

        monkeypatch.setattr(os, "open", open_and_disturb)
    else:

        def open_reader(descriptor, mode, closefd):
            is_target = target.exists() and os.path.samestat(os.fstat(descriptor), target.stat())
            # The caller closes the stream.
            stream = open(descriptor, mode, buffering=0, closefd=closefd)  # noqa: SIM115
            return Reader(stream, disturb_once) if is_target else stream

        monkeypatch.setattr(listing, "open", open_reader, raising=False)


def extract(folder, root, **changes):
    """Runs the extract job and returns the layout of its run."""
    options = ExtractOptions(images=str(folder), output=str(root), **changes)
    extract_features.run(options, load=FakeBackbone)
    return RunLayout(str(root), "run")


@pytest.mark.parametrize(
    ("moment", "fault", "expected"),
    CASES,
    ids=[f"{moment}-{fault.__name__}" for moment, fault, _ in CASES],
)
def test_an_image_that_changes_during_a_run_gets_the_right_row(
    folder, tmp_path, monkeypatch, moment, fault, expected
):
    undisturbed = extract(folder, tmp_path / "undisturbed")
    original = (folder / TARGET).read_bytes()
    with monkeypatch.context() as patch:
        disturb(patch, moment, fault, folder / TARGET)
        run = extract(folder, tmp_path / "out")
    assert verify(run.run_dir) == []
    failed = {
        row["image_id"]: row for row in storage.read_table(run.table(layout.FAILURES)).to_pylist()
    }
    all_images = rows(undisturbed.run_dir, layout.FEATURES)["image_id"]
    features = rows(run.run_dir, layout.FEATURES)
    assert features["image_id"].tolist() == [name for name in all_images if name not in failed]
    if expected == READ:
        assert failed == {}
    else:
        assert {name: row["error_type"] for name, row in failed.items()} == {TARGET: expected}
        assert ("leaves the images folder" in failed[TARGET]["error_message"]) == (
            "link_out" in fault.__name__
        )
    secret = hashlib.sha256((tmp_path / SECRET).read_bytes()).hexdigest()
    assert secret not in set(features["image_sha256"])

    repair(folder, original)
    extract(folder, tmp_path / "out", only_failures=expected != READ)
    assert verify(run.run_dir) == []
    assert_same_tables(run.run_dir, undisturbed.run_dir, (layout.FEATURES, layout.FAILURES))


def repair(folder, original):
    """Writes the original bytes to the target, whatever has replaced it or its folder."""
    target = folder / TARGET
    if target.parent.is_symlink():
        target.parent.unlink()
        target.parent.mkdir()
    if target.is_dir():
        target.rmdir()
    target.unlink(missing_ok=True)
    target.write_bytes(original)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_image_without_read_permission_is_a_failure(folder):
    with tempfile.TemporaryDirectory() as other_folder:
        os.chmod(other_folder, 0o755)
        path = Path(other_folder, "private.bmp")
        write_image(path, "red")
        path.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(ImageError, match="Permission denied") as caught:
                listing.read_bytes(str(path), 1 << 20, other_folder)
        finally:
            os.seteuid(0)
    assert caught.value.error_type == "unreadable"
