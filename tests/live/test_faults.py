"""kill -9 at a job, at its task, at what watches the task and at the scheduler: the run ends green, each row once."""

from __future__ import annotations

import psutil
import pytest

from captioner_core.io import storage
from captioner_core.runs.verify import verify
from captioner_core.tables import layout
from captioner_core.tables.layout import RunLayout
from tests.live.airflow import wait_until

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(900)]
JOB = "beam_jobs.extract_features"


def begin(live, scenes, root, run_id):
    """A run of caption_folder whose extraction is at work; its id in Airflow, its layout and the job."""
    started = live.trigger(
        "caption_folder", {"images": str(scenes), "output": str(root), "run_id": run_id}
    )
    run = RunLayout(str(root), run_id)
    wait_until(lambda: storage.exists(run.owner), 120)
    (job,) = wait_until(lambda: live.processes(JOB, f"--run-id={run_id}"), 10)
    return started, run, job


def assert_each_image_once(run, scenes):
    images = sorted(path.name for path in scenes.iterdir())
    for name in (layout.FEATURES, layout.CAPTIONS):
        assert sorted(storage.read_table(run.table(name))["image_id"].to_pylist()) == images
    assert not verify(run.run_dir)


def victim(live, job, which):
    task = job.parent()
    return {
        "job": job,
        "task": task,
        "supervisor": task.parent(),
        "scheduler": live.processes("airflow scheduler")[0],
    }[which]


def test_what_is_killed_is_done_again_and_no_row_twice(live, scenes, tmp_path):
    """Three runs at once, since most of the time Airflow waits until it holds something for dead."""
    runs = []
    for which in ("job", "task", "supervisor"):
        started, run, job = begin(live, scenes, tmp_path / "out", which)
        victim(live, job, which).kill()
        job.wait(30)  # no orphan stays at work beside the retry
        runs.append((started, run))
    for started, run in runs:
        assert live.finish("caption_folder", started, 500) == "success", run.run_id
        assert live.tasks("caption_folder", started)["extract_features"]["try_number"] > 1
        assert_each_image_once(run, scenes)


def test_a_scheduler_that_is_killed_comes_back_to_a_run_that_ends_green(live, scenes, tmp_path):
    started, run, job = begin(live, scenes, tmp_path / "out", "scheduler")
    victim(live, job, "scheduler").kill()
    scheduler = live.start_scheduler()
    try:
        assert live.finish("caption_folder", started, 400) == "success"
        assert_each_image_once(run, scenes)
        assert not live.processes("beam_jobs.", f"--run-id={run.run_id}")
    finally:
        for process in (
            *psutil.Process(scheduler.pid).children(recursive=True),
            psutil.Process(scheduler.pid),
        ):
            process.kill()
        scheduler.wait()
