"""The whole way for real: rendered images, Xception, training, captions of images never seen, matches, report."""

from __future__ import annotations

import glob
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from captioner_cli.main import main
from captioner_core.datasets import sample
from captioner_core.datasets.scene import names_both_objects
from captioner_core.runs.commits import read_manifest
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from tests.image_files import CAPTION, PASSED_OVER, make_hostile_folder
from tests.same_tables import assert_same_tables, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RUN_LOCAL = [sys.executable, "-m", "captioner_cli", "run-local"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """What ``make run-local`` leaves behind, and what it printed."""
    root = tmp_path_factory.mktemp("run-local")
    done = subprocess.run(
        [*RUN_LOCAL, "--out", str(root)], capture_output=True, text=True, timeout=1400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout


def test_the_last_lines_name_every_output_and_show_rows(finished):
    root, printed = finished
    lines = printed.splitlines()
    assert sum("  ~  " in line for line in lines) == 5, "a few matches"
    named = [line.split()[-1] for line in lines[-(len(layout.TABLES) + 5) :]]
    assert all(Path(path).exists() for path in named)
    for path in (
        *(f"runs/new/{table}" for table in layout.TABLES),
        "runs/new/manifest.json",
        "runs/new/report/index.html",
    ):
        assert str(root / path) in named
    assert "ok" in lines[-1]


def test_the_run_keeps_every_invariant(finished, capsys):
    root, _ = finished
    for run in ("dataset", "new"):
        assert verify(str(root / "runs" / run)) == []
    assert main(["verify", str(root / "runs" / "new")]) == 0


def test_captions_of_unseen_images_name_the_right_things(finished):
    """Both kinds of object that a picture shows, for four of five pictures of the split that nothing was chosen by."""
    captions = rows(finished[0] / "runs" / "new", "captions")
    numbers = [
        int(image_id.removeprefix("scene-").removesuffix(".jpg")) for image_id in captions.image_id
    ]
    assert {sample.split_of(number) for number in numbers} == {"test"}
    assert len(numbers) == sample.DEFAULT_IMAGES // 10
    right = [
        names_both_objects(caption, sample.make_scene(number))
        for number, caption in zip(numbers, captions.caption, strict=True)
    ]
    assert np.mean(right) >= 0.8


def test_matches_are_of_the_same_things(finished):
    """They name a kind of object in common twice as often as pairs at random; none is of the query's own split."""
    matches = rows(finished[0] / "runs" / "new", "matches")
    assert len(matches) > 20

    def in_common(queries, others):
        things = [
            [{word.rstrip("s") for word in text.split()} & set(sample.OBJECTS) for text in side]
            for side in (queries.str.lower(), others.str.lower())
        ]
        return np.mean([bool(one & other) for one, other in zip(*things, strict=True)])

    at_random = in_common(
        matches.query_caption, matches.match_caption.sample(frac=1, random_state=0)
    )
    assert in_common(matches.query_caption, matches.match_caption) > 2 * at_random
    assert matches.feature_score.notna().all(), (
        "features of the dataset and of the new images are both known"
    )
    human = matches[matches.match_source == "human"]
    assert not {sample.split_of(int(i[6:11])) for i in human.match_image_id} & {"test"}


def test_a_second_call_goes_on_from_what_is_there(finished):
    root, _ = finished
    model_made = (root / "model" / "weights.npz").stat().st_mtime_ns
    before = {table: rows(root / "runs" / "new", table) for table in layout.TABLES}
    done = subprocess.run(
        [*RUN_LOCAL, "--out", str(root)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "this training is done" in done.stderr
    assert (root / "model" / "weights.npz").stat().st_mtime_ns == model_made
    for table, old in before.items():
        new = rows(root / "runs" / "new", table)
        if table == "features":
            np.testing.assert_array_equal(
                np.stack(new.pop("feature")), np.stack(old.pop("feature"))
            )
        pd.testing.assert_frame_equal(new, old, obj=table)


def test_a_folder_as_people_have_them(finished, tmp_path, capsys):
    """Every file is a caption or one failure row; the same rows from batches of 1 and of 32, and from two runs."""
    root, _ = finished
    expected = make_hostile_folder(tmp_path / "in")
    shared = [
        "--images",
        str(tmp_path / "in"),
        "--model",
        str(root / "model"),
        "--output",
        str(tmp_path / "out"),
    ]
    shared += [
        "--index",
        str(root / "datasets" / "sample" / "captions.parquet"),
        "--threshold",
        "0.8",
    ]
    assert main(["run", *shared, "--run-id", "one", "--batch-size", "32"]) == 0
    allowed = sum(outcome != CAPTION for outcome in expected.values()) - 1
    capsys.readouterr()
    assert (
        main(
            ["run", *shared, "--run-id", "two", "--batch-size", "1", "--max-failures", str(allowed)]
        )
        == 1
    )
    assert f"{allowed + 1} images failed" in capsys.readouterr().err
    run_dir = tmp_path / "out" / "runs" / "one"
    captions, failures = rows(run_dir, "captions"), rows(run_dir, "failures")
    assert set(captions.image_id) == {
        image_id for image_id, outcome in expected.items() if outcome == CAPTION
    }
    assert sorted([*captions.image_id, *failures.image_id]) == sorted(expected)
    for image_id, error_type, message in zip(
        failures.image_id, failures.error_type, failures.error_message, strict=True
    ):
        assert expected[image_id] in (None, error_type), image_id
        assert len(message) > 15
        assert "\n" not in message
    assert read_manifest(str(run_dir))["counts"]["files_passed_over"] == PASSED_OVER
    assert verify(str(run_dir)) == []
    assert verify(str(tmp_path / "out" / "runs" / "two")) == [], (
        "too many failures, and yet all was written"
    )
    assert_same_tables(run_dir, tmp_path / "out" / "runs" / "two")


def _reached(moment, start, log):
    if isinstance(moment, str):
        return moment in log.read_text()
    return any(Path(found).stat().st_mtime > start for found in glob.glob(str(moment)))


def test_cut_off_at_several_moments_and_run_again(tmp_path):
    """Cut off while it makes the dataset, extracts, trains, captions and matches: then it completes, no row twice."""
    out, new = tmp_path / "out", tmp_path / "out" / "runs" / "new"
    command = [
        *RUN_LOCAL,
        "--out",
        str(out),
        "--limit",
        "30",
        "--epochs",
        "3",
        "--threshold",
        "0.5",
    ]
    staged = Path("_staging", "*", "listing")
    moments = [  # a file that appears, or a line that is said
        (signal.SIGKILL, out / "datasets" / "sample" / "images" / "scene-00010.jpg"),
        (signal.SIGKILL, out / "runs" / "dataset" / staged),
        (signal.SIGINT, out / "runs" / "dataset" / staged),
        (signal.SIGKILL, "epoch 1/3"),
        (signal.SIGINT, new / staged),
        (signal.SIGKILL, new / "captions"),  # captioned, not matched
    ]
    for how, moment in moments:
        start = time.time()
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            while process.poll() is None and not _reached(moment, start, tmp_path / "log"):
                time.sleep(0.02)
            process.send_signal(how)
            code = process.wait(120)
        said = (tmp_path / "log").read_text()
        assert code in (-signal.SIGKILL, 130), f"{moment} was never reached: {said[-2000:]}"
        assert "Traceback" not in said
        assert not (new / "manifest.json").exists(), (
            "an unfinished run is not taken for a finished one"
        )
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert verify(str(new)) == []
    for table in ("captions", "features", "match_summary"):
        frame = rows(new, table)
        assert len(frame) == 3
        assert frame.iloc[:, 0].is_unique
    undisturbed = tmp_path / "undisturbed"
    again = [str(undisturbed) if argument == str(out) else argument for argument in command]
    subprocess.run(again, check=True, capture_output=True, timeout=600)
    assert_same_tables(new, undisturbed / "runs" / "new")
