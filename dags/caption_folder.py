"""Captions a folder of images and writes its tables of similar images.

Fill in the folder of images and the output root, and trigger. The run extracts features, captions
them, matches the captions with each other and with the *index* tables, checks every invariant of
the tables, and writes a report, which is the tab **Report** on the page of the run. The tables are
in `ROOT/runs/RUN_ID`.

A bad image is a row of `failures` and stops nothing. A task that is red because of its input or
options says so in the last line of its log, and is not tried again; one that was killed is. With
*only failures* and the id of a run, its failed images alone are looked at again.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, task

from captioner_airflow import settings
from captioner_airflow.assets import CAPTIONS, FEATURES, MATCHES, REPORT, announce, announce_table
from captioner_airflow.caption_run import CaptionRun, caption_form
from captioner_airflow.jobs import one_line_errors, run_check, run_command, run_job
from captioner_core.options import arguments_of


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=settings.RUNS_AT_ONCE,
    doc_md=__doc__,
    tags=["captioner"],
    default_args={
        "retries": 2,
        "retry_delay": settings.RETRY_DELAY,
        "retry_exponential_backoff": True,
        "pool": settings.POOL,
    },
    params=caption_form(),
)
def caption_folder() -> None:  # noqa: D103  its text is doc_md
    @task(outlets=[FEATURES], execution_timeout=timedelta(days=2))
    def extract_features() -> None:
        """Images to features; before the first image, everything that the run needs is checked."""
        with one_line_errors():
            run = CaptionRun.current()
            runner = run.runner_options()
            run_command("run", *arguments_of(run.run_options(check=True)))
            run_job("beam_jobs.extract_features", run.extract_options(), runner)
            announce_table(FEATURES, run.layout)

    @task(outlets=[CAPTIONS], execution_timeout=timedelta(days=1))
    def caption_images() -> None:
        """Features to captions; no image is read again."""
        with one_line_errors():
            run = CaptionRun.current()
            run_job("beam_jobs.caption_images", run.caption_options(), run.runner_options())
            announce_table(CAPTIONS, run.layout)

    @task(outlets=[MATCHES], execution_timeout=timedelta(days=1))
    def match_captions() -> None:
        """Captions to matches."""
        with one_line_errors():
            run = CaptionRun.current()
            run_job("beam_jobs.match_captions", run.match_options(), run.runner_options())
            announce_table(MATCHES, run.layout)

    @task(execution_timeout=timedelta(hours=2))
    def verify() -> None:
        """Checks every invariant of the tables."""
        run_check("verify", CaptionRun.current().layout.run_dir)

    @task(outlets=[REPORT], execution_timeout=timedelta(hours=2))
    def report() -> str:
        """Writes the page of pictures, captions and matches; returns the run's folder."""
        run = CaptionRun.current().layout
        run_command("report", run.run_dir)
        announce(REPORT, {"uri": run.report, "run_dir": run.run_dir})
        return run.run_dir

    extract_features() >> caption_images() >> match_captions() >> verify() >> report()


caption_folder()
