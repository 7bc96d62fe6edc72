"""A clock that jumps, and files from the future: what was seen is told by bytes, never by time."""

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
    run = RunLayout(str(root), "run")
    caption_images.run(CaptionOptions(images=str(images), output=run.root, model=model), load=load)
    captions = run.table("captions")
    match_captions.run(MatchOptions(captions=(captions,), index=(captions,), output=run.root))
    assert verify(run.run_dir) == []
    return run.run_dir


def set_times(folder, at_s):
    for path in folder.rglob("*"):
        os.utime(path, (at_s, at_s))


@pytest.mark.skipif(not LIBFAKETIME, reason="libfaketime is not installed")
def test_a_clock_that_jumps_while_a_run_is_made(tmp_path):
    """By years, back and forth, many times a second, for all processes of the job."""
    images = make_images(tmp_path / "images", 100, 1)
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {
        **{
            "LD_PRELOAD": str(LIBFAKETIME[0]),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_NO_CACHE": "1",
        },
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # which no setting of a clock moves
    }
    jumps = random.Random(1)
    for name, faked in (("undisturbed", {}), ("disturbed", environment)):
        command = [
            sys.executable,
            "-m",
            "captioner_cli",
            "extract",
            f"--images={images}",
            f"--output={tmp_path / name}",
        ]
        with subprocess.Popen(
            command, env={**os.environ, **faked}, stderr=subprocess.PIPE, text=True
        ) as job:
            while job.poll() is None:
                (tmp_path / "new").write_text(f"{jumps.uniform(-TEN_YEARS_S, TEN_YEARS_S):+.0f}")
                (tmp_path / "new").replace(clock)
                time.sleep(0.1)
            assert job.returncode == 0, job.stderr.read()
    run = tmp_path / "disturbed" / "runs" / "run"
    assert verify(str(run)) == []
    tables = (layout.FEATURES, layout.FAILURES)
    assert_same_tables(str(run), str(tmp_path / "undisturbed" / "runs" / "run"), tables)


@pytest.mark.parametrize(
    "run_at_s", [TEN_YEARS_S, 3 * TEN_YEARS_S + 2_000_000_000], ids=["past", "future"]
)
def test_a_run_made_at_another_time_is_brought_up_to_date(
    photos,
    model_dir,
    load_models,
    tmp_path,
    run_at_s,
):
    """What changed since bears a time from before it, or one long gone by."""
    root = tmp_path / "root"
    caption_and_match(photos, root, model_dir, load_models)
    changed = photos / "red" / "picture 0.png"
    before = changed.stat()
    Image.new("RGB", (60, 40), "purple").save(changed)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync and unzip restore it
    set_times(root, run_at_s)
    again = caption_and_match(photos, root, model_dir, load_models)
    assert_same_tables(again, caption_and_match(photos, tmp_path / "fresh", model_dir, load_models))
