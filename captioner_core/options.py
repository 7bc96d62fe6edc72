"""What a user can ask for: frozen dataclasses, checked where they are made.

Each field carries its help text, so that the command line, the Airflow form and the
manifest all speak of the same options: ``add_arguments`` makes an argument of every
field, ``from_namespace`` makes the checked dataclass of what was parsed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from captioner_core.errors import CaptionerError
from captioner_core.layout import RunLayout

DEFAULT_ENCODER = "learned"
DEFAULT_EPOCHS = 15
DEFAULT_RUN_ID = "run"
PRETRAINED = "pretrained"  # the model that comes with the package
ENCODERS = ("learned", "spacy-content", "spacy-mean", "tfidf", "minilm")
BACKBONES = ("xception", "xception-mirrored")
PRECISIONS = ("float32", "bfloat16")
PRECISION_CHOICES = ("auto", *PRECISIONS)
SCORE, COMBINED = "score", "combined"
RANK_BY = (SCORE, COMBINED)
MAX_PIXELS_LIMIT = 178_956_970  # Pillow's own guard against decompression bombs

T = TypeVar("T")


def option(default: Any = dataclasses.MISSING, *, help: str, metavar: str | None = None, choices: Any = None) -> Any:
    """A dataclass field that is also a command-line option."""
    return dataclasses.field(default=default, metadata={"help": help, "metavar": metavar, "choices": choices})


def _output_root(default: Any = dataclasses.MISSING) -> Any:
    return option(default, help="output root; tables go to ROOT/runs/RUN_ID", metavar="ROOT")


def add_arguments(parser: argparse.ArgumentParser, options_class: type) -> None:
    """Adds one argument for each field of ``options_class``.

    A tuple becomes an argument that may be repeated, a bool an on/off pair.
    """
    hints = typing.get_type_hints(options_class)
    for field in dataclasses.fields(options_class):
        arguments: dict[str, Any] = {"help": field.metadata["help"]}
        required = field.default is dataclasses.MISSING
        kind = _plain_type(hints[field.name])
        if kind is bool:
            arguments.update(action=argparse.BooleanOptionalAction, default=field.default)
        else:
            arguments.update(required=required, metavar=field.metadata["metavar"], choices=field.metadata["choices"])
            arguments["type"] = str if kind is tuple else kind
            arguments["default"] = None if required or kind is tuple else field.default
            if kind is tuple:
                arguments["action"] = "append"
            if not required and field.default not in (None, ()):
                arguments["help"] += f" (default: {field.default})"
        parser.add_argument("--" + field.name.replace("_", "-"), **arguments)


def from_namespace(options_class: type[T], namespace: argparse.Namespace) -> T:
    """The checked options.

    Raises:
      CaptionerError: a value breaks a rule; the line names value, rule and remedy.
    """
    values = {}
    for field in dataclasses.fields(options_class):  # type: ignore[arg-type]
        value = getattr(namespace, field.name)
        values[field.name] = tuple(value or ()) if field.default == () or isinstance(value, list) else value
    return options_class(**values)


def _plain_type(hint: Any) -> Any:
    """``int`` for ``int | None``, ``tuple`` for ``tuple[str, ...]``."""
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return typing.get_origin(hint) or hint


def given_options(options_class: type, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The command-line options and their values that ``from_namespace`` would make these values of.

    What is as it is by default is left out, as are names that are no options; one that holds
    several values is repeated.
    """
    fields = [field for field in dataclasses.fields(options_class) if field.name in values]
    given = [(field.name, values[field.name]) for field in fields if values[field.name] != field.default]
    return [
        ("--" + name.replace("_", "-"), str(item))
        for name, value in given
        for item in (value if isinstance(value, tuple) else (value,))
    ]


def check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
    """Raises the one line that a bad option deserves."""
    if not holds:
        raise CaptionerError(f"--{name.replace('_', '-')} {value!r} {rule}; {remedy}")


def check_beam_width(beam_width: int | None) -> None:
    """Refuses what no search can keep; None is a model's own choice."""
    in_range = beam_width is None or 1 <= beam_width <= 20
    check(in_range, "beam_width", beam_width, "must be 1 to 20", "3 suits most models")


def check_threshold(threshold: float) -> None:
    """Refuses what no cosine can be compared with."""
    in_range = math.isfinite(threshold) and -1 <= threshold <= 1
    check(in_range, "threshold", threshold, "must be from -1 to 1", "it is a cosine; 0.9 is strict")


def _check_run_id(root: str, run_id: str) -> None:
    try:
        RunLayout(root, run_id)
    except ValueError as error:
        raise CaptionerError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What every job that reads images takes."""

    images: str = option(help="folder of images, searched through all its subfolders", metavar="DIR")
    output: str = _output_root()
    run_id: str = option(DEFAULT_RUN_ID, help="name of this run; the same name again replaces the run", metavar="ID")
    batch_size: int = option(32, help="images per call of the network", metavar="N")
    max_pixels: int = option(100_000_000, help="images with more pixels are failures, unread", metavar="N")
    max_bytes: int = option(268_435_456, help="files with more bytes are failures, unread", metavar="N")
    max_failures: int | None = option(None, help="exit 1 when more images than this fail", metavar="N")
    reuse: bool = option(
        True, help="take over what this run, made before in the same way, found for images whose bytes are the same"
    )
    precision: str = option(
        "auto",
        help="of the network: bfloat16 is half again as fast where the processor has it, and 1 caption in 100 differs; "
        "auto is bfloat16 where the machine that starts the job has it, else float32",
        choices=PRECISION_CHOICES,
    )
    backbone: str = option(
        "xception",
        help="network that makes the features; mirrored ones are for training alone (train --mirrored)",
        choices=BACKBONES,
    )

    def __post_init__(self) -> None:
        _check_run_id(self.output, self.run_id)
        check(
            1 <= self.batch_size <= 1024, "batch_size", self.batch_size, "must be 1 to 1024", "32 suits most machines"
        )
        limit = MAX_PIXELS_LIMIT
        check(
            1 <= self.max_pixels <= limit,
            "max_pixels",
            self.max_pixels,
            f"must be 1 to {limit}",
            "choose a smaller one",
        )
        known = ", ".join(PRECISION_CHOICES)
        check(
            self.precision in PRECISION_CHOICES, "precision", self.precision, "is not known", f"choose one of {known}"
        )
        check(self.max_bytes >= 1, "max_bytes", self.max_bytes, "must be positive", "leave it out for 256 MiB")
        allowed = self.max_failures is None or self.max_failures >= 0
        check(allowed, "max_failures", self.max_failures, "must be 0 or more", "leave it out to allow any number")

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.output, self.run_id)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ImageOptions):
    """Options of the job that turns images into features."""

    grid: bool = option(True, help="also keep the 5 x 5 grid that attention needs (190 kB an image before compression)")


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ImageOptions):
    """Options of the job that turns images into captions."""

    model: str = option(
        PRETRAINED,
        help="model folder made by captioner train, or the one that comes with the package",
        metavar="MODEL_DIR",
    )
    beam_width: int | None = option(
        None,
        help="hypotheses kept while a caption is searched, 1 is greedy; the model's own choice where not given",
        metavar="K",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_beam_width(self.beam_width)


@dataclass(frozen=True, kw_only=True)
class SimilarityOptions:
    """What decides which captions match."""

    index: tuple[str, ...] = option(
        (), help="captions table to match against: a run's or a dataset's; may be repeated", metavar="URI"
    )
    index_splits: tuple[str, ...] = option(
        (), help="of a dataset's table use this split alone; may be repeated (default: all)", metavar="SPLIT"
    )
    features: tuple[str, ...] = option(
        (),
        help="features table for feature_score and duplicates, beside those of the runs given; may be repeated",
        metavar="URI",
    )
    threshold: float = option(0.9, help="least cosine similarity of a match, -1 to 1", metavar="X")
    top_k: int = option(10, help="matches kept for each image", metavar="N")
    encoder: str = option(DEFAULT_ENCODER, help="space in which captions are compared", choices=ENCODERS)
    rank_by: str = option(
        SCORE, help="what ranks the matches: their score, or captions and features combined", choices=RANK_BY
    )

    def __post_init__(self) -> None:
        check_threshold(self.threshold)
        check(self.rank_by in RANK_BY, "rank_by", self.rank_by, "is not known", f"choose one of {', '.join(RANK_BY)}")
        check(0 <= self.top_k <= 10_000, "top_k", self.top_k, "must be 0 to 10000", "10 is the default")
        check(self.encoder in ENCODERS, "encoder", self.encoder, "is not known", f"choose one of {', '.join(ENCODERS)}")


@dataclass(frozen=True, kw_only=True)
class MatchOptions(SimilarityOptions):
    """Options of the job that turns captions into matches."""

    captions: tuple[str, ...] = option(
        (), help="captions table whose images are matched; may be repeated", metavar="URI"
    )
    output: str | None = option(
        None, help="output root; tables go to ROOT/runs/RUN_ID (with --update: the root of RUN)", metavar="ROOT"
    )
    run_id: str | None = option(
        None,
        help="name of this run; the same name again replaces its matches (default: run; with --update: RUN's own)",
        metavar="ID",
    )
    update: str | None = option(
        None,
        help="folder of a run of matches to bring up to date: its tables are read again, --captions and --index added, "
        "and only what is new, changed or gone is searched",
        metavar="RUN",
    )
    drop: tuple[str, ...] = option(
        (), help="with --update: captions table of RUN that no longer counts; may be repeated", metavar="URI"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update is None:
            if not self.captions:
                raise CaptionerError("no --captions given; name the captions table whose images are matched")
            if not self.index:
                raise CaptionerError("no --index given; name at least one captions table to match against")
            if self.output is None:
                raise CaptionerError("no --output given; name an output root, such as --output out")
            if self.drop:
                raise CaptionerError(f"--drop {self.drop[0]!r} is only for --update; leave it out")
        elif self.rank_by != SCORE:
            raise CaptionerError(
                f"--update can't keep ranks of --rank-by {self.rank_by}, which depend on features; "
                "match without --update"
            )
        _ = self.layout

    @property
    def layout(self) -> RunLayout:
        """Where the matches go.

        Raises:
          CaptionerError: --update is no run's folder, or the run id is not portable.
        """
        root, run_id = self.output, self.run_id
        if self.update is not None:
            place = RunLayout.of(self.update)
            if place is None:
                raise CaptionerError(f"--update {self.update!r} is no run's folder; name ROOT/runs/RUN_ID")
            root, run_id = root or place.root, run_id or place.run_id
        root, run_id = root or "", run_id or DEFAULT_RUN_ID
        _check_run_id(root, run_id)
        return RunLayout(root, run_id)


@dataclass(frozen=True, kw_only=True)
class RunOptions(SimilarityOptions, CaptionOptions):
    """Options of caption, match and report in one go."""

    output: str = _output_root("out")
    plan: bool = option(False, help="say what the run will take, from a measured sample, and do nothing")

    def __post_init__(self) -> None:
        SimilarityOptions.__post_init__(self)
        CaptionOptions.__post_init__(self)

    def caption_options(self) -> CaptionOptions:
        return CaptionOptions(**{f.name: getattr(self, f.name) for f in dataclasses.fields(CaptionOptions)})

    def match_options(self) -> MatchOptions:
        """The images of this run are matched against the index and against each other."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(SimilarityOptions)}
        captions = self.layout.table("captions")
        shared["index"] = (*self.index, captions)
        return MatchOptions(captions=(captions,), output=self.output, run_id=self.run_id, **shared)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of training a captioner."""

    dataset: str = option(help="dataset folder: images/ and captions.parquet", metavar="DIR")
    features: str = option(help="features table of the dataset's images, with the grid", metavar="URI")
    output: str = option(help="model folder to write", metavar="MODEL_DIR")
    mirrored: str | None = option(
        None,
        help="features table of the mirrored training images (extract --backbone xception-mirrored): "
        "every other epoch shows an image mirrored",
        metavar="URI",
    )
    epochs: int = option(DEFAULT_EPOCHS, help="passes over the training captions", metavar="N")
    batch_size: int = option(16, help="images per step, each with all its captions", metavar="N")
    learning_rate: float = option(1e-3, help="peak learning rate of AdamW, after a linear warm-up", metavar="X")
    attention: str = option("grid", help="what the decoder looks at", choices=("grid", "mean"))
    units: int = option(256, help="width of an LSTM", metavar="N")
    dropout: float = option(0.4, help="share of values dropped at features, embeddings and outputs", metavar="X")
    min_word_count: int = option(3, help="words seen fewer times in training become unknown", metavar="N")
    beam_width: int = option(3, help="beam width that the model card states and captions use", metavar="K")
    seed: int = option(0, help="seed of initial weights, dropout and order", metavar="N")
    reinforce_epochs: int = option(0, help="passes of self-critical training on CIDEr after those", metavar="N")
    reinforce_rate: float = option(1e-4, help="learning rate of self-critical training", metavar="X")
    samples: int = option(5, help="captions drawn for an image in self-critical training", metavar="N")
    workers: int = option(1, help="processes that train together on this machine", metavar="N")
    precision: str = option("auto", help="auto is bfloat16 on GPUs, else float32", choices=PRECISION_CHOICES)
    checkpoint_s: float = option(60.0, help="seconds between checkpoints", metavar="S")

    def __post_init__(self) -> None:
        check(1 <= self.epochs <= 10_000, "epochs", self.epochs, "must be 1 to 10000", "15 is the default")
        check(1 <= self.batch_size <= 4096, "batch_size", self.batch_size, "must be 1 to 4096", "16 is the default")
        rate = self.learning_rate
        check(math.isfinite(rate) and 0 < rate <= 1, "learning_rate", rate, "must be above 0, at most 1", "try 0.001")
        check(
            8 <= self.units <= 4096 and self.units % 8 == 0,
            "units",
            self.units,
            "must be a multiple of 8 up to 4096",
            "try 256",
        )
        check(self.min_word_count >= 1, "min_word_count", self.min_word_count, "must be 1 or more", "3 is the default")
        check_beam_width(self.beam_width)
        check(self.seed >= 0, "seed", self.seed, "must be 0 or more", "0 is the default")
        check(0 <= self.dropout < 1, "dropout", self.dropout, "must be 0 or more and below 1", "0.4 is the default")
        passes = self.reinforce_epochs
        check(0 <= passes <= 10_000, "reinforce_epochs", passes, "must be 0 to 10000", "0 leaves it out")
        rate = self.reinforce_rate
        check(math.isfinite(rate) and 0 < rate <= 1, "reinforce_rate", rate, "must be above 0, at most 1", "try 0.0001")
        check(2 <= self.samples <= 100, "samples", self.samples, "must be 2 to 100", "5 is the default")
        check(1 <= self.workers <= 64, "workers", self.workers, "must be 1 to 64", "1 suits one machine without GPUs")
        known = ", ".join(PRECISION_CHOICES)
        check(self.precision in PRECISION_CHOICES, "precision", self.precision, "is not known", f"choose {known}")
        check(self.checkpoint_s >= 0, "checkpoint_s", self.checkpoint_s, "must be 0 or more", "60 is the default")


@dataclass(frozen=True, kw_only=True)
class TrainEncoderOptions:
    """Options of training the learned encoder."""

    dataset: str = option(help="dataset folder: images/ and captions.parquet", metavar="DIR")
    features: tuple[str, ...] = option(
        (),
        help="features table of the dataset's images; repeated, of the same images seen another way, such as mirrored",
        metavar="URI",
    )
    output: str = option(help="encoder folder to write", metavar="ENCODER_DIR")
    judge: str = option(
        "learned",
        help="encoder that judges, from the dev split's captions, which score 0.9 should stand for",
        choices=ENCODERS,
    )
    epochs: int = option(24, help="passes over the training images", metavar="N")
    batch_size: int = option(256, help="images told apart in a step", metavar="N")
    learning_rate: float = option(2e-3, help="peak learning rate of AdamW", metavar="X")
    dim: int = option(256, help="dimensions of the space", metavar="N")
    hidden: int = option(768, help="units of the dense layer over image features", metavar="N")
    seed: int = option(0, help="seed of initial weights, dropout and order", metavar="N")

    def __post_init__(self) -> None:
        if not self.features:
            raise CaptionerError("no --features given; name the features table of the dataset's images")
        for name, most in (("epochs", 10_000), ("batch_size", 65_536), ("dim", 4096), ("hidden", 65_536)):
            value, least = getattr(self, name), 2 if name == "batch_size" else 1
            default = next(field.default for field in dataclasses.fields(self) if field.name == name)
            check(least <= value <= most, name, value, f"must be {least} to {most}", f"{default} is the default")
        rate = self.learning_rate
        check(math.isfinite(rate) and 0 < rate <= 1, "learning_rate", rate, "must be above 0, at most 1", "try 0.002")
        check(self.seed >= 0, "seed", self.seed, "must be 0 or more", "0 is the default")
