"""Wrong times change no row, because runs compare bytes and never times.

The tests let the clock jump during a run, and give a run's files times in the past and the future.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from beam_jobs import caption_images, match_captions
from captioner_core.options import CaptionOptions, MatchOptions
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.faults.forks import make_images
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
TEN_YEARS_S = 10 * 365 * 24 * 3600
LIBFAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def caption_and_match(images, root, model, load):
    """Captions images, matches the captions with each other, and returns the run's folder."""
    run = RunLayout(str(root), "run")
    caption_images.run(CaptionOptions(images=str(images), output=run.root, model=model), load=load)
    captions = run.table("captions")
    match_captions.run(MatchOptions(captions=(captions,), index=(captions,), output=run.root))
    assert verify(run.run_dir) == []
    return run.run_dir


def set_times(folder, at_s):
    """Sets the access and modification times of all files in a folder, in seconds since 1970."""
    for path in folder.rglob("*"):
        os.utime(path, (at_s, at_s))


@pytest.mark.skipif(not LIBFAKETIME, reason="libfaketime is not installed")
def test_a_clock_that_jumps_during_a_run_changes_no_row(tmp_path):
    """The clock of all processes of the job jumps by years, back and forth, ten times a second."""
    images = make_images(tmp_path / "images", 100, 1)
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        "LD_PRELOAD": str(LIBFAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        # Setting a system's clock does not move its monotonic clock.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    jumps = random.Random(1)
    for name, variables in (("undisturbed", {}), ("disturbed", environment)):
        command = [
            sys.executable,
            "-m",
            "captioner_cli",
            "extract",
            f"--images={images}",
            f"--output={tmp_path / name}",
        ]
        with subprocess.Popen(
            command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
        ) as job:
            while job.poll() is None:
                (tmp_path / "new").write_text(f"{jumps.uniform(-TEN_YEARS_S, TEN_YEARS_S):+.0f}")
                (tmp_path / "new").replace(clock)
                time.sleep(0.1)
            assert job.returncode == 0, job.communicate()[1]
    run = tmp_path / "disturbed" / "runs" / "run"
    assert verify(str(run)) == []
    tables = (layout.FEATURES, layout.FAILURES)
    assert_same_tables(str(run), str(tmp_path / "undisturbed" / "runs" / "run"), tables)


@pytest.mark.parametrize(
    "run_at_s", [TEN_YEARS_S, 3 * TEN_YEARS_S + 2_000_000_000], ids=["past", "future"]
)
def test_a_changed_image_is_found_although_the_times_say_otherwise(
    photos,
    model_dir,
    load_models,
    tmp_path,
    run_at_s,
):
    """The image keeps its time, and the run lies in the distant past or future."""
    root = tmp_path / "root"
    caption_and_match(photos, root, model_dir, load_models)
    changed = photos / "red" / "picture 0.png"
    times = changed.stat()
    Image.new("RGB", (60, 40), "purple").save(changed)
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))  # as rsync and unzip do
    set_times(root, run_at_s)
    updated = caption_and_match(photos, root, model_dir, load_models)
    assert_same_tables(
        updated, caption_and_match(photos, tmp_path / "fresh", model_dir, load_models)
    )
