"""Turns option dataclasses into command-line arguments, and parsed arguments into options."""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from captioner_core.errors import CaptionerError
from captioner_core.options.fields import limits_text
from captioner_core.security.redaction import redact_uri
from captioner_core.security.uris import normalize_uri

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser, options_class: type) -> None:
    """Adds an argument for each field of an options dataclass.

    A tuple becomes an argument that may be repeated, a bool becomes an on/off pair.
    """
    hints = typing.get_type_hints(options_class)
    for field in dataclasses.fields(options_class):
        name = "--" + field.name.replace("_", "-")
        hint = hints[field.name]
        if hint is bool:
            parser.add_argument(
                name, action=SwitchOnce, default=field.default, help=field.metadata["help"]
            )
        else:
            _add_value_argument(parser, name, field, hint)


def from_namespace(options_class: type[T], namespace: argparse.Namespace) -> T:
    """Returns the checked options of a parsed command line.

    Raises:
      CaptionerError: A value breaks a rule. The line names value, rule and remedy.
    """
    values = {}
    for field in dataclasses.fields(options_class):  # type: ignore[arg-type]
        value = getattr(namespace, field.name)
        is_repeated = field.default == () or isinstance(value, list)
        values[field.name] = tuple(value or ()) if is_repeated else value
    return options_class(**values)


def arguments_of(options: Any) -> list[str]:
    """Returns the command line that these options are parsed from, one argument for each.

    >>> from captioner_core.options import PromoteOptions
    >>> arguments_of(PromoteOptions(models="models", undo=True))
    ['--models=models', '--undo']
    """
    fields = dataclasses.fields(options)
    switches = {
        "--" + field.name.replace("_", "-") for field in fields if isinstance(field.default, bool)
    }
    values = {field.name: getattr(options, field.name) for field in fields}
    arguments = []
    for name, value in given_options(type(options), values):
        if name not in switches:
            arguments.append(f"{name}={value}")
        elif value == "True":
            arguments.append(name)
        else:
            arguments.append(name.replace("--", "--no-", 1))
    return arguments


def given_options(options_class: type, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the command-line options, with their values, that stand for these values.

    Default values are left out, and so are names that are no options. An option with several
    values is repeated.

    Args:
      options_class: An options dataclass.
      values: Values by field name.
    """
    options: list[tuple[str, str]] = []
    for field in dataclasses.fields(options_class):
        value = values.get(field.name)
        if value is None or value == field.default:
            continue
        name = "--" + field.name.replace("_", "-")
        # Values that were stored as JSON are lists.
        items = value if isinstance(value, tuple | list) else (value,)
        options.extend((name, str(item)) for item in items)
    return options


class StoreOnce(argparse.Action):
    """Stores an option's value and refuses a second one, since nobody could tell which counts."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if option_string is not None:
            given = _given_values(namespace)
            value = f"{values!s:.200}"
            if self.dest in given:
                name = "/".join(self.option_strings)
                first = redact_uri(given[self.dest])
                parser.error(
                    f"{name} is given twice, as {first!r} and {redact_uri(value)!r}, "
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
        first = _given_values(namespace).setdefault(self.dest, option_string or "")
        if first != option_string:
            parser.error(
                f"{first} and {option_string} are both given and contradict each other; "
                "leave one out"
            )
        super().__call__(parser, namespace, values, option_string)


def _add_value_argument(
    parser: argparse.ArgumentParser, name: str, field: dataclasses.Field[Any], hint: Any
) -> None:
    is_required = field.default is dataclasses.MISSING
    is_repeated = typing.get_origin(hint) is tuple
    if is_name := field.metadata["is_name"]:
        convert: Callable[[str], Any] = _uri_type(is_name)
    else:
        convert = _type_of_one(hint)
    has_default = not is_required and field.default not in (None, ())
    default_text = f"default: {field.default}" if has_default else ""
    facts = "; ".join(filter(None, [limits_text(field), default_text]))
    parser.add_argument(
        name,
        help=field.metadata["help"] + (f" ({facts})" if facts else ""),
        required=is_required,
        metavar=field.metadata["metavar"],
        choices=field.metadata["choices"],
        type=convert,
        default=None if is_required or is_repeated else field.default,
        action="append" if is_repeated else StoreOnce,
    )


def _type_of_one(hint: Any) -> Any:
    """Returns the type of one value: ``int`` for ``int | None`` and for ``tuple[int, ...]``."""
    kinds = typing.get_args(hint) or (hint,)
    return next(kind for kind in kinds if kind is not types.NoneType)


def _uri_type(is_name: Callable[[str], bool]) -> Callable[[str], str]:
    """Returns the ``type`` of an argument that is a path, a URI or a name."""

    def path(text: str) -> str:
        """Returns a name as it is, and a path or URI in its normal form."""
        if is_name(text):
            return text
        try:
            return normalize_uri(text)
        except CaptionerError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return path


def _given_values(namespace: argparse.Namespace) -> dict[str, str]:
    """Returns the values that this command line has given so far, by field name."""
    given: dict[str, str] = namespace.__dict__.setdefault("_given_options", {})
    return given
