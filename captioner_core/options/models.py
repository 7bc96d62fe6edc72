"""Options of evaluating, exporting, promoting and quantising models."""

from __future__ import annotations

from dataclasses import dataclass

from captioner_core.errors import CaptionerError
from captioner_core.options.choices import ENCODERS, PRETRAINED
from captioner_core.options.fields import (
    Options,
    beam_width_option,
    check_features_of_datasets,
    check_one_for_each_dataset,
    option,
    uri_option,
)


@dataclass(frozen=True, kw_only=True)
class GateOptions(Options):
    """Options of the check that a model must pass before it is promoted."""

    models: str = uri_option(help="folder of models, with the current one", metavar="DIR")
    model: str = uri_option(
        help="model to check: its name in that folder, or a model folder",
        metavar="NEW",
        bare_names=True,
    )
    split: str = option(
        "dev", help="split whose recorded CIDEr is compared", choices=("dev", "test")
    )
    margin: float = option(
        0.0,
        help="how much higher than the current model's CIDEr it must be; below 0 it may be lower",
        metavar="X",
        limits=(-1, 1),
        remedy="0 asks for a model that is no worse",
    )


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(Options):
    """Options of a change of the current model."""

    models: str = uri_option(help="folder of models", metavar="DIR")
    model: str | None = uri_option(
        None,
        help="model to make the current one: its name in that folder, or its folder",
        metavar="NAME|MODEL_DIR",
        bare_names=True,
    )
    undo: bool = option(
        False, help="go back to the model that was current before; repeated, to the one before that"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.undo == (self.model is not None):
            given = (
                f"--model {self.model!r} and --undo"
                if self.undo
                else "neither --model nor --undo given"
            )
            raise CaptionerError(
                f"{given}: a promotion takes one of them; name a model, or undo the last promotion"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Options of an evaluation."""

    model: str = uri_option(
        help="model folder, or a folder of models, of which the current one is used",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    dataset: tuple[str, ...] = uri_option(help="dataset folder; may be repeated", metavar="DIR")
    split: str = option("dev", help="split to caption", choices=("dev", "test"))
    features: tuple[str, ...] = uri_option(
        (),
        help="the dataset's features table, with its grid; one for each --dataset (default: "
        "extract the features anew)",
        metavar="URI",
    )
    beam_width: int | None = beam_width_option(
        None, help="hypotheses kept (default: the model's own choice)"
    )
    output: str | None = uri_option(
        None, help="also write the figures to this JSON file", metavar="FILE"
    )
    show: int = option(10, help="captions to show", metavar="N")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_one_for_each_dataset(self.dataset, features=self.features)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Options):
    """Options of a calibration."""

    encoder: str = option(help="encoder to calibrate", choices=ENCODERS)
    judgements: str = uri_option(
        "",
        help="folder of what people said of pairs: captions.csv and crowd.csv; the calibration is "
        "fitted to half of the images and measured on the others",
        metavar="DIR",
    )
    dataset: str = uri_option(
        "",
        help="without --judgements: dataset folder whose captions --judge compares",
        metavar="DIR",
    )
    split: str = option(
        "dev", help="split whose captions are used", choices=("train", "dev", "test")
    )
    judge: str = option(
        "learned",
        help="encoder that estimates what people would say of a dataset's captions",
        choices=ENCODERS,
    )
    output: str = uri_option(
        help="JSON file of calibrations in which that of the encoder is set", metavar="FILE"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.judgements) == bool(self.dataset):
            raise CaptionerError("give either --judgements or --dataset, to calibrate by")
        if self.dataset and self.judge == self.encoder:
            raise CaptionerError(
                f"--judge {self.judge!r} must not be the encoder that is judged; choose another"
            )


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions(Options):
    """Options of fitting a model's confidence."""

    model: str = uri_option(help="model folder, which is changed", metavar="MODEL_DIR")
    dataset: tuple[str, ...] = uri_option(
        help="dataset folder whose dev split the model was not trained on; may be repeated",
        metavar="DIR",
    )
    features: tuple[str, ...] = uri_option(
        help="features table of the dataset's images, with grids; one for each --dataset",
        metavar="URI",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_features_of_datasets(self.dataset, self.features)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Options of an export."""

    model: tuple[str, ...] = uri_option(
        (),
        help="model folder, or a folder of models, of which the current one is used; several "
        "models become an ensemble whose probabilities are averaged",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    output: str = uri_option(help="model folder to make", metavar="MODEL_DIR")
    beam_width: int | None = beam_width_option(
        None, help="hypotheses that searches with it keep (default: those of the first model)"
    )
    length_penalty: float | None = option(
        None,
        help="exponent of the length normalisation in searches with it: 0 ranks by probability "
        "only, higher values favour longer captions (default: that of the first model)",
        metavar="X",
        limits=(0, 5),
        remedy="0.7 is what training sets",
    )
    joint_weight: float | None = option(
        None,
        help="weight of the cosine of image and caption in the joint space when one of the beams "
        "is chosen; 0 ignores it (default: that of the first model)",
        metavar="X",
        limits=(0, 100),
        remedy="4 suits the model that comes with the package",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise CaptionerError("no --model given; name at least one model folder")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(Options):
    """Options of quantising the feature network."""

    dataset: str = uri_option(help="dataset folder: images/ and captions.parquet", metavar="DIR")
    split: str = option(
        "train",
        help="split whose images show in which ranges the network computes",
        choices=("train", "dev"),
    )
    check_split: str = option(
        "dev",
        help="split whose images the int8 network is compared on with the float32 network",
        choices=("dev", "test"),
    )
    images: int = option(
        300, help="images of each split that are used, at most", metavar="N", limits=(8, 100_000)
    )
    seed: int = option(0, help="seed of the choice of images", metavar="N", limits=(0, None))
    output: str = uri_option(help="folder to write the quantisation to", metavar="DIR")
