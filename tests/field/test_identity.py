"""Images of two folders with equal file names are told apart everywhere.

The folders are two days of one camera, with a copied, a changed and a renamed image:

| image      | content        | caption                        |
|------------|----------------|--------------------------------|
| day1/IMG_1 | red            | a dog runs on the grass        |
| day1/IMG_2 | green          | two children play in the water |
| day1/IMG_3 | blue           | a man rides a bicycle          |
| day2/IMG_1 | grey           | a woman sits on a bench        |
| day2/IMG_2 | = day1/IMG_2   | two children play in the water |
| day2/IMG_4 | another green  | two children play in the water |
| day2/IMG_9 | = day1/IMG_3   | a man rides a bicycle          |
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_jobs import caption_images
from captioner_cli.main import main
from captioner_core.captioning.captioning_models import CaptioningModels
from captioner_core.captioning.generated_caption import GeneratedCaption
from captioner_core.captioning.saved_model import read_model_id
from captioner_core.io import storage
from captioner_core.runs import commits
from captioner_core.runs.identity import (
    collection_of_images,
    collection_of_table,
    default_collection,
)
from captioner_core.runs.verify import verify
from tests.fakes import FakeBackbone
from tests.image_files import COLOURS

CAPTIONS = {
    "red": "a dog runs on the grass",
    "green": "two children play in the water",
    "blue": "a man rides a bicycle",
    "grey": "a woman sits on a bench",
}
# Matches of day2 against day1 and itself: query, rank, match, and whether it is a copy.
DAY2_MATCHES = """
day2/IMG_2 1 day1/IMG_2 copy
day2/IMG_2 2 day2/IMG_4 -
day2/IMG_4 1 day1/IMG_2 -
day2/IMG_4 2 day2/IMG_2 -
day2/IMG_9 1 day1/IMG_3 copy
"""
# Matches of both days against both.
ALL_MATCHES = """
day1/IMG_2 1 day2/IMG_2 copy
day1/IMG_2 2 day2/IMG_4 -
day1/IMG_3 1 day2/IMG_9 copy
day2/IMG_2 1 day1/IMG_2 copy
day2/IMG_2 2 day2/IMG_4 -
day2/IMG_4 1 day1/IMG_2 -
day2/IMG_4 2 day2/IMG_2 -
day2/IMG_9 1 day1/IMG_3 copy
"""
# The same after day2/IMG_1 is replaced by a picture like day1/IMG_1, and day2/IMG_9 is renamed to
# IMG_0.
ALL_MATCHES_AFTER_CHANGES = """
day1/IMG_1 1 day2/IMG_1 -
day1/IMG_2 1 day2/IMG_2 copy
day1/IMG_2 2 day2/IMG_4 -
day1/IMG_3 1 day2/IMG_0 copy
day2/IMG_0 1 day1/IMG_3 copy
day2/IMG_1 1 day1/IMG_1 -
day2/IMG_2 1 day1/IMG_2 copy
day2/IMG_2 2 day2/IMG_4 -
day2/IMG_4 1 day1/IMG_2 -
day2/IMG_4 2 day2/IMG_2 -
"""


class ColourCaptioner:
    """A captioner that captions a picture by its colour.

    It has the id of the pretrained model, which the checks of a run load.
    """

    def __init__(self) -> None:
        self.model_id = read_model_id("pretrained")
        pixels = np.array(list(COLOURS.values()), np.uint8)[:, None, None] * np.ones(
            (1, 299, 299, 1), np.uint8
        )
        self._colours = FakeBackbone().features(pixels)[0]

    def generate(self, features, grid):
        """Returns the caption of the colour that is nearest to each image's features."""
        nearest = np.linalg.norm(features[:, None] - self._colours, axis=2).argmin(axis=1)
        texts = [list(CAPTIONS.values())[number] for number in nearest]
        return [GeneratedCaption(text, -1.0, len(text.split())) for text in texts]


def load_fakes(*_args: object) -> CaptioningModels:
    """Returns the fake backbone and the fake captioner, in place of ``load_models``."""
    return CaptioningModels(FakeBackbone(), ColourCaptioner())


def draw(path: Path, colour: str, seed: int = 0) -> None:
    """Draws a noisy picture of one colour."""
    noise = np.random.default_rng(seed).integers(-9, 9, (40, 60, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def days(tmp_path, monkeypatch):
    """Returns a folder with the images of both days in ``inbox``, and replaces the models."""
    monkeypatch.setattr(caption_images, "load_models", load_fakes)
    day1 = tmp_path / "inbox" / "day1"
    day2 = tmp_path / "inbox" / "day2"
    draw(day1 / "IMG_1.png", "red")
    draw(day1 / "IMG_2.png", "green")
    draw(day1 / "IMG_3.png", "blue")
    draw(day2 / "IMG_1.png", "grey")
    draw(day2 / "IMG_4.png", "green", seed=1)
    shutil.copy(day1 / "IMG_2.png", day2 / "IMG_2.png")
    shutil.copy(day1 / "IMG_3.png", day2 / "IMG_9.png")
    return tmp_path


def run_day(root: Path, day: str, *options: str) -> Path:
    """Captions and matches one day's folder, and returns the run's folder."""
    command = [
        "run",
        "--images",
        str(root / "inbox" / day),
        "--output",
        str(root / "out"),
        "--run-id",
        day,
    ]
    assert main([*command, "--collection", day, *options]) == 0
    return root / "out" / "runs" / day


def captions_of(run_dir: Path) -> str:
    """Returns the URI of a run's table of captions."""
    return str(run_dir / "captions")


def match_all(root: Path, run_id: str, *tables: str) -> Path:
    """Matches these tables of captions against each other, and returns the run's folder."""
    sides = [part for table in tables for part in ("--captions", table, "--index", table)]
    assert main(["match", *sides, "--output", str(root / "out"), "--run-id", run_id]) == 0
    return root / "out" / "runs" / run_id


def matches_of(run_dir: Path) -> str:
    """Returns a run's matches as text, one on each line."""
    assert verify(str(run_dir)) == []
    frame = storage.read_table(str(run_dir / "matches")).to_pandas()
    lines = [
        f"{row.query_collection}/{row.query_image_id.removesuffix('.png')} {row.rank} "
        f"{row.match_collection}/{row.match_image_id.removesuffix('.png')} "
        f"{'copy' if row.is_duplicate else '-'}"
        for row in frame.itertuples()
    ]
    return "\n" + "\n".join(sorted(lines)) + "\n"


def test_a_run_tells_its_images_from_those_of_another_folder(days):
    day1 = run_day(days, "day1")
    day2 = run_day(days, "day2", "--index", captions_of(day1))
    assert matches_of(day1) == "\n\n", "no two images of the first day are alike"
    assert matches_of(day2) == DAY2_MATCHES
    frame = storage.read_table(str(day2 / "matches")).to_pandas()
    copies = frame[frame.is_duplicate]
    np.testing.assert_allclose(copies.feature_score, 1, atol=1e-6)
    others = frame[~frame.is_duplicate]
    assert (others.feature_score < 1 - 1e-7).all(), (
        "the scores use the features of the right picture"
    )


def test_images_with_equal_names_in_two_tables_stay_separate(days):
    day1 = run_day(days, "day1")
    day2 = run_day(days, "day2")
    both = match_all(days, "both", captions_of(day1), captions_of(day2))
    assert matches_of(both) == ALL_MATCHES
    summary = storage.read_table(str(both / "match_summary")).to_pandas()
    assert len(summary) == 7, "one row for each image of either day"
    unmatched = summary[summary.status == "no_match"]
    assert sorted(zip(unmatched.query_collection, unmatched.query_image_id, strict=True)) == [
        ("day1", "IMG_1.png"),
        ("day2", "IMG_1.png"),
    ]


def test_an_update_follows_added_changed_and_renamed_images(days):
    day1 = run_day(days, "day1")
    library = match_all(days, "library", captions_of(day1))
    day2 = run_day(days, "day2")
    update = ["match", "--update", str(library)]
    assert main([*update, "--captions", captions_of(day2)]) == 0
    assert matches_of(library) == ALL_MATCHES

    draw(days / "inbox/day2/IMG_1.png", "red", seed=5)
    (days / "inbox/day2/IMG_9.png").rename(days / "inbox/day2/IMG_0.png")
    run_day(days, "day2")
    assert main(update) == 0
    assert matches_of(library) == ALL_MATCHES_AFTER_CHANGES


def test_folders_with_equal_names_are_two_collections(days):
    """Both folders are called ``photos``; their collections are made from their whole paths."""
    collections = []
    for day in ("day1", "day2"):
        photos = days / day / "photos"
        shutil.copytree(days / "inbox" / day, photos)
        command = ["run", "--images", str(photos), "--output", str(days / "out"), "--run-id", day]
        index = ["--index", str(days / "out/runs/day1/captions")] if day == "day2" else []
        assert main([*command, *index]) == 0
        collections.append(commits.read_manifest(str(days / "out/runs" / day))["collection"])
    assert len(set(collections)) == 2
    assert all(name.startswith("photos-") for name in collections)
    text = matches_of(days / "out/runs/day2")
    for day, collection in zip(("day1", "day2"), collections, strict=True):
        text = text.replace(collection, day)
    expected = DAY2_MATCHES
    # The two images called IMG_2 have equal scores and are ranked by their collections.
    if collections[0] > collections[1]:
        expected = expected.replace("IMG_4 1 day1/IMG_2", "IMG_4 1 day2/IMG_2").replace(
            "IMG_4 2 day2/IMG_2", "IMG_4 2 day1/IMG_2"
        )
    assert text == expected


def test_a_folder_is_one_collection_by_any_path(days, monkeypatch):
    monkeypatch.chdir(days)
    (days / "link").symlink_to(days / "inbox" / "day1")
    names = {
        default_collection(path)
        for path in ("inbox/day1", "./inbox/day1/", f"{days}/inbox/day1", "link")
    }
    assert len(names) == 1
    assert main(["run", "--images", "inbox/day1", "--output", "out", "--run-id", "once"]) == 0
    assert main(["run", "--images", "link", "--output", "out", "--run-id", "again"]) == 0
    both = match_all(
        days, "both", str(days / "out/runs/once/captions"), str(days / "out/runs/again/captions")
    )
    assert matches_of(both) == "\n\n", "an image is no match of itself"


def test_runs_of_earlier_versions_can_be_matched_updated_and_reported(days, capsys):
    """Earlier versions wrote no collections, neither in the manifest nor in any table."""
    day1 = run_day(days, "day1")
    day2 = run_day(days, "day2")
    library = match_all(days, "library", captions_of(day1))
    for run_dir in (day1, library):
        _as_earlier_version(run_dir)
        assert verify(str(run_dir)) == []
    assert main(["report", str(day1)]) == 0
    capsys.readouterr()
    assert main(["match", "--update", str(library), "--captions", captions_of(day2)]) == 0
    assert "all images are matched again" in capsys.readouterr().err
    assert (
        matches_of(library).replace(default_collection(str(days / "inbox/day1")), "day1")
        == ALL_MATCHES
    )


def _as_earlier_version(run_dir: Path) -> None:
    """Removes from a finished run what earlier versions did not write."""
    path = run_dir / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    for name in ("collection", "collections"):
        manifest.pop(name, None)
    manifest["options"].pop("collection", None)
    path.write_text(json.dumps(manifest), encoding="utf-8")
    collection_columns = {
        "query_collection",
        "match_collection",
        "best_match_collection",
        "collection",
        "collections",
    }
    for part in run_dir.glob("*/part-*.parquet"):
        table = pq.read_table(part)
        pq.write_table(
            table.drop_columns(sorted(collection_columns & set(table.column_names))),
            part,
            compression="zstd",
        )


def test_the_report_shows_the_right_picture_for_equal_names(days):
    from captioner_core.report.pictures import ImageFinder

    day1 = run_day(days, "day1")
    day2 = run_day(days, "day2")
    finder = ImageFinder([captions_of(day1), captions_of(day2)], ["IMG_1.png"], [])
    for day in ("day1", "day2"):
        assert (
            finder.location("IMG_1.png", collection=day)
            == str(days / "inbox" / day / "IMG_1.png").encode()
        )
    assert finder.captions("IMG_1.png", "day2") == [CAPTIONS["grey"]]
    both = match_all(days, "both", captions_of(day1), captions_of(day2))
    assert main(["report", str(both)]) == 0
    page = (both / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count('<article class="card">') == 7
    assert page.count("of <bdi>day1</bdi>") == 4, (
        "three matches, and the nearest image of one without a match"
    )
    assert page.count("in <bdi>day2</bdi>") == 4, "each card of its images names the day"
    assert 'class="pic missing"' not in page


def test_similar_finds_a_copy_in_another_folder(days, capsys, monkeypatch):
    day1 = run_day(days, "day1")
    day2 = run_day(days, "day2")
    _fake_similar(monkeypatch)
    capsys.readouterr()
    query = days / "inbox/day2/IMG_2.png"
    tables = ["--index", captions_of(day1), "--index", captions_of(day2)]
    assert main(["similar", str(query), *tables, "--output", str(days / "similar.png")]) == 0
    output = capsys.readouterr().out.splitlines()
    found = [tuple(line.split()[2:4]) for line in output[1:3]]
    assert found == [("IMG_2.png", "(day1)"), ("IMG_4.png", "(day2)")]


def _fake_similar(monkeypatch):
    """Replaces the models that ``similar`` loads."""

    class Model:
        config = type("Config", (), {"backbone": FakeBackbone.name})

    models = "captioner_core.captioning.captioning_models"
    generator = "captioner_core.captioning.generator.CaptionGenerator"
    monkeypatch.setattr(f"{models}.load_model", lambda _folder: Model())
    monkeypatch.setattr(
        f"{models}.load_backbone", lambda _name, _precision, _engine: FakeBackbone()
    )
    monkeypatch.setattr(generator, lambda _model, _beam_width, _engine: ColourCaptioner())


def test_each_folder_of_an_inbox_is_a_collection(days, capsys):
    inbox_command = [
        "inbox",
        "--inbox",
        str(days / "inbox"),
        "--output",
        str(days / "out"),
        "--quiet-minutes",
        "0",
        "--json",
    ]
    assert main(inbox_command) == 0
    ready = json.loads(capsys.readouterr().out)
    assert [(folder["folder"], folder["state"]) for folder in ready] == [
        ("day1", "ready"),
        ("day2", "ready"),
    ]
    tables: list[str] = []
    for folder in ready:
        command = [
            "run",
            "--images",
            folder["uri"],
            "--output",
            str(days / "out"),
            "--run-id",
            folder["run_id"],
        ]
        assert main([*command, *(part for table in tables for part in ("--index", table))]) == 0
        tables.append(str(days / "out/runs" / folder["run_id"] / "captions"))
    text = matches_of(days / "out/runs/day2")
    for table, day in zip(tables, ("day1", "day2"), strict=True):
        text = text.replace(collection_of_table(table), day)
    assert text == DAY2_MATCHES
    capsys.readouterr()
    assert main(inbox_command) == 0
    assert [folder["state"] for folder in json.loads(capsys.readouterr().out)] == ["done", "done"]


@pytest.mark.parametrize("name", ["", " day1", "a\nb", "x" * 201, "a\0b"])
def test_a_bad_collection_name_is_refused_before_the_work_starts(days, name, capsys):
    command = ["run", "--images", str(days / "inbox/day1"), "--output", str(days / "out")]
    assert main([*command, "--collection", name]) == 2
    assert "--collection" in capsys.readouterr().err
    assert not (days / "out").exists()


def test_captions_made_from_features_keep_the_collection(days, capsys):
    common = ["--images", str(days / "inbox/day1"), "--output", str(days / "out"), "--run-id", "r"]
    assert main(["extract", *common, "--collection", "day1"]) == 0
    capsys.readouterr()
    assert main(["caption", *common, "--from-features", "--collection", "other"]) == 2
    assert "'day1'" in capsys.readouterr().err
    assert main(["caption", *common, "--from-features"]) == 0
    assert commits.read_manifest(str(days / "out/runs/r"))["collection"] == "day1"


def test_a_dataset_and_a_run_of_its_images_are_one_collection(tmp_path):
    images = tmp_path / "dataset" / "images"
    images.mkdir(parents=True)
    table = str(tmp_path / "dataset" / "captions.parquet")
    assert collection_of_table(table) == collection_of_images(str(images))
    (tmp_path / "dataset" / "dataset.json").write_text('{"collection": "mine"}')
    assert collection_of_table(table) == collection_of_images(f"{images}/") == "mine"
