"""``captioner train-encoder``: features and captions to an encoder folder."""

from captioner_cli.subcommand import subcommand
from captioner_core.options import TrainEncoderOptions


def _run(options: TrainEncoderOptions) -> None:
    from captioner_core.training.encoder.train_encoder import train_encoder

    print(f"encoder {train_encoder(options)} in {options.output}")


register = subcommand(
    "train-encoder",
    TrainEncoderOptions,
    _run,
    help="train the encoder that puts captions and images into one space",
    description=(
        "Trains the learned encoder on a dataset's train split and calibrates its scores on "
        "the dev split."
    ),
)
