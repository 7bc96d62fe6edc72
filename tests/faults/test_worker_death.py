"""A worker process is killed in the middle of a job on one machine.

The job must end with one line and without a commit, and the next run must equal an undisturbed one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.faults.forks import make_images
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
TWO_WORKERS = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")


def extract(images, root, *options):
    """Starts the extract job and returns its process, whose stderr is a pipe."""
    command = [
        sys.executable,
        "-m",
        "captioner_cli",
        "extract",
        f"--images={images}",
        f"--output={root}",
    ]
    return subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)


def test_a_killed_worker_fails_the_job_and_the_next_run_completes(tmp_path):
    images = make_images(tmp_path / "images", 400, 1)
    run = RunLayout(str(tmp_path / "out"), "run")
    undisturbed = RunLayout(str(tmp_path / "undisturbed"), "run")
    with extract(images, run.root, *TWO_WORKERS) as job:
        for line in job.stderr:
            if match := re.search(r"loaded Xception in process (\d+)", line):
                time.sleep(1)  # until it works on the first images
                os.kill(int(match[1]), signal.SIGKILL)
                break
        last_line = job.stderr.read().splitlines()[-1]
    assert job.returncode == 1
    assert "error: the job failed on FnApiRunner" in last_line
    assert "run it again to complete" in last_line
    assert not os.path.exists(run.manifest)
    for root, options in ((run.root, TWO_WORKERS), (undisturbed.root, ())):
        with extract(images, root, *options) as job:
            log = job.stderr.read()
        assert job.returncode == 0, log[-2000:]
    assert verify(run.run_dir) == []
    assert_same_tables(run.run_dir, undisturbed.run_dir, (layout.FEATURES, layout.FAILURES))
