"""``captioner run-local`` from end to end, with the real Xception and a real training.

One run, whose images are drawn scenes, is shared by most tests. They check its output, its
captions and matches against the objects drawn, what a second call repeats, and, in runs of
their own, a folder of difficult files and interruptions at several moments.
"""

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
from captioner_core.datasets.sample_drawing import OBJECTS
from captioner_core.runs.commits import read_manifest
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from tests.image_files import CAPTION, PASSED_OVER, make_hostile_folder
from tests.same_tables import assert_same_tables, rows
from tests.scenes import names_both_objects

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

RUN_LOCAL = [sys.executable, "-m", "captioner_cli", "run-local"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the folder that ``make run-local`` has filled, and what it printed."""
    root = tmp_path_factory.mktemp("run-local")
    done = subprocess.run(
        [*RUN_LOCAL, "--out", str(root)], capture_output=True, text=True, timeout=1400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout


def test_the_last_lines_name_every_output_and_show_some_matches(finished):
    root, printed = finished
    lines = printed.splitlines()
    assert sum("  ~  " in line for line in lines) == 5, "five matches are shown"
    named = [line.split()[-1] for line in lines[-(len(layout.TABLES) + 5) :]]
    assert all(Path(path).exists() for path in named)
    for path in (
        *(f"runs/new/{table}" for table in layout.TABLES),
        "runs/new/manifest.json",
        "runs/new/report/index.html",
    ):
        assert str(root / path) in named
    assert "ok" in lines[-1]


def test_both_runs_pass_verification(finished, capsys):
    root, _ = finished
    for run in ("dataset", "new"):
        assert verify(str(root / "runs" / run)) == []
    assert main(["verify", str(root / "runs" / "new")]) == 0


def test_captions_of_test_images_name_the_objects_drawn(finished):
    """At least 80% of the captions name both kinds of object in the picture.

    The pictures are of the test split, which neither training nor model selection has used.
    """
    captions = rows(finished[0] / "runs" / "new", "captions")
    numbers = [
        int(image_id.removeprefix("scene-").removesuffix(".jpg")) for image_id in captions.image_id
    ]
    assert {sample.split_of(number) for number in numbers} == {"test"}
    assert len(numbers) == sample.DEFAULT_IMAGES // 10
    are_right = [
        names_both_objects(caption, sample.make_scene(number))
        for number, caption in zip(numbers, captions.caption, strict=True)
    ]
    assert np.mean(are_right) >= 0.8


def test_matched_captions_share_an_object_more_often_than_random_pairs(finished):
    """They name a common kind of object more than twice as often.

    No human caption of the test split is among the matches, since the queries are of that split.
    """
    matches = rows(finished[0] / "runs" / "new", "matches")
    assert len(matches) > 20

    def named_objects(captions):
        words = captions.str.lower().str.split()
        return [{word.rstrip("s") for word in caption} & set(OBJECTS) for caption in words]

    def share_in_common(queries, others):
        pairs = zip(named_objects(queries), named_objects(others), strict=True)
        return np.mean([bool(query & other) for query, other in pairs])

    shuffled = matches.match_caption.sample(frac=1, random_state=0)
    at_random = share_in_common(matches.query_caption, shuffled)
    assert share_in_common(matches.query_caption, matches.match_caption) > 2 * at_random
    assert matches.feature_score.notna().all(), "both the dataset and the new images have features"
    human = matches[matches.match_source == "human"]
    assert not {sample.split_of(int(i[6:11])) for i in human.match_image_id} & {"test"}


def test_a_second_call_reuses_the_model_and_writes_the_same_rows(finished):
    root, _ = finished
    written_at = (root / "model" / "weights.safetensors").stat().st_mtime_ns
    before = {table: rows(root / "runs" / "new", table) for table in layout.TABLES}
    done = subprocess.run(
        [*RUN_LOCAL, "--out", str(root)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "this training is done" in done.stderr
    assert (root / "model" / "weights.safetensors").stat().st_mtime_ns == written_at
    for table, old in before.items():
        new = rows(root / "runs" / "new", table)
        if table == "features":
            np.testing.assert_array_equal(
                np.stack(list(new.pop("feature"))), np.stack(list(old.pop("feature")))
            )
        pd.testing.assert_frame_equal(new, old, obj=table)


def test_every_difficult_file_becomes_a_caption_or_one_failure(finished, tmp_path, capsys):
    """Two runs, with batches of 1 and of 32 images, write the same rows."""
    root, _ = finished
    expected = make_hostile_folder(tmp_path / "in")
    command = [
        "run",
        f"--images={tmp_path / 'in'}",
        f"--model={root / 'model'}",
        f"--output={tmp_path / 'out'}",
        f"--index={root / 'datasets' / 'sample' / 'captions.parquet'}",
        "--threshold=0.8",
    ]
    assert main([*command, "--run-id=one", "--batch-size=32"]) == 0
    allowed = sum(outcome != CAPTION for outcome in expected.values()) - 1
    capsys.readouterr()
    assert main([*command, "--run-id=two", "--batch-size=1", f"--max-failures={allowed}"]) == 1
    assert f"{allowed + 1} images failed" in capsys.readouterr().err
    run_dir = tmp_path / "out" / "runs" / "one"
    captions = rows(run_dir, "captions")
    failures = rows(run_dir, "failures")
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
        "all tables are complete although too many images failed"
    )
    assert_same_tables(run_dir, tmp_path / "out" / "runs" / "two")


def _has_come(moment, start, log):
    """Returns whether a line is in the log, or whether a matching file was written since a time."""
    if isinstance(moment, str):
        return moment in log.read_text()
    return any(Path(path).stat().st_mtime > start for path in glob.glob(str(moment)))


def _interrupt(command, signal_number, moment, log):
    """Runs a command and sends it a signal at a moment; returns its exit code and its output."""
    start = time.time()
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
        while process.poll() is None and not _has_come(moment, start, log):
            time.sleep(0.02)
        process.send_signal(signal_number)
        code = process.wait(120)
    return code, log.read_text()


def test_an_interrupted_run_is_completed_by_the_next_call(tmp_path):
    """Each call is interrupted at a later stage; the last one completes, with each row once."""
    out = tmp_path / "out"
    new = out / "runs" / "new"
    options = ["--limit=30", "--epochs=3", "--threshold=0.5"]
    command = [*RUN_LOCAL, "--out", str(out), *options]
    staged = Path("_staging", "*", "listing")
    moments = [  # a file that is written, or a line of the log
        (signal.SIGKILL, out / "datasets" / "sample" / "images" / "scene-00010.jpg"),
        (signal.SIGKILL, out / "runs" / "dataset" / staged),
        (signal.SIGINT, out / "runs" / "dataset" / staged),
        (signal.SIGKILL, "epoch 1/3"),
        (signal.SIGINT, new / staged),
        (signal.SIGKILL, new / "captions"),  # captioned, but not matched yet
    ]
    for signal_number, moment in moments:
        code, output = _interrupt(command, signal_number, moment, tmp_path / "log")
        assert code in (-signal.SIGKILL, 130), f"{moment} was never reached: {output[-2000:]}"
        assert "Traceback" not in output
        assert not (new / "manifest.json").exists(), "an unfinished run has no manifest"
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert verify(str(new)) == []
    for table in ("captions", "features", "match_summary"):
        frame = rows(new, table)
        assert len(frame) == 3
        assert frame.iloc[:, 0].is_unique
    undisturbed = tmp_path / "undisturbed"
    command = [*RUN_LOCAL, "--out", str(undisturbed), *options]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    assert_same_tables(new, undisturbed / "runs" / "new")
