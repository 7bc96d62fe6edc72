"""The form of train_captioner, and the options of its steps that follow from it."""

import json
from pathlib import Path

from airflow.sdk import Param

from captioner_airflow.forms import FilledForm, make_params, make_runner_param
from captioner_airflow.launchers import LAUNCHERS
from captioner_core.options import ExtractOptions, GateOptions, TrainOptions
from captioner_core.tables import layout

# Datasets that the DAG builds, and the option of ``captioner dataset`` that limits their images.
_LIMIT_OPTIONS = {"sample": "--images", "flickr8k": "--limit"}
_MAIN_FIELDS = ("epochs", "workers")
_MORE_FIELDS = ("reinforce_epochs", "batch_size", "learning_rate", "dropout", "seed")


def make_train_form() -> dict[str, Param]:
    """Returns the fields of the form of train_captioner."""
    return {
        "dataset": Param(
            "sample",
            type="string",
            minLength=1,
            maxLength=4096,
            title="Dataset",
            description="sample (drawn scenes), flickr8k (downloaded, or read from the folder in "
            "FLICKR8K_DIR), or a dataset folder that contains images/ and captions.parquet.",
        ),
        "limit": Param(
            None,
            type=["null", "integer"],
            minimum=30,
            title="Limit",
            description="Number of images of sample or flickr8k to use; an empty field uses them "
            "all.",
        ),
        **make_params(ExtractOptions, "output"),
        **make_params(GateOptions, "margin"),
        **make_params(TrainOptions, *_MAIN_FIELDS),
        "launcher": Param(
            "local",
            type="string",
            enum=list(LAUNCHERS),
            title="Launcher",
            description="Where to train: local starts processes on the Airflow worker, kubernetes "
            "starts pods.",
        ),
        "runner": make_runner_param("Engine that runs the Beam job that extracts features."),
        **make_params(TrainOptions, *_MORE_FIELDS, section="More"),
    }


class TrainRun(FilledForm):
    """One run of train_captioner: its filled form, as options of the steps."""

    @property
    def output_root(self) -> str:
        """The folder in which datasets, runs and models lie."""
        return str(self.params["output"])

    @property
    def dataset(self) -> str:
        """The folder of the dataset."""
        kind = str(self.params["dataset"])
        if kind not in _LIMIT_OPTIONS:
            return kind
        limit = self.params["limit"]
        return layout.join(
            self.output_root, "datasets", kind if limit is None else f"{kind}-{limit}"
        )

    def dataset_arguments(self) -> list[str] | None:
        """Returns the arguments of ``captioner dataset``, or None if the dataset exists already."""
        kind = self.params["dataset"]
        if kind not in _LIMIT_OPTIONS:
            return None
        arguments = [kind, f"--output={self.dataset}"]
        if self.params["limit"] is not None:
            arguments.append(f"{_LIMIT_OPTIONS[kind]}={self.params['limit']}")
        return arguments

    def extract_options(self) -> ExtractOptions:
        """Returns the options of the feature run, which all trainings on a dataset share."""
        return ExtractOptions(
            images=layout.join(self.dataset, layout.DATASET_IMAGES),
            output=self.output_root,
            run_id=layout.run_id_of(f"dataset {self.dataset}"),
        )

    @property
    def features(self) -> str:
        """The features table of the dataset."""
        return self.extract_options().layout.table(layout.FEATURES)

    @property
    def models(self) -> str:
        """The folder of models, which contains the pointer to the current one."""
        return layout.join(self.output_root, "models")

    @property
    def model(self) -> str:
        """The folder of the model that this run trains."""
        return layout.join(self.models, layout.run_id_of(self.airflow_run_id))

    def train_options(self) -> TrainOptions:
        """Returns the options of the training."""
        return TrainOptions(
            dataset=(self.dataset,),
            features=(self.features,),
            output=self.model,
            **self.select(*_MAIN_FIELDS, *_MORE_FIELDS),
        )

    def evaluate_arguments(self) -> list[list[str]]:
        """Returns the arguments of ``captioner evaluate``, one list for each model to evaluate.

        The new model comes first. The current model follows if there is one, evaluated on the same
        images.
        """
        models = [self.model]
        if Path(self.models, layout.CURRENT_MODEL).exists():
            models.append(self.models)
        data = [f"--dataset={self.dataset}", f"--features={self.features}", "--split=dev"]
        return [[f"--model={model}", *data] for model in models]

    def read_metrics(self) -> dict[str, object]:
        """Returns the id of the new model and its latest scores on the dev split.

        Both are read from ``metrics.json`` in the model folder.
        """
        metrics = json.loads(Path(self.model, "metrics.json").read_text(encoding="utf-8"))
        dev = [item["scores"] for item in metrics["evaluations"] if item["split"] == "dev"]
        return {"model_id": metrics["model_id"], **dev[-1]}

    def gate_options(self) -> GateOptions:
        """Returns the options of the gate that the new model has to pass."""
        return GateOptions(
            models=self.models, model=self.model, split="dev", margin=self.params["margin"]
        )
