"""Trains in processes of the machine that the task runs on."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from captioner_airflow.jobs import run_job
from captioner_core.options import TrainOptions


class LocalLauncher:
    """Runs ``python -m captioner_core.training``, which starts the workers and ends them together."""

    def launch(self, options: TrainOptions, context: Context) -> None:
        """Trains and waits; a retry goes on from the checkpoint."""
        run_job("captioner_core.training", options)

    def resume(self, context: Context, event: dict[str, Any]) -> None:
        """Never called: nothing is deferred."""
        raise NotImplementedError("the local launcher waits by itself")

    def end(self) -> None:
        """Nothing to do: the processes end with the task's group."""
