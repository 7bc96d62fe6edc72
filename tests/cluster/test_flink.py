"""The three jobs on a real Flink cluster write the same tables as on one machine.

The cluster has two TaskManagers on this machine. One test kills one of them during a job.
"""

from __future__ import annotations

import collections
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beam_jobs import caption_images, extract_features, match_captions
from captioner_core.datasets import flickr8k, sample
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from tests.cluster.fetched import Missing
from tests.cluster.flink import REPOSITORY, FlinkCluster
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
# A worker takes 256 images at a time, so each of the two TaskManagers gets two or three portions.
IMAGES = int(os.environ.get("CLUSTER_IMAGES") or 1030)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Returns a folder of images and two broken files.

    The images are photographs if FLICKR8K_DIR is set, else drawn scenes.
    """
    folder = tmp_path_factory.mktemp("dataset") / "dataset"
    if source := os.environ.get("FLICKR8K_DIR"):
        flickr8k.build(folder, source=Path(source), cache=folder.parent, limit=IMAGES)
    else:
        sample.build(folder, images=IMAGES)
    (folder / "images" / "empty.jpg").touch()
    (folder / "images" / "no image.jpg").write_text("hello")
    return folder / "images"


@pytest.fixture(scope="module")
def local(images, tmp_path_factory):
    """Returns the root folder of the same runs on this machine, without a cluster."""
    root = str(tmp_path_factory.mktemp("local"))
    extract_features.run(ExtractOptions(images=str(images), output=root, run_id="features"))
    caption_images.run(CaptionOptions(images=str(images), output=root, run_id="captions"))
    match(root)
    return root


def match(root):
    """Matches the captions of a root's run with each other on this machine."""
    captions = f"{root}/runs/captions/captions"
    return match_captions.run(
        MatchOptions(captions=(captions,), index=(captions,), output=root, run_id="matches")
    )


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    """Returns a running cluster; fails if a program that it needs is missing."""
    try:
        with FlinkCluster(tmp_path_factory.mktemp("cluster") / "flink") as cluster:
            yield cluster
    except Missing as missing:
        pytest.fail(str(missing), pytrace=False)


@contextlib.contextmanager
def started(flink: FlinkCluster, job: str, *arguments: str):
    """Starts a job on the cluster as a user does, from the folder of the repository."""
    command = [sys.executable, "-m", f"beam_jobs.{job}", *arguments, *flink.arguments()]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()


def finish(process):
    """Waits until a job has succeeded."""
    _, log = process.communicate(timeout=2400)
    assert process.returncode == 0, log[-4000:]


def count_loads(flink, model):
    """Returns how often each worker process has loaded a model, according to its log."""
    logs = "".join(
        flink.log(f"task-manager-{number}") for number in range(len(flink.task_managers))
    )
    processes = [
        line.rsplit(" ", 1)[1] for line in logs.splitlines() if f"loaded {model} in process" in line
    ]
    return collections.Counter(processes)


def test_the_three_jobs_write_the_same_tables_as_on_one_machine(flink, images, local, tmp_path):
    root = str(tmp_path)
    with started(
        flink, "extract_features", f"--images={images}", f"--output={root}", "--run-id=features"
    ) as job:
        finish(job)
    with started(
        flink, "caption_images", f"--images={images}", f"--output={root}", "--run-id=captions"
    ) as job:
        finish(job)
    captions = f"{root}/runs/captions/captions"
    with started(
        flink,
        "match_captions",
        f"--captions={captions}",
        f"--index={captions}",
        f"--output={root}",
        "--run-id=matches",
    ) as job:
        finish(job)
    for run, tables in {
        "features": (layout.FEATURES, layout.FAILURES),
        "captions": (layout.FEATURES, layout.CAPTIONS, layout.FAILURES),
        "matches": (
            layout.MATCHES,
            layout.MATCH_SUMMARY,
            layout.CAPTION_GROUPS,
            layout.MATCH_INPUTS,
        ),
    }.items():
        assert verify(f"{root}/runs/{run}") == []
        assert_same_tables(f"{root}/runs/{run}", f"{local}/runs/{run}", tables)
    for model in ("Xception", "CaptioningModels"):
        assert sorted(count_loads(flink, model).values()) == [1, 1], (
            f"{model} once in each of two processes"
        )


def test_a_task_manager_killed_during_a_job_changes_no_row(flink, images, local, tmp_path):
    root = str(tmp_path)
    before = len(count_loads(flink, "CaptioningModels"))
    with started(
        flink, "caption_images", f"--images={images}", f"--output={root}", "--run-id=captions"
    ) as job:
        while (
            len(count_loads(flink, "CaptioningModels")) < before + 2
        ):  # until both start to caption
            assert job.poll() is None, job.communicate()[1][-4000:]
            time.sleep(0.2)
        time.sleep(3)
        assert flink.running()
        flink.kill_task_manager(1)
        finish(job)
    assert verify(f"{root}/runs/captions") == []
    assert_same_tables(
        f"{root}/runs/captions",
        f"{local}/runs/captions",
        (layout.FEATURES, layout.CAPTIONS, layout.FAILURES),
    )


def test_an_unreachable_cluster_is_an_error_of_one_line(flink, images, tmp_path):
    arguments = [
        argument for argument in flink.arguments() if not argument.startswith("--flink_master")
    ]
    command = [
        sys.executable,
        "-m",
        "beam_jobs.extract_features",
        f"--images={images}",
        f"--output={tmp_path}",
    ]
    done = subprocess.run(
        [*command, *arguments, "--flink_master=127.0.0.1:1"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the job failed" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "runs" / "run" / "manifest.json").exists()
