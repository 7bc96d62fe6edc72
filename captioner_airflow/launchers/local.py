"""Trains in processes on the machine that runs the task."""

from airflow.sdk import Context

from captioner_airflow.jobs import run_job
from captioner_airflow.launchers.base import Event
from captioner_core.options import TrainOptions


class LocalLauncher:
    """Runs ``python -m captioner_core.training``, which starts and ends the worker processes."""

    def launch(self, options: TrainOptions, context: Context) -> None:
        """Trains and waits; a retry continues from the checkpoint."""
        run_job("captioner_core.training", options)

    def resume(self, context: Context, event: Event) -> None:
        """Raises NotImplementedError, because ``launch`` never defers."""
        raise NotImplementedError("the local launcher never defers its task")

    def cancel(self) -> None:
        """Does nothing, because the processes end with the task's process group."""
