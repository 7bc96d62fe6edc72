"""A run of caption_folder: what its form asks for, as the options of the jobs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context, Param

from captioner_airflow.forms import FilledForm, form_of, runner_field
from captioner_core.errors import CaptionerError
from captioner_core.options import CaptionOptions, ExtractOptions, MatchOptions, RunOptions
from captioner_core.tables import layout
from captioner_core.tables.layout import run_id_of


def caption_form() -> dict[str, Param]:
    """The form of caption_folder."""
    run_id = Param(
        None,
        type=["null", "string"],
        pattern=f"^{layout.RUN_ID_PATTERN}$",
        title="Run id",
        description="Name of the run's folder; the same name again replaces that run. Left empty, it is made of the "
        "name that Airflow gives this run, so that no two runs share one.",
    )
    return {
        **form_of(RunOptions, "images"),
        **form_of(ExtractOptions, "output"),
        **form_of(RunOptions, "model", "threshold", "top_k", "beam_width"),
        "runner": runner_field(
            "Where the Beam jobs run; DirectRunner is the Airflow worker itself."
        ),
        **form_of(RunOptions, "only_failures"),
        "run_id": run_id,
        **form_of(RunOptions, "index", "encoder", section="More"),
    }


class CaptionRun(FilledForm):
    """What one run of the DAG does."""

    @classmethod
    def current(cls, context: Context | None = None) -> CaptionRun:
        """The run that the current task is part of.

        Raises:
          CaptionerError: failures are to be looked at again, but not said of which run.
        """
        run = super().current(context)
        if run.params["only_failures"] and not run.params["run_id"]:
            raise CaptionerError(
                "only_failures is set and run_id is empty; name the run whose failures are to be looked at again"
            )
        return run

    @property
    def run_id(self) -> str:
        return str(self.params["run_id"] or run_id_of(self.airflow_run_id))

    @property
    def layout(self) -> layout.RunLayout:
        return layout.RunLayout(str(self.params["output"]), self.run_id)

    def run_options(self, **changes: Any) -> RunOptions:
        """The whole run, which is checked before the first job starts."""
        matching = {name: self.params[name] for name in ("threshold", "top_k", "encoder")}
        return RunOptions(
            **self._images(),
            **self._captioning(),
            **matching,
            index=tuple(self.params["index"]),
            **changes,
        )

    def extract_options(self) -> ExtractOptions:
        """Images to features, with the grid that captions need."""
        return ExtractOptions(**self._images(), only_failures=self.params["only_failures"])

    def caption_options(self) -> CaptionOptions:
        """Those features to captions."""
        return CaptionOptions(**self._images(), **self._captioning(), from_features=True)

    def match_options(self) -> MatchOptions:
        """Those captions to matches, among themselves and with the index."""
        return self.run_options().match_options()

    def _images(self) -> dict[str, Any]:
        return {
            "images": self.params["images"],
            "output": self.params["output"],
            "run_id": self.run_id,
        }

    def _captioning(self) -> dict[str, Any]:
        return {"model": self.params["model"], "beam_width": self.params["beam_width"]}
