"""Options of training."""

from __future__ import annotations

from dataclasses import dataclass

from captioner_core.options.choices import DEFAULT_EPOCHS, ENCODERS, NO_TEACHER, PRECISION_CHOICES
from captioner_core.options.fields import (
    Options,
    beam_width_option,
    check,
    check_features_of_datasets,
    check_rate,
    option,
    uri_option,
)

_LEARNING_RATE = 1e-3
_FINE_TUNING_RATE = 3e-4


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Options of training a captioner."""

    dataset: tuple[str, ...] = uri_option(
        help="dataset folder: images/ and captions.parquet; may be repeated", metavar="DIR"
    )
    features: tuple[str, ...] = uri_option(
        help="features table of the dataset's images, with the grid; one for each --dataset",
        metavar="URI",
    )
    output: str = uri_option(help="model folder to write", metavar="MODEL_DIR")
    mirrored: tuple[str, ...] = uri_option(
        (),
        help="features table of the mirrored training images, made by extract --backbone "
        "xception-mirrored; every other epoch then uses them; one for each --dataset",
        metavar="URI",
    )
    dataset_weight: tuple[float, ...] = option(
        (),
        help="how much each caption of a dataset counts, 1 without this; one for each --dataset",
        metavar="X",
        limits=(0.001, 1000),
    )
    epochs: int = option(
        DEFAULT_EPOCHS, help="passes over the training captions", metavar="N", limits=(1, 10_000)
    )
    batch_size: int = option(
        16, help="images per step, each with all its captions", metavar="N", limits=(1, 4096)
    )
    learning_rate: float | None = option(
        None,
        help="peak learning rate of AdamW, after a linear warm-up (default: 0.001; with --init "
        "0.0003)",
        metavar="X",
    )
    init: str = uri_option(
        "",
        help="model to start from, a folder or 'pretrained': its words and sizes are kept, new "
        "words are added, and the first epoch changes the decoder only",
        metavar="MODEL",
        bare_names=True,
    )
    attention: str = option(
        "grid", help="features that the decoder attends to", choices=("grid", "mean")
    )
    units: int = option(
        256, help="width of an LSTM, a multiple of 8", metavar="N", limits=(8, 4096)
    )
    dropout: float = option(
        0.4, help="share of values dropped at features, embeddings and outputs", metavar="X"
    )
    min_word_count: int = option(
        3, help="words seen fewer times in training become unknown", metavar="N", limits=(1, None)
    )
    beam_width: int = beam_width_option(
        3, help="beam width that the model card states and captions use"
    )
    seed: int = option(
        0, help="seed of initial weights, dropout and order", metavar="N", limits=(0, None)
    )
    reinforce_epochs: int = option(
        0,
        help="passes of self-critical training on CIDEr after those",
        metavar="N",
        limits=(0, 10_000),
    )
    reinforce_rate: float = option(
        1e-4, help="learning rate of self-critical training", metavar="X"
    )
    samples: int = option(
        5,
        help="captions drawn for an image in self-critical training",
        metavar="N",
        limits=(2, 100),
    )
    workers: int = option(1, help="processes that train together", metavar="N", limits=(1, 64))
    precision: str = option(
        "auto", help="auto is bfloat16 on GPUs, else float32", choices=PRECISION_CHOICES
    )
    checkpoint_s: float = option(
        60.0, help="seconds between checkpoints", metavar="S", limits=(0, None)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features_of_datasets(
            self.dataset,
            self.features,
            mirrored=self.mirrored,
            dataset_weight=self.dataset_weight,
        )
        check(
            self.units % 8 == 0,
            "units",
            self.units,
            "must be a multiple of 8",
            "256 is the default",
        )
        check(
            self.dropout < 1 and self.dropout >= 0,
            "dropout",
            self.dropout,
            "must be 0 or more and below 1",
            "0.4 is the default",
        )
        check_rate("learning_rate", self.peak_rate, "0.001 is the default")
        check_rate("reinforce_rate", self.reinforce_rate, "0.0001 is the default")

    @property
    def peak_rate(self) -> float:
        """The learning rate at its peak, which is lower if a model is trained further."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _FINE_TUNING_RATE if self.init else _LEARNING_RATE


@dataclass(frozen=True, kw_only=True)
class TrainEncoderOptions(Options):
    """Options of training the learned encoder."""

    dataset: tuple[str, ...] = uri_option(
        help="dataset folder: images/ and captions.parquet; may be repeated", metavar="DIR"
    )
    features: tuple[str, ...] = uri_option(
        help="features table of the dataset's images; one for each --dataset", metavar="URI"
    )
    output: str = uri_option(help="encoder folder to write", metavar="ENCODER_DIR")
    mirrored: tuple[str, ...] = uri_option(
        (),
        help="features table of the mirrored images, as another view of them; one for each "
        "--dataset",
        metavar="URI",
    )
    language: tuple[str, ...] = uri_option(
        (),
        help="dataset folder of captions alone, which teach language; may be repeated",
        metavar="DIR",
    )
    judgements: str = uri_option(
        "",
        help="folder of what people said of pairs, captions.csv and crowd.csv, which decides what "
        "a score of 0.9 stands for",
        metavar="DIR",
    )
    judge: str = option(
        "learned",
        help="without --judgements: encoder that estimates from the dev split's captions what "
        "people would say",
        choices=ENCODERS,
    )
    teacher: str = option(
        NO_TEACHER,
        help="encoder whose similarities of captions are imitated",
        choices=(NO_TEACHER, *ENCODERS),
    )
    epochs: int = option(24, help="passes over all captions", metavar="N", limits=(1, 10_000))
    batch_size: int = option(
        256,
        help="images in a step, each of which is told apart from the others",
        metavar="N",
        limits=(2, 65_536),
    )
    learning_rate: float = option(2e-3, help="peak learning rate of AdamW", metavar="X")
    min_word_count: int = option(
        2,
        help="captions that must hold a word before it gets a vector of its own; rarer words have "
        "that of spaCy",
        metavar="N",
        limits=(1, None),
    )
    dim: int = option(256, help="dimensions of the space", metavar="N", limits=(1, 4096))
    hidden: int = option(
        768, help="units of the dense layer over image features", metavar="N", limits=(1, 65_536)
    )
    seed: int = option(
        0, help="seed of initial weights, dropout and order", metavar="N", limits=(0, None)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features_of_datasets(self.dataset, self.features, mirrored=self.mirrored)
        check_rate("learning_rate", self.learning_rate, "0.002 is the default")
