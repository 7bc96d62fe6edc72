"""``captioner train``: features and captions to a model folder."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import TrainOptions


def _run(options: TrainOptions) -> None:
    from captioner_core.training.train import train

    print(f"model {train(options)} in {options.output}")


register = subcommand(
    "train",
    TrainOptions,
    _run,
    help="train a captioner from features and human captions",
    description=(
        "Trains an LSTM captioner on a dataset's train split and keeps the weights that are "
        "best on its dev split."
    ),
)
