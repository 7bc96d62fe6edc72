"""Commands change only captioner's own files, whatever an output folder contains.

Each example makes an output, adds files and links of another program at random, and runs the
command again: three times it is interrupted at a random write, and then it runs to its end. An
exception at a write stands for the interruption. From then on every further write fails too, as
after a kill.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captioner_core.analysis import caption_metrics
from captioner_core.analysis.similar_images import SimilarImages, write_picture
from captioner_core.analysis.thresholds import ThresholdRow, draw_thresholds
from captioner_core.captioning.config import CaptionerConfig
from captioner_core.captioning.export import export_model
from captioner_core.captioning.network import Captioner
from captioner_core.captioning.saved_model import save_model
from captioner_core.datasets import csv_captions, link_split, sample
from captioner_core.errors import CaptionerError
from captioner_core.io import outputs, storage
from captioner_core.report import write_report
from captioner_core.tables.layout import RunLayout
from captioner_core.text.encoders.calibration import Calibration
from captioner_core.text.vocabulary import Vocabulary
from captioner_core.training.encoder.saved_encoder import EncoderContents, save_encoder
from tests.field.snapshots import assert_unchanged, snapshot
from tests.image_files import encoded, picture
from tests.runs import make_run
from tests.stages import commit, stage_captions

SEED = int(os.environ.get("FIELD_SEED") or 16)
EXAMPLES = 8
CUTS = 3
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}


class Cut(BaseException):
    """Interrupts a command."""


class Writes:
    """Counts the writes below a folder, and interrupts the command at one of them."""

    def __init__(self) -> None:
        self.folder = ""
        self.at = 0
        self.count = 0

    def before(self, path: object) -> None:
        """Counts a write to a path below the folder, and may interrupt it."""
        is_inside = isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(
            self.folder
        )
        if not self.folder or not is_inside:
            return
        self.count += 1
        if self.at and self.count >= self.at:
            raise Cut

    def audit(self, event: str, arguments: tuple) -> None:
        """Counts what an audit hook of Python reports as a write."""
        is_opened = event == "open" and isinstance(arguments[2], int)
        if event in _CHANGES or (is_opened and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            self.before(arguments[0])


@pytest.fixture(scope="module")
def audited():
    """Returns the writes of this process. A hook cannot be removed, so all tests share one."""
    writes = Writes()
    sys.addaudithook(writes.audit)
    yield writes
    writes.folder = ""


@pytest.fixture
def writes(audited, monkeypatch):
    """Returns the writes of this process, with those that pyarrow makes."""
    for name in ("write_text", "delete", "move", "output_stream"):
        real = getattr(storage, name)

        def counted(uri: str, *others: object, real: Callable = real) -> object:
            audited.before(uri)
            return real(uri, *others)

        monkeypatch.setattr(storage, name, counted)
    return audited


VOCABULARY = Vocabulary.from_captions(["a red dog runs", "two cats sleep"])


def small_captioner() -> Captioner:
    """Returns a small untrained captioner."""
    config = CaptionerConfig(
        backbone="fake-299",
        vocabulary_size=len(VOCABULARY),
        cell_dim=8,
        units=8,
        embedding_dim=8,
        heads=2,
    )
    return Captioner(config, seed=3)


def make_inputs(here: Path) -> None:
    """Makes pictures, their captions, a dataset folder and a file outside the output."""
    (here / "pictures").mkdir()
    for number in range(4):
        (here / "pictures" / f"{number}.jpg").write_bytes(encoded(picture(), "JPEG"))
    lines = [
        f"{number}.jpg,a dog {number},{'dev' if number == 3 else 'train'}" for number in range(4)
    ]
    (here / "captions.csv").write_text("\n".join(["image_id,caption,split", *lines]))
    shutil.copytree(here / "pictures", here / "dataset" / "images")
    (here / "outside").mkdir()
    (here / "outside" / "precious.txt").write_text("mine")


def make_dataset(here: Path) -> None:
    """Makes a dataset from a CSV file."""
    csv_captions.build(
        here / "out",
        csv_file=here / "captions.csv",
        images=here / "pictures",
        limit=random.choice((2, 3)),
    )


def link_one_split(here: Path) -> None:
    """Makes a folder with links to pictures of a dataset."""
    link_split(
        here / "dataset", here / "out", random.sample(["0.jpg", "1.jpg", "2.jpg", "3.jpg"], 2)
    )


def make_model(here: Path) -> None:
    """Saves a captioner."""
    save_model(str(here / "out"), small_captioner(), VOCABULARY, {"history": []})


def make_exported_model(here: Path) -> None:
    """Exports a captioner."""
    if not (here / "model").exists():
        save_model(str(here / "model"), small_captioner(), VOCABULARY, {"history": []})
    export_model([str(here / "model")], str(here / "out"))


def record_scores(here: Path) -> None:
    """Records an evaluation in a model folder."""
    if not (here / "out").exists():
        make_model(here)
    figures = {
        "model_id": "m",
        "split": "dev",
        "beam_width": 1,
        "dataset": "d",
        "images": 1,
        "scores": {},
    }
    caption_metrics.record_evaluation(
        str(here / "out"), {**figures, "tokenizer": "none", "references": "r", "reliability": []}
    )


def make_encoder(here: Path) -> None:
    """Saves an encoder."""
    tensors = {"words": np.zeros((3, 2), np.float16)}
    contents = EncoderContents(tensors, {"a": 3}, 3, "fake-299", Calibration(), "card")
    save_encoder(str(here / "out"), contents)


def make_run_folder(here: Path) -> None:
    """Commits the caption stage of a run."""
    commit(
        stage_captions(RunLayout(str(here / "out"), "r"), ["a", "b"], parts=random.choice((1, 2)))
    )


def make_report(here: Path) -> None:
    """Writes the reports of the runs below the output."""
    root = here / "out"
    if not (root / "out" / "runs").exists() and not root.exists():
        make_run(root, images=3)
    for run_dir in root.rglob("runs/test-run"):
        write_report(str(run_dir))


def draw_collage(here: Path) -> None:
    """Draws similar images."""
    (here / "out").mkdir(exist_ok=True)
    found = SimilarImages(str(here / "pictures" / "0.jpg"), "a dog", [], [], None)
    write_picture(found, str(here / "out" / "similar.png"))


def draw_plot(here: Path) -> None:
    """Plots thresholds."""
    (here / "out").mkdir(exist_ok=True)
    draw_thresholds([ThresholdRow(0.9, 1.0, 0.8, 0.5)], str(here / "out" / "thresholds.svg"))


def draw_dataset(here: Path) -> None:
    """Makes a dataset of drawn scenes."""
    sample.build(here / "out", images=random.choice((30, 31)))


COMMANDS = {
    "csv": make_dataset,
    "drawn": draw_dataset,
    "split": link_one_split,
    "model": make_model,
    "exported": make_exported_model,
    "recorded": record_scores,
    "encoder": make_encoder,
    "run": make_run_folder,
    "report": make_report,
    "collage": draw_collage,
    "plot": draw_plot,
}


def own_paths(here: Path) -> set[Path]:
    """Returns captioner's own files: those in markers, and its staging and temporary files."""
    own: set[Path] = set()
    for marker in here.rglob(outputs.MARKER):
        own.add(marker)
        for line in marker.read_text().splitlines()[1:]:
            own.add(marker.parent / json.loads(line).rstrip("/"))
        own.update(
            path
            for path in (marker.parent / "_staging").glob("*")
            if len(path.name) == 32 or "owner" in path.name
        )
    # The run of make_run has no marker; captioner knows its report by the name.
    own.update((here / "out").rglob("runs/test-run/report/index.html"))
    for name in ("similar.png", "thresholds.svg"):
        if (path := here / "out" / name).is_file() and outputs.is_own_picture(path.read_bytes()):
            own.add(path)
    return {
        path
        for path in own
        if not path.is_symlink() and not any(above.is_symlink() for above in path.parents)
    }


FILE_NAMES = (
    "mine.txt",
    "config.json.tmp",
    "captions.tmp",
    "3.jpg",
    "scene-00030.jpg",
    "part-00001.parquet",
    "index.html",
    "metrics.json",
    "similar.png",
    "thresholds.svg",
    "1.jpg",
    "manifest.json.tmp",
    outputs.MARKER + ".tmp",
)
KINDS = (
    "file",
    "link to file",
    "link to folder",
    "dangling link",
    "folder",
    "own",
    "own folder",
    "own folder",
)


def add_foreign_files(here: Path, chance: random.Random) -> None:
    """Adds files and links of another program to the output, some in place of captioner's."""
    out = here / "out"
    folders = [
        out,
        *(path for path in sorted(out.rglob("*")) if path.is_dir() and not path.is_symlink()),
    ]
    own = [
        path for path in sorted(own_paths(here)) if path.is_file() and path.name != outputs.MARKER
    ]
    for _ in range(chance.randint(1, 4)):
        path = chance.choice(folders) / chance.choice(FILE_NAMES)
        kind = chance.choice(KINDS)
        if kind == "own" and own and chance.random() < 0.5:
            path = chance.choice(own)
            path.unlink(missing_ok=True)
            kind = "link to file"
        if kind == "own folder" and len(folders) > 1:
            path = chance.choice(folders[1:])
            if path.exists():
                moved = here / "outside" / f"moved-{chance.random()}"
                shutil.move(path, moved)
                path.symlink_to(moved)
        if not os.path.lexists(path) and path.parent.is_dir():
            add_foreign_file(path, kind, here)


def add_foreign_file(path: Path, kind: str, here: Path) -> None:
    """Makes a link, a folder or a file at this path."""
    if kind == "link to file":
        path.symlink_to(here / "outside" / "precious.txt")
    elif kind == "link to folder":
        path.symlink_to(here / "outside")
    elif kind == "dangling link":
        path.symlink_to(here / "nowhere")
    elif kind == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    else:
        path.write_text("mine")


def attempt(command: Callable[[Path], None], here: Path) -> None:
    """Runs a command that may be refused or interrupted."""
    with contextlib.suppress(CaptionerError, Cut):
        command(here)


@pytest.mark.parametrize("example", range(EXAMPLES))
@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_of_another_program_changes(name, example, tmp_path, writes, monkeypatch):
    command = COMMANDS[name]
    seed = f"{SEED} {name} {example}"
    print(f"FIELD_SEED={SEED}")
    chance = random.Random(seed)
    random.seed(seed)
    monkeypatch.setattr(sample, "draw_scene", lambda *_: Image.new("RGB", (2, 2)))
    make_inputs(tmp_path)
    writes.folder = ""
    # In the other examples, the output contains only files of other programs at first.
    if chance.random() < 0.8:
        attempt(command, tmp_path)
    (tmp_path / "out").mkdir(exist_ok=True)
    add_foreign_files(tmp_path, chance)
    own = own_paths(tmp_path)
    before = snapshot(tmp_path, but=own)
    for cut in range(CUTS + 1):
        writes.folder = str(tmp_path / "out")
        writes.count = 0
        writes.at = chance.randint(1, 30) if cut < CUTS else 0
        attempt(command, tmp_path)
        writes.folder = ""
        assert_unchanged(before, snapshot(tmp_path))
