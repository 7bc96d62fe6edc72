"""Dataclass fields that are command-line options and form fields, and the rules they keep.

Each field carries its help text and its limits, so that the command line, the Airflow form and the
manifest describe the same options.

>>> @dataclass(frozen=True, kw_only=True)
... class SearchOptions(Options):
...     top_k: int = option(10, help="matches for each image", limits=(1, None))
>>> SearchOptions(top_k=0)
Traceback (most recent call last):
captioner_core.errors.CaptionerError: --top-k 0 must be 1 or more; 10 is the default
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from captioner_core.errors import CaptionerError
from captioner_core.options.choices import MAX_COLLECTION_LENGTH
from captioner_core.security.allowed_roots import check_uri
from captioner_core.tables.layout import RunLayout


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a command, which check themselves when they are made.

    Raises:
      CaptionerError: A value breaks a rule. The line names value, rule and remedy.
    """

    def __post_init__(self) -> None:
        """Checks each field: its choices, its limits, and its paths. None is within all limits.

        A field of several values may be given as one text, or as a list, as JSON has it.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if str(field.type).startswith("tuple") and isinstance(value, str | list):
                value = (value,) if isinstance(value, str) else tuple(value)
                # The dataclass is frozen for everybody else.
                object.__setattr__(self, field.name, value)
            if choices := field.metadata["choices"]:
                remedy = f"choose one of {', '.join(choices)}"
                check(value in choices, field.name, value, "is not known", remedy)
            if field.metadata["limits"] and value is not None:
                for item in value if isinstance(value, tuple) else (value,):
                    _check_limits(field, item)
            for uri in uris_of(field, value):
                check_uri(f"--{field.name.replace('_', '-')}", uri)


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    limits: tuple[float, float | None] | None = None,
    remedy: str | None = None,
    is_name: Callable[[str], bool] | None = None,
) -> Any:
    """Returns a dataclass field that is also a command-line option and a field of a form.

    Args:
      default: The value if the option is not given. Without one the option is required.
      help: What the option means.
      metavar: The name of the value in ``--help``.
      choices: The values that the option may have.
      limits: The least and the largest value; None as the largest allows any.
      remedy: What to do about a value beyond the limits. By default the message names the
        default value.
      is_name: Tells values that are names from paths and URIs; see ``uri_option``. None if the
        option holds no path.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "choices": choices,
        "limits": limits,
        "remedy": remedy,
        "is_name": is_name,
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
    """Returns an ``option`` whose value is a path or a URI, or a tuple of them.

    Args:
      default: The value if the option is not given. Without one the option is required.
      help: What the option means.
      metavar: The name of the value in ``--help``.
      names: Values that are names, such as ``pretrained``, not paths.
      bare_names: Whether every value without a slash is a name.
    """
    is_name = (lambda value: "/" not in value) if bare_names else names.__contains__
    return option(default, help=help, metavar=metavar, is_name=is_name)


def output_root(default: Any = dataclasses.MISSING) -> Any:
    """Returns the field of ``--output`` for jobs that write a run."""
    return uri_option(default, help="output root; tables go to ROOT/runs/RUN_ID", metavar="ROOT")


def beam_width_option(default: int | None, *, help: str) -> Any:
    """Returns the field of a beam width; None stands for the model's own choice."""
    return option(default, help=help, metavar="K", limits=(1, 20), remedy="3 suits most models")


def threshold_option(default: float | None, *, help: str) -> Any:
    """Returns the field of a least cosine similarity."""
    return option(
        default, help=help, metavar="X", limits=(-1, 1), remedy="it is a cosine; 0.9 is strict"
    )


def check_absolute(options: Options) -> None:
    """Refuses relative paths, which processes in other folders would look for elsewhere.

    Raises:
      CaptionerError: A path is relative. The line names it.
    """
    rule = "is relative, and the workers of a cluster start in folders of their own"
    for field in dataclasses.fields(options):
        for uri in uris_of(field, getattr(options, field.name)):
            is_absolute = "://" in uri or os.path.isabs(uri)
            check(is_absolute, field.name, uri, rule, f"write {os.path.abspath(uri)!r} or a URI")


def uris_of(field: dataclasses.Field[Any], value: Any) -> list[str]:
    """Returns the paths and URIs that an option holds; an empty list if it holds none."""
    is_name = field.metadata["is_name"]
    if is_name is None or value is None:
        return []
    values = value if isinstance(value, tuple) else (value,)
    return [uri for uri in values if not is_name(uri)]


def limits_text(field: dataclasses.Field[Any]) -> str:
    """Returns a field's limits as text; an empty string if it has none.

    >>> limits_text(option(3, help="hypotheses kept", limits=(1, 20)))
    '1 to 20'
    """
    if not field.metadata["limits"]:
        return ""
    minimum, maximum = field.metadata["limits"]
    if maximum is None:
        return f"{_number_text(minimum)} or more"
    return f"{_number_text(minimum)} to {_number_text(maximum)}"


def check(holds: bool, name: str, value: object, rule: str, remedy: str) -> None:
    """Checks a rule of an option.

    Args:
      holds: Whether the value keeps the rule.
      name: The option's field name.
      value: The option's value.
      rule: The rule, as the end of a sentence: "must be 1 or more".
      remedy: What the user should do instead.

    Raises:
      CaptionerError: The value does not keep the rule.
    """
    if not holds:
        raise CaptionerError(f"--{name.replace('_', '-')} {value!r} {rule}; {remedy}")


def check_rate(name: str, rate: float, remedy: str) -> None:
    """Checks that a learning rate is above 0 and at most 1.

    Raises:
      CaptionerError: It is not.
    """
    check(0 < rate <= 1, name, rate, "must be above 0, at most 1", remedy)


def check_one_for_each_dataset(dataset: Sequence[str], **others: Sequence[object]) -> None:
    """Checks that options of datasets are given as often as ``--dataset``, or not at all.

    Args:
      dataset: The datasets.
      others: The values of the other options, by field name.

    Raises:
      CaptionerError: An option is given more or less often.
    """
    for name, values in others.items():
        if values and len(values) != len(dataset):
            raise CaptionerError(
                f"--{name.replace('_', '-')} is given {len(values)} times and --dataset "
                f"{len(dataset)} times; give one for each dataset, in the same order"
            )


def check_features_of_datasets(
    dataset: Sequence[str], features: Sequence[str], **others: Sequence[object]
) -> None:
    """Checks that each dataset has a features table, and other options as they should be.

    Args:
      dataset: The datasets.
      features: The features tables.
      others: The values of other options; see ``check_one_for_each_dataset``.

    Raises:
      CaptionerError: There are no features, or an option is given more or less often.
    """
    if not features:
        raise CaptionerError("no --features given; name the features table of the dataset's images")
    check_one_for_each_dataset(dataset, features=features, **others)


def check_run_id(root: str, run_id: str) -> None:
    """Checks that a run id can name a folder below an output root.

    Raises:
      CaptionerError: It cannot.
    """
    try:
        RunLayout(root, run_id)
    except ValueError as error:
        raise CaptionerError(str(error)) from error


def check_collection(what: str, name: str) -> None:
    """Checks that a text can name a collection.

    Args:
      what: What the text is, for the message, such as ``--collection``.
      name: The text.

    Raises:
      CaptionerError: It is empty, too long, not printable, or starts or ends with a space.
    """
    is_plain = name.isprintable() and name == name.strip()
    if not is_plain or not 1 <= len(name) <= MAX_COLLECTION_LENGTH:
        raise CaptionerError(
            f"{what}: collection {name!r} must be 1 to {MAX_COLLECTION_LENGTH} printable "
            "characters without spaces at its ends; choose another name"
        )


def _check_limits(field: dataclasses.Field[Any], value: float) -> None:
    minimum, maximum = field.metadata["limits"]
    default = 1 if field.default == () else field.default
    remedy = field.metadata["remedy"] or f"{default} is the default"
    # NaN fails both comparisons.
    is_within = minimum <= value <= (math.inf if maximum is None else maximum)
    check(is_within, field.name, value, f"must be {limits_text(field)}", remedy)


def _number_text(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
