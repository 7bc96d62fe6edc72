"""The form of caption_folder, and the job options that follow from it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context, Param

from captioner_airflow.forms import FilledForm, make_params, make_runner_param
from captioner_core.errors import CaptionerError
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions, RunOptions
from captioner_core.tables.layout import RUN_ID_PATTERN, RunLayout, run_id_of


def make_caption_form() -> dict[str, Param]:
    """Returns the fields of the form of caption_folder."""
    return {
        **make_params(RunOptions, "images"),
        **make_params(ExtractOptions, "output"),
        **make_params(RunOptions, "model", "threshold", "top_k", "beam_width"),
        "runner": make_runner_param(
            "Engine that runs the Beam jobs; DirectRunner runs them on the Airflow worker."
        ),
        **make_params(RunOptions, "only_failures"),
        "run_id": Param(
            None,
            type=["null", "string"],
            pattern=f"^{RUN_ID_PATTERN}$",
            title="Run id",
            description="Name of the run's folder; a run with the same name is replaced, and an "
            "empty field gives each run a name of its own.",
        ),
        **make_params(RunOptions, "index", "encoder", section="More"),
    }


class CaptionRun(FilledForm):
    """One run of caption_folder: its filled form, as options of the jobs."""

    @classmethod
    def current(cls, context: Context | None = None) -> CaptionRun:
        """Returns the run that the current task belongs to.

        Raises:
          CaptionerError: if ``only_failures`` is set without the id of the run to retry.
        """
        run = super().current(context)
        if run.params["only_failures"] and not run.params["run_id"]:
            raise CaptionerError(
                "only_failures is set and run_id is empty; "
                "enter the run id of the run whose failed images to retry"
            )
        return run

    @property
    def run_id(self) -> str:
        """The run id from the form, or one made from the id of the DAG run."""
        return str(self.params["run_id"] or run_id_of(self.airflow_run_id))

    @property
    def layout(self) -> RunLayout:
        """The paths of the run."""
        return RunLayout(str(self.params["output"]), self.run_id)

    def run_options(self, **changes: Any) -> RunOptions:
        """Returns the options of the whole run, which are checked before the first job starts.

        Args:
          changes: fields of RunOptions that the form does not set.
        """
        return RunOptions(
            run_id=self.run_id,
            **self.select_for(RunOptions, "run_id", "only_failures"),
            **changes,
        )

    def extract_options(self) -> ExtractOptions:
        """Returns the options of the job that extracts features and the grid for captions."""
        return ExtractOptions(run_id=self.run_id, **self.select_for(ExtractOptions, "run_id"))

    def caption_options(self) -> CaptionOptions:
        """Returns the options of the job that captions these features."""
        return CaptionOptions(
            run_id=self.run_id,
            from_features=True,
            **self.select_for(CaptionOptions, "run_id", "only_failures"),
        )

    def match_options(self) -> MatchOptions:
        """Returns the options of the job that matches these captions."""
        return self.run_options().match_options()
