"""The task that trains, wherever that is."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator, Context

from captioner_airflow.jobs import one_line_errors
from captioner_airflow.launchers import Launcher, load_launcher
from captioner_airflow.train_run import TrainRun


class TrainOperator(BaseOperator):
    """Trains a captioner through the launcher that the form names.

    Returns the model's folder. A launcher may defer the task while the training goes on elsewhere.
    """

    ui_color = "#d9e8fb"

    def execute(self, context: Context) -> str:
        """Trains and waits."""
        run = TrainRun.current(context)
        with one_line_errors():
            options = run.train_options()
            self._launcher(run).launch(options, context)
        return run.model

    def execute_complete(self, context: Context, event: dict[str, Any], **kwargs: Any) -> str:
        """Goes on after having been deferred."""
        run = TrainRun.current(context)
        with one_line_errors():
            self._launcher(run).resume(context, event)
        return run.model

    def on_kill(self) -> None:
        """Ends what the launcher has started, where the task is cleared or marked failed."""
        if launcher := getattr(self, "_started", None):
            launcher.end()

    def _launcher(self, run: TrainRun) -> Launcher:
        self._started = load_launcher(run.params["launcher"])
        return self._started
