"""What every launcher of a training can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from airflow.sdk import Context

    from captioner_core.options import TrainOptions


class Launcher(Protocol):
    """Starts a training somewhere and waits for it, for the task whose context it is given."""

    def launch(self, options: TrainOptions, context: Context) -> None:
        """Trains, and returns when the model folder is written.

        Raises:
          TaskDeferred: it waits elsewhere; ``execute_complete`` is called afterwards.
          AirflowFailException: trying again can't help, such as bad input.
          AirflowException: training failed; trying again goes on from its checkpoint.
        """

    def resume(self, context: Context, event: dict[str, Any]) -> None:
        """Goes on after the wait that ``launch`` began; raises what ``launch`` raises."""

    def end(self) -> None:
        """Ends what ``launch`` has started; called when the task is killed."""
