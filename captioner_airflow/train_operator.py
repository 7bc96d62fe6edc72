"""The Airflow operator that trains a captioner."""

from typing import Any

from airflow.sdk import BaseOperator, Context

from captioner_airflow.jobs import fail_on_bad_input
from captioner_airflow.launchers import Event, Launcher, load_launcher
from captioner_airflow.train_run import TrainRun


class TrainOperator(BaseOperator):
    """Trains a captioner through the launcher that the form names, and returns the model folder.

    A launcher may defer the task while the training runs elsewhere.
    """

    ui_color = "#d9e8fb"
    _launcher: Launcher | None = None

    def execute(self, context: Context) -> str:
        """Starts the training, waits for it and returns the model folder."""
        run = TrainRun.current(context)
        with fail_on_bad_input():
            self._load_launcher(run).launch(run.train_options(), context)
        return run.model

    def execute_complete(self, context: Context, event: Event, **kwargs: Any) -> str:
        """Resumes the task after it was deferred, and returns the model folder."""
        run = TrainRun.current(context)
        with fail_on_bad_input():
            self._load_launcher(run).resume(context, event)
        return run.model

    def on_kill(self) -> None:
        """Cancels the training when the task is cleared or marked as failed."""
        if self._launcher:
            self._launcher.cancel()

    def _load_launcher(self, run: TrainRun) -> Launcher:
        self._launcher = load_launcher(run.params["launcher"])
        return self._launcher
