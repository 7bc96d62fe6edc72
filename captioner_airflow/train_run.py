"""A run of train_captioner: what its form asks for, as the options of its steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.sdk import Param

from captioner_airflow.forms import FilledForm, form_of, runner_field
from captioner_airflow.launchers import LAUNCHERS
from captioner_core.options import ExtractOptions, GateOptions, TrainOptions
from captioner_core.tables import layout
from captioner_core.tables.layout import join, run_id_of

_BUILT = ("sample", "flickr8k")
_TRAINING = (
    "epochs",
    "reinforce_epochs",
    "batch_size",
    "learning_rate",
    "dropout",
    "seed",
    "workers",
)


def train_form() -> dict[str, Param]:
    """The form of train_captioner."""
    return {
        "dataset": Param(
            "sample",
            type="string",
            minLength=1,
            maxLength=4096,
            title="Dataset",
            description="sample (drawn scenes), flickr8k (downloaded, or from the folder FLICKR8K_DIR), or a dataset "
            "folder with images/ and captions.parquet.",
        ),
        "limit": Param(
            None,
            type=["null", "integer"],
            minimum=30,
            title="Limit",
            description="Images of sample or flickr8k to use; all where empty.",
        ),
        **form_of(ExtractOptions, "output"),
        **form_of(GateOptions, "margin"),
        **form_of(TrainOptions, "epochs", "workers"),
        "launcher": Param(
            "local",
            type="string",
            enum=list(LAUNCHERS),
            title="Launcher",
            description="Where the workers train: processes of the Airflow worker, or pods of an Indexed Job.",
        ),
        "runner": runner_field("Where features are extracted."),
        **form_of(
            TrainOptions,
            "reinforce_epochs",
            "batch_size",
            "learning_rate",
            "dropout",
            "seed",
            section="More",
        ),
    }


class TrainRun(FilledForm):
    """What one run of the DAG does."""

    @property
    def root(self) -> str:
        return str(self.params["output"])

    @property
    def dataset(self) -> str:
        """The dataset's folder."""
        kind, limit = self.params["dataset"], self.params["limit"]
        if kind not in _BUILT:
            return str(kind)
        return join(self.root, "datasets", kind if limit is None else f"{kind}-{limit}")

    def dataset_command(self) -> list[str] | None:
        """What makes the dataset; None where the folder is there already."""
        kind, limit = self.params["dataset"], self.params["limit"]
        if kind not in _BUILT:
            return None
        amount = {"sample": "--images", "flickr8k": "--limit"}[kind]
        return [kind, f"--output={self.dataset}", *([] if limit is None else [f"{amount}={limit}"])]

    def extract_options(self) -> ExtractOptions:
        """Features of the dataset, in a run that all trainings on it share."""
        return ExtractOptions(
            images=join(self.dataset, layout.DATASET_IMAGES),
            output=self.root,
            run_id=run_id_of(f"dataset {self.dataset}"),
        )

    @property
    def features(self) -> str:
        """The features table of the dataset."""
        return self.extract_options().layout.table(layout.FEATURES)

    @property
    def models(self) -> str:
        """The folder of models, with the pointer to the current one."""
        return join(self.root, "models")

    @property
    def model(self) -> str:
        """The folder of the model that this run makes."""
        return join(self.models, run_id_of(self.airflow_run_id))

    def train_options(self) -> TrainOptions:
        """The training."""
        asked = {name: self.params[name] for name in _TRAINING}
        return TrainOptions(
            dataset=self.dataset, features=self.features, output=self.model, **asked
        )

    def evaluations(self) -> list[list[str]]:
        """Arguments of ``captioner evaluate``: of the new model, and of the current one on the same images."""
        models = [
            self.model,
            *([self.models] if Path(self.models, layout.CURRENT_MODEL).exists() else []),
        ]
        on = [f"--dataset={self.dataset}", f"--features={self.features}", "--split=dev"]
        return [[f"--model={model}", *on] for model in models]

    def figures(self) -> dict[str, Any]:
        """The new model's id and its figures on the dev split, as recorded in its folder."""
        metrics = json.loads(Path(self.model, "metrics.json").read_text(encoding="utf-8"))
        scores = next(
            one["scores"] for one in reversed(metrics["evaluations"]) if one["split"] == "dev"
        )
        return {"model_id": metrics["model_id"], **scores}

    def gate_options(self) -> GateOptions:
        """What the model has to pass."""
        return GateOptions(
            models=self.models, model=self.model, split="dev", margin=self.params["margin"]
        )
