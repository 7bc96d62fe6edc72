"""A run succeeds, with each row once, although a job, its task or a part of Airflow is killed.

The tests run real jobs in a real Airflow, kill a process during the extraction, and check the
tables after Airflow's retry.
"""

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


def start_extraction(live, scenes, root, run_id):
    """Starts a run and waits for its extraction; returns its Airflow id, its layout and the job."""
    started = live.trigger(
        "caption_folder", {"images": str(scenes), "output": str(root), "run_id": run_id}
    )
    run = RunLayout(str(root), run_id)
    wait_until(lambda: storage.exists(run.owner), 300)
    (job,) = wait_until(lambda: live.processes(JOB, f"--run-id={run_id}"), 10)
    return started, run, job


def assert_each_image_once(run, scenes):
    """Checks that each table of a run has one row for each image."""
    images = sorted(path.name for path in scenes.iterdir())
    for name in (layout.FEATURES, layout.CAPTIONS):
        assert sorted(storage.read_table(run.table(name))["image_id"].to_pylist()) == images
    assert not verify(run.run_dir)


def find_process(live, job, role):
    """Returns the process with a role in the execution of a job."""
    task = job.parent()
    return {
        "job": job,
        "task": task,
        "supervisor": task.parent(),
        "scheduler": live.processes("airflow scheduler")[0],
    }[role]


def test_killed_work_is_repeated_without_duplicate_rows(live, scenes, tmp_path):
    """Three runs at once save time, since Airflow mostly waits until it declares a process dead."""
    runs = []
    for role in ("job", "task", "supervisor"):
        started, run, job = start_extraction(live, scenes, tmp_path / "out", role)
        find_process(live, job, role).kill()
        job.wait(30)  # no orphan may run beside the retry
        runs.append((started, run))
    for started, run in runs:
        assert live.finish("caption_folder", started, 500) == "success", run.run_id
        assert live.tasks("caption_folder", started)["extract_features"]["try_number"] > 1
        assert_each_image_once(run, scenes)


def test_a_run_succeeds_after_its_scheduler_was_killed_and_replaced(live, scenes, tmp_path):
    started, run, job = start_extraction(live, scenes, tmp_path / "out", "scheduler")
    find_process(live, job, "scheduler").kill()
    scheduler = live.start_scheduler()
    try:
        assert live.finish("caption_folder", started, 400) == "success"
        assert_each_image_once(run, scenes)
        assert not live.processes("beam_jobs.", f"--run-id={run.run_id}")
    finally:
        leader = psutil.Process(scheduler.pid)
        for process in (*leader.children(recursive=True), leader):
            process.kill()
        scheduler.wait()
