"""No command changes or deletes a file that captioner did not make.

This covers output folders and files, runs, and inputs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from beam_jobs import caption_images, extract_features, match_captions
from captioner_cli.main import main
from captioner_core.analysis.similar_images import SimilarImages, write_picture
from captioner_core.captioning.export import export_model
from captioner_core.captioning.saved_model import load_model
from captioner_core.datasets import csv_captions, is_built, link_split, sample
from captioner_core.errors import CaptionerError
from captioner_core.io import outputs, storage
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions
from captioner_core.report import write_report
from captioner_core.runs import commits
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.fakes import FakeBackbone
from tests.field.snapshots import assert_unchanged, snapshot
from tests.image_files import encoded, picture

JPEG = encoded(picture(), "JPEG")


def assert_refused(command: list[str], capsys, *expected_parts: str) -> None:
    """Runs a command that must end with exit code 2 and one line that contains these words."""
    capsys.readouterr()
    assert main([str(word) for word in command]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    for part in expected_parts:
        assert part in lines[0]


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Returns a user's folder with seven pictures in ``images``, and captions of two of them."""
    folder = tmp_path / "D"
    (folder / "images").mkdir(parents=True)
    for number in range(7):
        (folder / "images" / f"{number}.jpg").write_bytes(JPEG)
    (folder / "captions.csv").write_text(
        "image_id,caption,split\n0.jpg,a dog,train\n1.jpg,a cat,dev\n"
    )
    return folder


def csv_command(folder: Path, output: Path) -> list[str]:
    """Returns the command that makes a dataset of these pictures."""
    return [
        "dataset",
        "csv",
        "--csv",
        f"{folder}/captions.csv",
        "--images",
        f"{folder}/images",
        "--output",
        f"{output}",
    ]


# --- Datasets


def test_a_dataset_is_not_made_in_the_folder_of_its_pictures(pictures, capsys):
    before = snapshot(pictures)
    assert_refused(csv_command(pictures, pictures), capsys, "--output", "--csv")
    assert snapshot(pictures) == before


@pytest.mark.parametrize("spelling", ["link", "relative", "hard linked pictures"])
def test_a_dataset_is_not_made_over_its_pictures_under_another_path(
    pictures, tmp_path, capsys, monkeypatch, spelling
):
    output = tmp_path / "other"
    if spelling == "link":
        output.symlink_to(pictures)
    elif spelling == "relative":
        monkeypatch.chdir(pictures / "images")
        output = Path("../../D")
    else:
        shutil.copytree(pictures, output, copy_function=os.link)
    before = snapshot(tmp_path)
    assert_refused(csv_command(pictures, output), capsys, "--output")
    assert snapshot(tmp_path) == before


def test_a_dataset_does_not_delete_through_a_linked_images_folder(pictures, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images").symlink_to(pictures / "images")
    before = snapshot(tmp_path)
    assert_refused(csv_command(pictures, tmp_path / "out"), capsys, "captioner did not make")
    assert snapshot(tmp_path) == before
    # The same holds if the link replaces a folder of a dataset that captioner made.
    assert main(csv_command(pictures, tmp_path / "made")) == 0
    shutil.rmtree(tmp_path / "made" / "images")
    (tmp_path / "made" / "images").symlink_to(pictures / "images")
    before = snapshot(tmp_path, but=[tmp_path / "made" / outputs.MARKER])
    assert_refused(csv_command(pictures, tmp_path / "made"), capsys, "'images'", "did not make")
    assert_unchanged(before, snapshot(tmp_path))


def test_a_users_file_in_a_dataset_is_kept_or_named_if_it_is_in_the_way(pictures, tmp_path, capsys):
    dataset = tmp_path / "made"
    assert main(csv_command(pictures, dataset)) == 0
    (dataset / "images" / "mine.jpg").write_bytes(b"mine")
    (dataset / "notes").mkdir()
    (dataset / "notes" / "a.txt").write_text("a")
    (pictures / "captions.csv").write_text("image_id,caption\n0.jpg,a dog\n")
    assert main(csv_command(pictures, dataset)) == 0
    assert {path.name for path in (dataset / "images").iterdir()} == {"0.jpg", "mine.jpg"}
    assert (dataset / "notes" / "a.txt").read_text() == "a"
    (dataset / "images" / "1.jpg").write_bytes(b"mine too")
    (pictures / "captions.csv").write_text("image_id,caption\n1.jpg,a cat\n")
    before = snapshot(dataset, but=[dataset / outputs.MARKER])
    assert_refused(csv_command(pictures, dataset), capsys, "'images/1.jpg'", "did not make")
    assert_unchanged(before, snapshot(dataset))


@pytest.mark.parametrize("fault", ["bad split", "no picture", "unreadable CSV", "disk full"])
def test_a_dataset_that_fails_leaves_the_earlier_one_unchanged(
    pictures, tmp_path, capsys, monkeypatch, fault
):
    dataset = tmp_path / "made"
    assert main(csv_command(pictures, dataset)) == 0
    before = snapshot(dataset, but=[dataset / outputs.MARKER])
    rows = {
        "bad split": "2.jpg,x,nowhere\n",
        "no picture": "missing.jpg,x,train\n",
        "disk full": "2.jpg,x,train\n",
    }
    (pictures / "captions.csv").write_bytes(
        b"\xff"
        if fault == "unreadable CSV"
        else ("image_id,caption,split\n" + rows[fault]).encode()
    )
    if fault == "disk full":
        monkeypatch.setattr(
            os, "link", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        monkeypatch.setattr(
            shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
    assert main(csv_command(pictures, dataset)) in (1, 2)
    monkeypatch.undo()
    assert snapshot(dataset, but=[dataset / outputs.MARKER]) == before
    assert json.loads((dataset / "dataset.json").read_text())["captions"] == 2


def test_a_first_dataset_that_fails_leaves_no_folder(pictures, tmp_path, monkeypatch):
    def raise_disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", raise_disk_full)
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        assert main(csv_command(pictures, tmp_path / name)) == 1
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_dataset_that_replaces_linked_pictures_does_not_change_them(pictures, tmp_path):
    dataset = tmp_path / "made"
    for name in ("scene-00000.jpg", "scene-00001.jpg"):
        (pictures / "images" / name).write_bytes(JPEG)
    (pictures / "captions.csv").write_text(
        "image_id,caption\nscene-00000.jpg,a\nscene-00001.jpg,b\n"
    )
    assert main(csv_command(pictures, dataset)) == 0
    assert os.path.samefile(
        dataset / "images" / "scene-00000.jpg", pictures / "images" / "scene-00000.jpg"
    )
    sample.build(dataset, images=30)
    assert (pictures / "images" / "scene-00000.jpg").read_bytes() == JPEG
    assert is_built(dataset, sample.options(30))


def test_a_dataset_of_an_earlier_version_is_read_but_not_replaced(tmp_path, capsys):
    sample.build(tmp_path / "made", images=30)
    (tmp_path / "made" / outputs.MARKER).unlink()
    assert is_built(tmp_path / "made", sample.options(30))
    before = snapshot(tmp_path)
    command = ["dataset", "sample", "--images", "40", "--output", f"{tmp_path}/made"]
    assert_refused(command, capsys, "earlier version", "name another folder")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "damage",
    ["{}\n", "", "nonsense\n", '{"made_by": "captioner", "kind": "model", "format_version": 1}\n'],
)
def test_a_damaged_marker_or_one_of_another_kind_is_refused(tmp_path, capsys, damage):
    sample.build(tmp_path / "made", images=30)
    (tmp_path / "made" / outputs.MARKER).write_text(damage)
    before = snapshot(tmp_path)
    assert_refused(
        ["dataset", "sample", "--images", "40", "--output", f"{tmp_path}/made"],
        capsys,
        "--output",
        "name another",
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "path", ["../precious.txt", "/etc/hostname", "images/../../precious.txt", ".", "a//b", ""]
)
def test_a_marker_that_names_files_outside_its_folder_is_refused(tmp_path, capsys, path):
    (tmp_path / "precious.txt").write_text("mine")
    sample.build(tmp_path / "made", images=30)
    with (tmp_path / "made" / outputs.MARKER).open("a") as marker:
        marker.write(json.dumps(path) + "\n")
    command = ["dataset", "sample", "--images", "40", "--output", f"{tmp_path}/made"]
    assert_refused(command, capsys, "damaged")
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_link_in_place_of_a_file_of_the_marker_is_kept(tmp_path, capsys):
    dataset = tmp_path / "made"
    precious = tmp_path / "precious.jpg"
    precious.write_bytes(b"mine")
    sample.build(dataset, images=40)
    # The next dataset has no file for the first, and a new file for the second.
    for name in ("scene-00035.jpg", "scene-00003.jpg"):
        (dataset / "images" / name).unlink()
        (dataset / "images" / name).symlink_to(precious)
    assert_refused(
        ["dataset", "sample", "--images", "30", "--output", str(dataset)],
        capsys,
        "'images/scene-00003.jpg'",
    )
    (dataset / "images" / "scene-00003.jpg").unlink()
    sample.build(dataset, images=30)
    assert (dataset / "images" / "scene-00035.jpg").is_symlink()
    assert precious.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "kind", ["a file", "below a file", "a device", "a dangling link", "a loop"]
)
def test_a_path_that_cannot_be_a_folder_is_refused_in_one_line(tmp_path, capsys, kind):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    output = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "out",
        "a device": Path("/dev/null"),
        "a dangling link": tmp_path / "dangling",
        "a loop": tmp_path / "loop" / "out",
    }[kind]
    before = snapshot(tmp_path)
    assert_refused(
        ["dataset", "sample", "--images", "30", "--output", str(output)],
        capsys,
        "--output",
        "name another",
    )
    images = tmp_path / "images"
    images.mkdir()
    assert_refused(
        ["extract", "--images", str(images), "--output", str(output)], capsys, str(output)
    )
    features = ["--dataset", str(images), "--features", str(images)]
    assert_refused(["train", *features, "--output", str(output)], capsys, "--output")
    assert_refused(["train-encoder", *features, "--output", str(output)], capsys, "--output")
    assert_refused(["export", "--model", "pretrained", "--output", str(output)], capsys, "--output")
    assert_refused(["run-local", "--out", str(output)], capsys, "--out")
    assert_unchanged(before, snapshot(tmp_path))


def test_a_folder_that_the_system_refuses_is_reported_in_one_line(tmp_path, capsys):
    assert_refused(
        ["dataset", "sample", "--images", "30", "--output", "/proc/out"], capsys, "'/proc/out'"
    )
    assert_refused(
        ["extract", "--images", str(tmp_path), "--output", "/proc/out"], capsys, "/proc/out"
    )


def test_linking_a_split_does_not_replace_a_users_folder(tmp_path):
    sample.build(tmp_path / "dataset", images=30)
    folder = tmp_path / "new_images"
    folder.mkdir()
    (folder / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(CaptionerError, match="did not make"):
        link_split(tmp_path / "dataset", folder, ["scene-00009.jpg"])
    assert [path.name for path in folder.iterdir()] == ["mine.jpg"]


# --- Models


@pytest.mark.parametrize("command", ["train", "train-encoder"])
@pytest.mark.parametrize("output", ["folder", "."])
def test_training_does_not_replace_a_users_folder(tmp_path, capsys, monkeypatch, command, output):
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    monkeypatch.chdir(tmp_path / "folder" if output == "." else tmp_path)
    before = snapshot(tmp_path)
    inputs = ["--dataset", str(tmp_path / "x"), "--features", str(tmp_path / "y")]
    assert_refused([command, *inputs, "--output", output], capsys, "such as 'sub'", "did not make")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["dataset", "features"])
def test_training_does_not_replace_its_inputs(tmp_path, capsys, name):
    for folder in ("dataset", "features"):
        (tmp_path / folder).mkdir()
    inputs = ["--dataset", f"{tmp_path}/dataset", "--features", f"{tmp_path}/features"]
    for command in ("train", "train-encoder"):
        assert_refused(
            [command, *inputs, "--output", f"{tmp_path}/{name}"],
            capsys,
            f"--{name}",
            "which is read",
        )


def test_training_does_not_use_a_users_folder_for_checkpoints(tmp_path, capsys):
    (tmp_path / "model.training").mkdir()
    (tmp_path / "model.training" / "checkpoint.npz").write_text("mine")
    command = ["train", "--dataset", "x", "--features", "y", "--output", f"{tmp_path}/model"]
    assert_refused(command, capsys, "model.training", "did not make")
    assert (tmp_path / "model.training" / "checkpoint.npz").read_text() == "mine"


def test_a_model_is_exported_only_into_a_new_or_empty_folder(model_dir, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "config.json").write_text("mine")
    with pytest.raises(CaptionerError, match="did not make"):
        export_model([model_dir], str(tmp_path / "used"))
    assert (tmp_path / "used" / "config.json").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export_model([model_dir], str(tmp_path / "empty"))
    assert load_model(str(tmp_path / "empty")).model_id
    with pytest.raises(CaptionerError, match="exists"):
        export_model([model_dir], str(tmp_path / "empty"))
    with pytest.raises(CaptionerError, match="is read"):
        export_model([model_dir], model_dir)


# --- run-local


@pytest.mark.parametrize(
    "folder",
    ["model", "model.training", "new_images", "datasets/sample", "runs/new", "runs/dataset"],
)
def test_run_local_checks_all_its_folders_before_the_work_starts(
    tmp_path, capsys, monkeypatch, folder
):
    mine = tmp_path / "project" / folder
    mine.mkdir(parents=True)
    (mine / "mine.txt").write_text("mine")
    monkeypatch.setattr(
        "captioner_core.weights.asset_cache.ensure",
        lambda asset: pytest.fail("the work has started"),
    )
    before = snapshot(tmp_path)
    assert_refused(
        ["run-local", "--out", f"{tmp_path}/project"], capsys, "'mine.txt'", "did not make"
    )
    assert snapshot(tmp_path) == before


# --- Single files


def test_the_inputs_of_similar_are_not_replaced(tmp_path, capsys):
    sample.build(tmp_path / "data", images=30)
    query = tmp_path / "q.png"
    index = tmp_path / "data" / "captions.parquet"
    query.write_bytes(encoded(picture(), "PNG"))
    os.link(query, tmp_path / "hard.png")
    (tmp_path / "soft.png").symlink_to(query)
    before = snapshot(tmp_path)
    for output in ("q.png", "./q.png", "hard.png", "soft.png"):
        command = ["similar", str(query), "--index", str(index), "--output", f"{tmp_path}/{output}"]
        assert_refused(command, capsys, "--output", "which is read")
    assert_refused(
        ["similar", str(query), "--index", str(index), "--output", str(index)], capsys, "--index"
    )
    assert snapshot(tmp_path) == before


COMMANDS_FOR_FILES = {
    "similar": lambda inputs, out: [
        "similar",
        inputs / "q.png",
        "--index",
        inputs / "captions.parquet",
        "--output",
        out,
    ],
    "thresholds": lambda inputs, out: [
        "thresholds",
        "--captions",
        inputs / "captions.parquet",
        "--output",
        out,
    ],
    "calibrate": lambda inputs, out: [
        "calibrate",
        "--encoder",
        "tfidf",
        "--dataset",
        inputs,
        "--output",
        out,
    ],
    "evaluate": lambda inputs, out: [
        "evaluate",
        "--model",
        "pretrained",
        "--dataset",
        inputs,
        "--output",
        out,
    ],
}


@pytest.mark.parametrize("command", COMMANDS_FOR_FILES)
def test_a_file_that_captioner_did_not_make_is_not_replaced(tmp_path, capsys, command):
    """A folder, a device, a link and a path below a file are refused as well."""
    names = {"similar": "a.png", "thresholds": "a.svg", "calibrate": "a.json", "evaluate": "a.json"}
    name = names[command]
    mine = tmp_path / name
    mine.write_bytes(encoded(picture(), "PNG") if name == "a.png" else b'{"mine": 1}')
    (tmp_path / f"folder-{name}").mkdir()
    (tmp_path / f"link-{name}").symlink_to(mine)
    (tmp_path / f"dangling-{name}").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / f"pipe-{name}")
    before = snapshot(tmp_path)
    for output, expected_part in (
        (mine, "captioner did not make it"),
        (tmp_path / f"folder-{name}", "is a folder"),
        (tmp_path / f"link-{name}", "is a link"),
        (tmp_path / f"dangling-{name}", "is a link"),
        (tmp_path / f"pipe-{name}", "is a device or a special file"),
        (mine / name, "lies below"),
    ):
        assert_refused(
            COMMANDS_FOR_FILES[command](tmp_path / "inputs", output),
            capsys,
            "--output",
            expected_part if output != mine / name else "",
        )
    assert snapshot(tmp_path) == before


def test_a_picture_made_by_captioner_is_replaced(tmp_path):
    query = tmp_path / "q.png"
    query.write_bytes(encoded(picture(), "PNG"))
    assert not outputs.is_own_picture(query.read_bytes()[:200])
    found = SimilarImages(str(query), "a dog", [], [], None)
    write_picture(found, str(tmp_path / "similar.png"))
    first = (tmp_path / "similar.png").read_bytes()
    assert outputs.is_own_picture(first[:200])
    with Image.open(tmp_path / "similar.png") as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text == {"Software": "captioner"}
    write_picture(found, str(tmp_path / "similar.png"))
    with pytest.raises(CaptionerError, match="did not make"):
        write_picture(found, str(query))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q.png", "similar.png"]


@pytest.mark.parametrize("name", ["plot.svg", "plot.png", "PLOT.PNG"])
def test_a_plot_made_by_captioner_is_replaced(tmp_path, name):
    from captioner_core.analysis.thresholds import ThresholdRow, check_plot, draw_thresholds

    target = str(tmp_path / name)
    for _ in range(2):
        check_plot(target, {})
        draw_thresholds([ThresholdRow(0.9, 1.0, 0.8, 0.5)], target)
    assert outputs.is_own_picture(Path(target).read_bytes()[:4096])
    with pytest.raises(CaptionerError, match="must end in"):
        check_plot(str(tmp_path / "plot.txt"), {})


# --- Runs


def extract(photos, root, **changes):
    """Extracts the features of a folder with the fake backbone, and returns the manifest."""
    options = ExtractOptions(images=str(photos), output=str(root), **changes)
    return extract_features.run(options, load=FakeBackbone)


def test_a_run_is_not_replaced_by_an_empty_one(photos, tmp_path, capsys, load_models, model_dir):
    """This happens if the network share with the images is not mounted for a moment."""
    extract(photos, tmp_path, run_id="extracted")
    options = CaptionOptions(images=str(photos), output=str(tmp_path), model=model_dir)
    caption_images.run(options, load=load_models)
    before = snapshot(tmp_path / "runs")
    photos.rename(tmp_path / "unmounted")
    photos.mkdir()
    for run_id in ("run", "extracted"):
        job = "caption" if run_id == "run" else "extract"
        command = [job, "--images", str(photos), "--output", str(tmp_path), "--run-id", run_id]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(caption_images, "resolve_model", lambda _: model_dir)
            assert_refused(command, capsys, str(photos), "--allow-empty")
            assert_refused([*command, "--only-failures"], capsys, "--allow-empty")
    assert snapshot(tmp_path / "runs") == before
    assert verify(f"{tmp_path}/runs/run") == []
    assert (
        extract(photos, tmp_path, run_id="extracted", allow_empty=True)["counts"]["features"] == 0
    )


def test_a_missing_images_folder_leaves_the_run_unchanged(photos, tmp_path, capsys):
    extract(photos, tmp_path)
    before = snapshot(tmp_path / "runs")
    assert_refused(
        ["extract", "--images", f"{tmp_path}/missing", "--output", str(tmp_path)],
        capsys,
        "is not a folder",
    )
    assert snapshot(tmp_path / "runs") == before
    assert_refused(
        ["extract", "--images", f"{tmp_path}/missing", "--output", f"{tmp_path}/new"],
        capsys,
        "is not a folder",
    )
    assert not (tmp_path / "new" / "runs" / "run").exists()


def test_the_output_may_be_a_used_folder_inside_the_images(photos, tmp_path):
    (photos / "out").mkdir()
    (photos / "out" / "letter.txt").write_text("mine")
    before = snapshot(photos)
    extract(photos, photos / "out")
    extract(photos, photos / "out")
    assert_unchanged(before, snapshot(photos))


def test_a_users_files_in_a_run_are_kept(photos, tmp_path):
    extract(photos, tmp_path)
    run_dir = tmp_path / "runs" / "run"
    write_report(str(run_dir))
    for name in (
        "notes.txt",
        "features/readme.md",
        "report/screenshot.png",
        "_staging/mine.txt",
        "failures/x/y.parquet",
    ):
        (run_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (run_dir / name).write_text("mine")
    (run_dir / "manifest.json.tmp").write_text("mine")
    extract(photos, tmp_path)
    names = (
        "notes.txt",
        "features/readme.md",
        "report/screenshot.png",
        "_staging/mine.txt",
        "manifest.json.tmp",
    )
    assert {(run_dir / name).read_text() for name in (*names, "failures/x/y.parquet")} == {"mine"}
    assert not (run_dir / "report" / "index.html").exists(), (
        "the report shows rows that no longer exist"
    )


@pytest.mark.parametrize("name", ["features/mine.parquet", "captions/part-00000.parquet"])
def test_a_users_file_that_would_be_read_as_rows_is_named(photos, tmp_path, capsys, name):
    extract(photos, tmp_path)
    mine = tmp_path / "runs" / "run" / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    before = snapshot(tmp_path / "runs")
    assert_refused(
        ["extract", "--images", str(photos), "--output", str(tmp_path)],
        capsys,
        name,
        "did not make",
    )
    assert snapshot(tmp_path / "runs") == before


@pytest.mark.parametrize(
    "name",
    [
        "runs",
        "runs/run",
        "runs/run/features",
        "runs/run/_staging",
        "runs/run/features/part-00000.parquet",
    ],
)
def test_a_link_in_place_of_a_folder_of_a_run_is_not_followed(photos, tmp_path, capsys, name):
    root = tmp_path / "root"
    elsewhere = tmp_path / "elsewhere"
    extract(photos, root)
    path = root / name
    if path.exists():
        path.rename(elsewhere)
    else:
        elsewhere.mkdir()
        (elsewhere / "mine.txt").write_text("mine")
    path.symlink_to(elsewhere)
    before = snapshot(tmp_path)
    assert_refused(
        ["extract", "--images", str(photos), "--output", str(root)],
        capsys,
        name.removeprefix("runs/run/"),
    )
    assert snapshot(tmp_path) == before


def test_only_the_known_files_of_an_earlier_version_are_replaced(photos, tmp_path):
    run_dir = tmp_path / "runs" / "run"
    extract(photos, tmp_path)
    write_report(str(run_dir))
    (run_dir / outputs.MARKER).unlink()
    (run_dir / "features" / "notes.txt").write_text("mine")
    extract(photos, tmp_path)
    assert (run_dir / "features" / "notes.txt").read_text() == "mine"
    assert storage.read_table(f"{run_dir}/features").num_rows == 12
    assert not (run_dir / "report").exists()


@pytest.mark.parametrize("content", ['{"run_id": "run"}', "[]", "nonsense", "{}"])
def test_a_manifest_of_another_program_is_not_taken_for_a_run(photos, tmp_path, capsys, content):
    run_dir = tmp_path / "runs" / "run"
    (run_dir / "captions").mkdir(parents=True)
    (run_dir / "manifest.json").write_text(content)
    (run_dir / "captions" / "part-00000.parquet").write_text("mine")
    before = snapshot(tmp_path)
    assert_refused(
        ["extract", "--images", str(photos), "--output", str(tmp_path)], capsys, "did not make"
    )
    assert snapshot(tmp_path) == before


def test_inputs_inside_the_replaced_run_are_refused(
    photos, tmp_path, capsys, load_models, model_dir
):
    """No input of a stage may be in the run whose files the stage replaces."""
    for run_id in ("one", "two"):
        options = CaptionOptions(
            images=str(photos), output=str(tmp_path), run_id=run_id, model=model_dir
        )
        caption_images.run(options, load=load_models)
    one, two = (RunLayout(str(tmp_path), run_id) for run_id in ("one", "two"))
    before = snapshot(tmp_path / "runs")
    into_two = ["--output", str(tmp_path), "--run-id", "two"]
    match_into_two = [*into_two, "--encoder", "tfidf"]
    match = ["match", "--captions", one.table("captions"), "--index", two.table("captions")]
    assert_refused([*match, *match_into_two], capsys, "--index", "would be replaced")
    both = ["--captions", one.table("captions"), "--captions", two.table("captions")]
    match = ["match", *both, "--index", one.table("captions")]
    assert_refused([*match, *match_into_two], capsys, "--captions", "would be replaced")
    inside = Path(two.run_dir, "more")
    shutil.copytree(photos, inside)
    before |= snapshot(inside)
    for job in ("extract", "run"):
        assert_refused([job, "--images", str(inside), *into_two], capsys, "--images")
    model = shutil.copytree(model_dir, inside / "model")
    command = ["caption", "--images", str(photos), "--model", str(model), *into_two]
    assert_refused(command, capsys, "--model")
    assert_unchanged(before, snapshot(tmp_path / "runs"))


def test_a_run_may_match_its_own_captions_by_any_path(
    photos, tmp_path, load_models, model_dir, monkeypatch
):
    caption_images.run(
        CaptionOptions(images=str(photos), output=str(tmp_path), model=model_dir), load=load_models
    )
    run = RunLayout(str(tmp_path), "run")
    monkeypatch.chdir(tmp_path)
    captions = ("runs/../runs/run/captions",)
    match_captions.run(
        MatchOptions(captions=captions, index=captions, output=str(tmp_path), encoder="tfidf")
    )
    assert set(commits.read_manifest(run.run_dir)["stages"]) == {layout.CAPTION, layout.MATCH}
    assert verify(run.run_dir) == []


def test_a_users_report_is_not_replaced(photos, tmp_path, capsys):
    extract(photos, tmp_path)
    page = tmp_path / "runs" / "run" / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("mine")
    assert_refused(["report", f"{tmp_path}/runs/run"], capsys, "report/index.html")
    assert_refused(
        ["run", "--images", str(photos), "--output", str(tmp_path)], capsys, "report/index.html"
    )
    assert page.read_text() == "mine"


# --- The cache and the folder of models


def test_a_users_folder_in_the_cache_is_not_replaced(tmp_path, monkeypatch):
    from captioner_core.weights.asset_cache import ensure
    from captioner_core.weights.assets import XCEPTION

    monkeypatch.setenv("CAPTIONER_CACHE", str(tmp_path))
    mine = tmp_path / XCEPTION.name
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    with pytest.raises(CaptionerError, match=r"thesis\.tex"):
        ensure(XCEPTION)
    assert (mine / "thesis.tex").read_text() == "mine"


def test_a_current_json_of_another_program_is_not_replaced(tmp_path, capsys, model_dir):
    shutil.copytree(model_dir, tmp_path / "new")
    (tmp_path / "current.json").write_text('{"version": 3}')
    assert_refused(["promote", "--models", str(tmp_path), "--model", "new"], capsys, "current.json")
    assert (tmp_path / "current.json").read_text() == '{"version": 3}'


# --- Commands that are killed, and other folders


def test_an_incomplete_last_line_of_a_marker_is_ignored(tmp_path):
    sample.build(tmp_path / "made", images=40)
    with (tmp_path / "made" / outputs.MARKER).open("a") as marker:
        marker.write('"images/mine')
    (tmp_path / "made" / "images" / "mine").write_text("mine")
    sample.build(tmp_path / "made", images=30)
    assert (tmp_path / "made" / "images" / "mine").read_text() == "mine"
    assert is_built(tmp_path / "made", sample.options(30))


def test_a_dataset_may_be_made_in_other_folders(pictures, tmp_path):
    """Missing, empty, marked and linked folders may be written, even inside the pictures."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    source = {"csv_file": pictures / "captions.csv", "images": pictures / "images"}
    for output in (
        tmp_path / "a" / "b",
        tmp_path / "empty",
        tmp_path / "link",
        pictures / "images" / "made",
    ):
        assert csv_captions.build(output, **source).captions == 2
        assert csv_captions.build(output, **source).captions == 2


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs chattr")
def test_a_read_only_folder_in_an_output_is_reported_in_one_line(tmp_path, capsys):
    dataset = tmp_path / "made"
    sample.build(dataset, images=40)
    if subprocess.run(["chattr", "+i", dataset / "images"], capture_output=True).returncode:
        pytest.skip("this file system has no immutable folders")
    try:
        before = snapshot(dataset, but=[dataset / outputs.MARKER])
        assert_refused(
            ["dataset", "sample", "--images", "30", "--output", str(dataset)],
            capsys,
            "cannot be written to",
        )
        assert snapshot(dataset, but=[dataset / outputs.MARKER]) == before
    finally:
        subprocess.run(["chattr", "-i", dataset / "images"], check=True)
