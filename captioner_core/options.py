"""What a user can ask for: frozen dataclasses, checked where they are made.

Each field carries its help text, so that the command line, the Airflow form and the
manifest all speak of the same options: ``add_arguments`` makes an argument of every
field, ``from_namespace`` makes the checked dataclass of what was parsed.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from captioner_core.errors import IMAGE_ERRORS, CaptionerError
from captioner_core.security.allowed_roots import check_uri, normalize_uri
from captioner_core.security.redaction import without_secret
from captioner_core.tables.layout import RunLayout

DEFAULT_ENCODER = "learned"
DEFAULT_EPOCHS = 15
DEFAULT_RUN_ID = "run"
PRETRAINED = "pretrained"  # the model that comes with the package
ENCODERS = ("learned", "spacy-content", "spacy-mean", "tfidf", "minilm")
JOINT_ENCODERS = ("learned",)  # which put images and captions into one space
BACKBONES = ("xception", "xception-mirrored")
PRECISIONS = ("float32", "bfloat16")
PRECISION_CHOICES = ("auto", *PRECISIONS)
SCORE, COMBINED = "score", "combined"
RANK_BY = (SCORE, COMBINED)
MAX_COLLECTION_LENGTH = 200
MAX_PIXELS_LIMIT = 178_956_970  # Pillow's own guard against decompression bombs

T = TypeVar("T")


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    limits: tuple[float, float | None] | None = None,
    remedy: str | None = None,
) -> Any:
    """A dataclass field that is also a command-line option and a field of a form.

    Args:
      default: its value where not given; required where missing.
      help: what it means.
      metavar: what stands for its value in ``--help``.
      choices: the values that it may have.
      limits: least and largest value, None for any; see ``check_fields``.
      remedy: what to do about a value beyond them; "... is the default" where None.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "choices": choices,
        "limits": limits,
        "remedy": remedy,
    }
    return dataclasses.field(default=default, metadata=metadata)


def uri_option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str,
    names: Sequence[str] = (),
    bare_names: bool = False,
) -> Any:
    """An ``option`` whose value is a path or a URI, or a tuple of some; see ``places.check_place``.

    Args:
      default: its value where not given; required where missing.
      help: what it means.
      metavar: what stands for its value in ``--help``.
      names: values that are names of something, not paths.
      bare_names: whether every value without a slash is one.
    """
    field = option(default, help=help, metavar=metavar)
    is_name = (lambda value: "/" not in value) if bare_names else names.__contains__
    return dataclasses.field(default=default, metadata={**field.metadata, "is_name": is_name})


def check_fields(options: Any) -> None:
    """Holds each field of a dataclass of options to the choices and limits that the field states, and paths to theirs.

    None is within all limits.

    Raises:
      CaptionerError: one is not; the line names value, rule and remedy.
    """
    for field in dataclasses.fields(options):
        value, choices, limits = (
            getattr(options, field.name),
            field.metadata["choices"],
            field.metadata["limits"],
        )
        if choices:
            check(
                value in choices,
                field.name,
                value,
                "is not known",
                f"choose one of {', '.join(choices)}",
            )
        if limits and value is not None:
            least, most = limits
            remedy = field.metadata["remedy"] or f"{field.default} is the default"
            within = least <= value <= (math.inf if most is None else most)  # which NaN is not
            check(within, field.name, value, f"must be {limits_text(field)}", remedy)
        _check_uris(field, value)


def _check_uris(field: dataclasses.Field[Any], value: Any) -> None:
    for place in _uris(field, value):
        check_uri(f"--{field.name.replace('_', '-')}", place)


def _uris(field: dataclasses.Field[Any], value: Any) -> list[str]:
    """The paths and URIs that an option holds."""
    is_name = field.metadata.get("is_name")
    if is_name is None or value is None:
        return []
    return [
        place for place in (value if isinstance(value, tuple) else (value,)) if not is_name(place)
    ]


def check_absolute(options: Any) -> None:
    """Refuses relative paths among options, which other processes than this one would look for elsewhere.

    Raises:
      CaptionerError: one is relative; the line names it.
    """
    for field in dataclasses.fields(options):
        for place in _uris(field, getattr(options, field.name)):
            is_absolute = "://" in place or os.path.isabs(place)
            rule = "is relative, and the workers of a cluster start in folders of their own"
            check(
                is_absolute, field.name, place, rule, f"write {os.path.abspath(place)!r} or a URI"
            )


def limits_text(field: dataclasses.Field[Any]) -> str:
    """A field's limits as ``--help``, forms and complaints say them; empty where it has none."""
    if not field.metadata["limits"]:
        return ""
    least, most = field.metadata["limits"]
    return f"{_plain(least)} or more" if most is None else f"{_plain(least)} to {_plain(most)}"


def _plain(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)


def _output_root(default: Any = dataclasses.MISSING) -> Any:
    return uri_option(default, help="output root; tables go to ROOT/runs/RUN_ID", metavar="ROOT")


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
            arguments.update(action=SwitchOnce, default=field.default)
        else:
            arguments.update(
                required=required,
                metavar=field.metadata["metavar"],
                choices=field.metadata["choices"],
            )
            is_name = field.metadata.get("is_name")
            arguments["type"] = _uri_type(is_name) if is_name else str if kind is tuple else kind
            arguments["default"] = None if required or kind is tuple else field.default
            arguments["action"] = "append" if kind is tuple else StoreOnce
            default = "" if required or field.default in (None, ()) else f"default: {field.default}"
            if facts := "; ".join(filter(None, [limits_text(field), default])):
                arguments["help"] += f" ({facts})"
        parser.add_argument("--" + field.name.replace("_", "-"), **arguments)


class StoreOnce(argparse.Action):
    """Stores an option's value, and refuses a second one: no one could tell which of the two counts."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given, value = _given(namespace), f"{values!s:.200}"
            if self.dest in given:
                name = "/".join(self.option_strings)
                parser.error(
                    f"{name} is given twice, as {without_secret(given[self.dest])!r} and {without_secret(value)!r}, "
                    "and takes one value; leave one out"
                )
            given[self.dest] = value
        setattr(namespace, self.dest, values)


class SwitchOnce(argparse.BooleanOptionalAction):
    """An on/off pair of options that refuses to be switched both on and off."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = _given(namespace).setdefault(self.dest, option_string or "")
        if before != option_string:
            parser.error(
                f"{before} and {option_string} are both given and contradict each other; leave one out"
            )
        super().__call__(parser, namespace, values, option_string)


def _given(namespace: argparse.Namespace) -> dict[str, str]:
    """Returns what has been given while this command line is parsed: each option's value as text."""
    found: dict[str, str] = namespace.__dict__.setdefault("_given_options", {})
    return found


def _uri_type(is_name: Callable[[str], bool]) -> Callable[[str], str]:
    """Returns the ``type`` of an option that is a path or a URI, unless its value is a name of something."""

    def path(text: str) -> str:
        try:
            return text if is_name(text) else normalize_uri(text)
        except CaptionerError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return path


def from_namespace(options_class: type[T], namespace: argparse.Namespace) -> T:
    """The checked options.

    Raises:
      CaptionerError: a value breaks a rule; the line names value, rule and remedy.
    """
    values = {}
    for field in dataclasses.fields(options_class):  # type: ignore[arg-type]
        value = getattr(namespace, field.name)
        values[field.name] = (
            tuple(value or ()) if field.default == () or isinstance(value, list) else value
        )
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
    given = [
        (field.name, values[field.name]) for field in fields if values[field.name] != field.default
    ]
    return [
        ("--" + name.replace("_", "-"), str(item))
        for name, value in given
        for item in (value if isinstance(value, tuple) else (value,))
    ]


def arguments_of(options: Any) -> list[str]:
    """The command line that these options are parsed from: one argument for each, whatever it holds."""
    given = given_options(
        type(options),
        {field.name: getattr(options, field.name) for field in dataclasses.fields(options)},
    )
    switches = {
        "--" + field.name.replace("_", "-")
        for field in dataclasses.fields(options)
        if isinstance(field.default, bool)
    }
    return [
        (name if value == "True" else name.replace("--", "--no-", 1))
        if name in switches
        else f"{name}={value}"
        for name, value in given
    ]


def check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
    """Raises the one line that a bad option deserves."""
    if not holds:
        raise CaptionerError(f"--{name.replace('_', '-')} {value!r} {rule}; {remedy}")


def check_collection(what: str, name: str) -> None:
    """Checks that a text can name a collection.

    Args:
      what: names it in the message, such as ``--collection``.
      name: the text.

    Raises:
      CaptionerError: it is empty, too long, not printable, or starts or ends with a space.
    """
    is_plain = name.isprintable() and name == name.strip()
    if not (is_plain and 1 <= len(name) <= MAX_COLLECTION_LENGTH):
        raise CaptionerError(
            f"{what}: collection {name!r} must be 1 to {MAX_COLLECTION_LENGTH} printable characters without spaces at "
            "its ends; choose another name"
        )


def _check_rate(name: str, rate: float, remedy: str) -> None:
    check(0 < rate <= 1, name, rate, "must be above 0, at most 1", remedy)


def beam_width_option(default: int | None, *, help: str) -> Any:
    """The field of a beam width; None is a model's own choice."""
    return option(default, help=help, metavar="K", limits=(1, 20), remedy="3 suits most models")


def threshold_option(default: float | None, *, help: str) -> Any:
    """The field of a least cosine."""
    return option(
        default, help=help, metavar="X", limits=(-1, 1), remedy="it is a cosine; 0.9 is strict"
    )


def _check_run_id(root: str, run_id: str) -> None:
    try:
        RunLayout(root, run_id)
    except ValueError as error:
        raise CaptionerError(str(error)) from error


@dataclass(frozen=True)
class ImageLimits:
    """What one image may be and take; more is a failure.

    Args:
      max_pixels: of the whole image.
      max_bytes: of its file.
      max_seconds: of decoding.
    """

    max_pixels: int
    max_bytes: int
    max_seconds: float


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What every job that reads images takes."""

    images: str = uri_option(
        help="folder of images, searched through all its subfolders", metavar="DIR"
    )
    output: str = _output_root()
    run_id: str = option(
        DEFAULT_RUN_ID, help="name of this run; the same name again replaces the run", metavar="ID"
    )
    collection: str | None = option(
        None,
        help="name of the collection that the images belong to, which together with an image's path identifies it in "
        "all tables (default: a name made from the images folder)",
        metavar="NAME",
    )
    exclude: tuple[str, ...] = option(
        (),
        help="leave out files and folders of this shell pattern, such as '*_thumb.jpg', 'raw/' or '2019/*.png'; a "
        "pattern with a slash is for the path below --images, any other for a name; may be repeated",
        metavar="PATTERN",
    )
    batch_size: int = option(
        32,
        help="images per call of the network",
        metavar="N",
        limits=(1, 1024),
        remedy="32 suits most machines",
    )
    max_pixels: int = option(
        100_000_000,
        help="images with more pixels are failures, unread",
        metavar="N",
        limits=(1, MAX_PIXELS_LIMIT),
        remedy="choose a smaller one",
    )
    max_bytes: int = option(
        268_435_456,
        help="files with more bytes are failures, unread",
        metavar="N",
        limits=(1, None),
        remedy="leave it out for 256 MiB",
    )
    max_seconds: float = option(
        60.0,
        help="an image that takes longer to decode is a failure",
        metavar="S",
        limits=(0.01, 3600),
        remedy="60 suits images of 100 megapixels",
    )
    max_failures: int | None = option(
        None,
        help="exit 1 when more images than this fail",
        metavar="N",
        limits=(0, None),
        remedy="leave it out to allow any number",
    )
    reuse: bool = option(
        True,
        help="take over what this run, made before in the same way, found for images whose bytes are the same",
    )
    only_failures: bool = option(
        False,
        help="look again at the images alone that failed when this run was made, and keep what it found of all others; "
        "a run that isn't complete is made as a whole",
    )
    failed_for: tuple[str, ...] = option(
        (),
        help="with --only-failures: only images that failed for this reason, such as timed_out; may be repeated "
        f"(one of {', '.join(IMAGE_ERRORS)}; default: all)",
        metavar="REASON",
    )
    allow_empty: bool = option(
        False,
        help="replace a run that has images even if the folder holds none now, as when it is not mounted",
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
        check_fields(self)
        if self.collection is not None:
            check_collection("--collection", self.collection)
        for pattern in self.exclude:
            holds_one = bool(pattern.strip("/. ")) and pattern.isprintable()
            check(
                holds_one,
                "exclude",
                pattern,
                "is no shell pattern",
                "write one such as '*_thumb.jpg' or 'raw/'",
            )
        for reason in self.failed_for:
            remedy = f"choose one of {', '.join(IMAGE_ERRORS)}"
            check(
                reason in IMAGE_ERRORS, "failed_for", reason, "is no reason for a failure", remedy
            )
            check(
                self.only_failures,
                "failed_for",
                reason,
                "chooses among failures",
                "give --only-failures too",
            )

    @property
    def layout(self) -> RunLayout:
        return RunLayout(self.output, self.run_id)

    @property
    def limits(self) -> ImageLimits:
        return ImageLimits(self.max_pixels, self.max_bytes, self.max_seconds)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions(ImageOptions):
    """Options of the job that turns images into features."""

    grid: bool = option(
        True,
        help="also keep the 5 x 5 grid that attention needs (190 kB an image before compression)",
    )


@dataclass(frozen=True, kw_only=True)
class CaptionOptions(ImageOptions):
    """Options of the job that turns images into captions."""

    model: str = uri_option(
        PRETRAINED,
        help="model folder, or a folder of models: its current one; pretrained comes with the package",
        metavar="MODEL_DIR",
        names=(PRETRAINED,),
    )
    beam_width: int | None = beam_width_option(
        None,
        help="hypotheses kept while a caption is searched, 1 is greedy; the model's own choice where not given",
    )
    from_features: bool = option(
        False,
        help="caption the features that extract has put into this run, with their grid; no image is read again",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.from_features and self.only_failures:
            raise CaptionerError(
                "--only-failures looks at images again and --from-features at none; leave one out"
            )


@dataclass(frozen=True, kw_only=True)
class SimilarityOptions:
    """What decides which captions match."""

    index: tuple[str, ...] = uri_option(
        (),
        help="captions table to match against: a run's or a dataset's; may be repeated",
        metavar="URI",
    )
    index_splits: tuple[str, ...] = option(
        (),
        help="of a dataset's table use this split alone; may be repeated (default: all)",
        metavar="SPLIT",
    )
    features: tuple[str, ...] = uri_option(
        (),
        help="features table for feature_score and duplicates, beside those of the runs given; may be repeated",
        metavar="URI",
    )
    threshold: float = threshold_option(0.9, help="least cosine similarity of a match")
    top_k: int = option(
        10,
        help="matches kept for each image; 0 keeps none, and match_summary still says how many reach the threshold",
        metavar="N",
        limits=(0, 10_000),
    )
    encoder: str = option(
        DEFAULT_ENCODER, help="space in which captions are compared", choices=ENCODERS
    )
    rank_by: str = option(
        SCORE,
        help="what ranks the matches: their score, or captions and features combined",
        choices=RANK_BY,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class MatchOptions(SimilarityOptions):
    """Options of the job that turns captions into matches."""

    captions: tuple[str, ...] = uri_option(
        (), help="captions table whose images are matched; may be repeated", metavar="URI"
    )
    output: str | None = uri_option(
        None,
        help="output root; tables go to ROOT/runs/RUN_ID (with --update: the root of RUN)",
        metavar="ROOT",
    )
    run_id: str | None = option(
        None,
        help="name of this run; the same name again replaces its matches (default: run; with --update: RUN's own)",
        metavar="ID",
    )
    update: str | None = uri_option(
        None,
        help="folder of a run of matches to bring up to date: its tables are read again, --captions and --index added, "
        "and only what is new, changed or gone is searched",
        metavar="RUN",
    )
    drop: tuple[str, ...] = uri_option(
        (),
        help="with --update: captions table of RUN that no longer counts; may be repeated",
        metavar="URI",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.update is None:
            if not self.captions:
                raise CaptionerError(
                    "no --captions given; name the captions table whose images are matched"
                )
            if not self.index:
                raise CaptionerError(
                    "no --index given; name at least one captions table to match against"
                )
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
            place = RunLayout.from_run_dir(self.update)
            if place is None:
                raise CaptionerError(
                    f"--update {self.update!r} is no run's folder; name ROOT/runs/RUN_ID"
                )
            root, run_id = root or place.root, run_id or place.run_id
        root, run_id = root or "", run_id or DEFAULT_RUN_ID
        _check_run_id(root, run_id)
        return RunLayout(root, run_id)


@dataclass(frozen=True, kw_only=True)
class RunOptions(SimilarityOptions, CaptionOptions):
    """Options of caption, match and report in one go."""

    output: str = _output_root("out")
    plan: bool = option(
        False, help="say what the run will take, from a measured sample, and do nothing"
    )
    check: bool = option(
        False, help="check that images folder, model and index are there and fit, and do nothing"
    )

    def __post_init__(self) -> None:
        SimilarityOptions.__post_init__(self)
        CaptionOptions.__post_init__(self)

    def caption_options(self) -> CaptionOptions:
        return CaptionOptions(
            **{f.name: getattr(self, f.name) for f in dataclasses.fields(CaptionOptions)}
        )

    def match_options(self) -> MatchOptions:
        """The images of this run are matched against the index and against each other."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(SimilarityOptions)}
        captions = self.layout.table("captions")
        shared["index"] = (*self.index, captions)
        return MatchOptions(captions=(captions,), output=self.output, run_id=self.run_id, **shared)


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of training a captioner."""

    dataset: str = uri_option(help="dataset folder: images/ and captions.parquet", metavar="DIR")
    features: str = uri_option(
        help="features table of the dataset's images, with the grid", metavar="URI"
    )
    output: str = uri_option(help="model folder to write", metavar="MODEL_DIR")
    mirrored: str | None = uri_option(
        None,
        help="features table of the mirrored training images (extract --backbone xception-mirrored): "
        "every other epoch shows an image mirrored",
        metavar="URI",
    )
    epochs: int = option(
        DEFAULT_EPOCHS, help="passes over the training captions", metavar="N", limits=(1, 10_000)
    )
    batch_size: int = option(
        16, help="images per step, each with all its captions", metavar="N", limits=(1, 4096)
    )
    learning_rate: float = option(
        1e-3, help="peak learning rate of AdamW, after a linear warm-up", metavar="X"
    )
    attention: str = option("grid", help="what the decoder looks at", choices=("grid", "mean"))
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
        check_fields(self)
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
        _check_rate("learning_rate", self.learning_rate, "0.001 is the default")
        _check_rate("reinforce_rate", self.reinforce_rate, "0.0001 is the default")


@dataclass(frozen=True, kw_only=True)
class TrainEncoderOptions:
    """Options of training the learned encoder."""

    dataset: str = uri_option(help="dataset folder: images/ and captions.parquet", metavar="DIR")
    features: tuple[str, ...] = uri_option(
        (),
        help="features table of the dataset's images; repeated, of the same images seen another way, such as mirrored",
        metavar="URI",
    )
    output: str = uri_option(help="encoder folder to write", metavar="ENCODER_DIR")
    judge: str = option(
        "learned",
        help="encoder that judges, from the dev split's captions, which score 0.9 should stand for",
        choices=ENCODERS,
    )
    epochs: int = option(
        24, help="passes over the training images", metavar="N", limits=(1, 10_000)
    )
    batch_size: int = option(
        256, help="images told apart in a step", metavar="N", limits=(2, 65_536)
    )
    learning_rate: float = option(2e-3, help="peak learning rate of AdamW", metavar="X")
    dim: int = option(256, help="dimensions of the space", metavar="N", limits=(1, 4096))
    hidden: int = option(
        768, help="units of the dense layer over image features", metavar="N", limits=(1, 65_536)
    )
    seed: int = option(
        0, help="seed of initial weights, dropout and order", metavar="N", limits=(0, None)
    )

    def __post_init__(self) -> None:
        if not self.features:
            raise CaptionerError(
                "no --features given; name the features table of the dataset's images"
            )
        check_fields(self)
        _check_rate("learning_rate", self.learning_rate, "0.002 is the default")


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Options of the gate before a promotion."""

    models: str = uri_option(help="folder of models, with the current one", metavar="DIR")
    model: str = uri_option(
        help="model that wants to pass: its name in that folder, or a model folder",
        metavar="NEW",
        bare_names=True,
    )
    split: str = option(
        "dev", help="split whose recorded CIDEr is compared", choices=("dev", "test")
    )
    margin: float = option(
        0.0,
        help="least CIDEr above the current model's; below 0 it may be a little worse",
        metavar="X",
        limits=(-1, 1),
        remedy="0 asks for a model that is no worse",
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions:
    """Options of a change of the current model."""

    models: str = uri_option(help="folder of models", metavar="DIR")
    model: str | None = uri_option(
        None,
        help="model to make the current one: its name in that folder, or its folder",
        metavar="NAME|MODEL_DIR",
        bare_names=True,
    )
    undo: bool = option(
        False, help="go back to the model that was current before; again, to the one before that"
    )

    def __post_init__(self) -> None:
        check_fields(self)
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
class InboxOptions:
    """Options of a look at an inbox."""

    inbox: str = uri_option(
        help="folder whose subfolders are to be captioned, a run each", metavar="DIR"
    )
    output: str = uri_option(
        help="output root where their runs are: ROOT/runs/RUN_ID", metavar="ROOT"
    )
    marker: str = option(
        "_SUCCESS", help="file in a subfolder that says that it is complete", metavar="NAME"
    )
    quiet_minutes: float = option(
        10.0,
        help="without the marker, a subfolder is complete once nothing changed for so long",
        metavar="N",
        limits=(0, 10_080),
    )
    marker_only: bool = option(False, help="only the marker says that a subfolder is complete")
    json: bool = option(False, help="print a JSON list in place of lines")

    def __post_init__(self) -> None:
        _check_run_id(self.output, DEFAULT_RUN_ID)
        plain = (
            self.marker not in ("", ".", "..")
            and "/" not in self.marker
            and self.marker.isprintable()
        )
        check(
            plain,
            "marker",
            self.marker,
            "must be the plain name of a file",
            "_SUCCESS is the default",
        )
        check_fields(self)
