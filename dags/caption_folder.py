"""Captions a folder of images and writes tables of the images with similar captions.

To start a run, fill in the folder of images and the output root, then trigger the DAG. The run
extracts features from the images, captions them, and matches the captions with each other and with
the *index* tables. It then checks the tables and writes a report, which the page of the run shows
in the tab **Report**. The tables are in `ROOT/runs/RUN_ID`.

An image that cannot be read becomes a row of the table `failures` and does not stop the run. If a
task fails because of its input or options, the last line of its log says why, and Airflow does not
retry it. Airflow does retry a task that was killed. To retry only the failed images of an earlier
run, enter its run id and turn on *only failures*.
"""

from datetime import timedelta

from airflow.sdk import dag, task

from captioner_airflow import settings
from captioner_airflow.assets import CAPTIONS, FEATURES, MATCHES, REPORT, announce, announce_table
from captioner_airflow.caption_run import CaptionRun, make_caption_form
from captioner_airflow.jobs import fail_on_bad_input, run_check, run_command, run_job
from captioner_core.options import arguments_of


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=settings.MAX_ACTIVE_RUNS,
    doc_md=__doc__,
    tags=["captioner"],
    default_args={
        "retries": 2,
        "retry_delay": settings.RETRY_DELAY,
        "retry_exponential_backoff": True,
        "pool": settings.POOL,
    },
    params=make_caption_form(),
)
def caption_folder() -> None:
    """Defines the DAG; the docstring of this module describes it."""

    @task(outlets=[FEATURES], execution_timeout=timedelta(days=2))
    def extract_features() -> None:
        """Checks everything that the run needs, then extracts features from the images."""
        with fail_on_bad_input():
            run = CaptionRun.current()
            beam_arguments = run.beam_arguments()
            run_command("run", *arguments_of(run.run_options(check=True)))
            run_job("beam_jobs.extract_features", run.extract_options(), beam_arguments)
            announce_table(FEATURES, run.layout)

    @task(outlets=[CAPTIONS], execution_timeout=timedelta(days=1))
    def caption_images() -> None:
        """Captions the images from their features, without reading an image again."""
        with fail_on_bad_input():
            run = CaptionRun.current()
            run_job("beam_jobs.caption_images", run.caption_options(), run.beam_arguments())
            announce_table(CAPTIONS, run.layout)

    @task(outlets=[MATCHES], execution_timeout=timedelta(days=1))
    def match_captions() -> None:
        """Finds the images whose captions are similar."""
        with fail_on_bad_input():
            run = CaptionRun.current()
            run_job("beam_jobs.match_captions", run.match_options(), run.beam_arguments())
            announce_table(MATCHES, run.layout)

    @task(execution_timeout=timedelta(hours=2))
    def verify() -> None:
        """Checks that the tables of the run are complete and consistent."""
        run_check("verify", CaptionRun.current().layout.run_dir)

    @task(outlets=[REPORT], execution_timeout=timedelta(hours=2))
    def report() -> str:
        """Writes the report of images, captions and matches, and returns the run's folder."""
        layout = CaptionRun.current().layout
        run_command("report", layout.run_dir)
        announce(REPORT, {"uri": layout.report, "run_dir": layout.run_dir})
        return layout.run_dir

    extract_features() >> caption_images() >> match_captions() >> verify() >> report()


caption_folder()
