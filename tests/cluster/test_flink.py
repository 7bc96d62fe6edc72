"""The three jobs on a real Flink cluster give what they give on one machine, even if a part of it is lost."""

from __future__ import annotations

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
from tests.cluster.flink import REPOSITORY, FlinkCluster, Missing
from tests.same_tables import assert_same_tables

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]
# a piece of work is 256 images: two for each of two TaskManagers, and a bit
IMAGES = int(os.environ.get("CLUSTER_IMAGES") or 1030)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of photographs where Flickr8k is there, else of drawn scenes, and two broken files."""
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
    """The root of the same runs made on this machine."""
    root = str(tmp_path_factory.mktemp("local"))
    extract_features.run(ExtractOptions(images=str(images), output=root, run_id="features"))
    caption_images.run(CaptionOptions(images=str(images), output=root, run_id="captions"))
    match(root)
    return root


def match(root):
    captions = f"{root}/runs/captions/captions"
    return match_captions.run(
        MatchOptions(captions=(captions,), index=(captions,), output=root, run_id="matches")
    )


@pytest.fixture(scope="module")
def flink(tmp_path_factory):
    try:
        with FlinkCluster(tmp_path_factory.mktemp("cluster") / "flink") as cluster:
            yield cluster
    except Missing as missing:
        pytest.fail(str(missing), pytrace=False)


@contextlib.contextmanager
def started(flink: FlinkCluster, job: str, *arguments: str):
    """A job as a user starts it, from the folder of the sources, which come with it."""
    command = [sys.executable, "-m", f"beam_jobs.{job}", *arguments, *flink.arguments()]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()


def finish(process):
    printed, said = process.communicate(timeout=2400)
    assert process.returncode == 0, said[-4000:]
    return printed


def loads(flink, of):
    """How often each worker process has said that it loaded a model."""
    logs = "".join(
        flink.log(f"task-manager-{number}") for number in range(len(flink.task_managers))
    )
    said = [
        line.rsplit(" ", 1)[1] for line in logs.splitlines() if f"loaded {of} in process" in line
    ]
    return {process: said.count(process) for process in said}


def test_the_three_jobs_give_the_same_tables(flink, images, local, tmp_path):
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
        *(f"--captions={captions}", f"--index={captions}", f"--output={root}", "--run-id=matches"),
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
        assert sorted(loads(flink, model).values()) == [1, 1], (
            f"{model} once in each of two processes"
        )


def test_a_task_manager_killed_at_work_changes_nothing(flink, images, local, tmp_path):
    root = str(tmp_path)
    before = len(loads(flink, "CaptioningModels"))
    with started(
        flink, "caption_images", f"--images={images}", f"--output={root}", "--run-id=captions"
    ) as job:
        while len(loads(flink, "CaptioningModels")) < before + 2:  # both are about to caption
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


def test_a_cluster_that_is_not_there_is_one_line(flink, images, tmp_path):
    arguments = [one for one in flink.arguments() if not one.startswith("--flink_master")]
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
