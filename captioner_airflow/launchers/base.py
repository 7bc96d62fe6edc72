"""The interface of a launcher."""

from typing import Any, Protocol

from airflow.sdk import Context

from captioner_core.options import TrainOptions

Event = dict[str, Any]
"""The payload of the event that ends a deferred wait, which is a JSON object."""


class Launcher(Protocol):
    """Starts a training somewhere and waits for it, on behalf of an Airflow task."""

    def launch(self, options: TrainOptions, context: Context) -> None:
        """Trains, and returns when the model folder is written.

        Args:
          options: the options of the training.
          context: the Airflow context of the task.

        Raises:
          TaskDeferred: if the triggerer waits for the training; Airflow calls
            ``TrainOperator.execute_complete`` afterwards, which calls ``resume``.
          AirflowFailException: if a retry would fail in the same way, for example on bad input.
          AirflowException: if the training failed; a retry continues from its checkpoint.
        """

    def resume(self, context: Context, event: Event) -> None:
        """Continues after the wait that ``launch`` deferred; raises what ``launch`` raises.

        Args:
          context: the Airflow context of the task.
          event: the payload of the event that ended the wait.
        """

    def cancel(self) -> None:
        """Ends the training that ``launch`` started; Airflow calls it when the task is killed."""
