"""Airflow forms made from option dataclasses, and the values that a user submits in them."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Self, get_args, get_origin, get_type_hints

from airflow.sdk import Context, Param, get_current_context

from captioner_airflow import settings
from captioner_airflow.runners import (
    DEFAULT_RUNNER,
    RUNNERS,
    RunnerSettings,
    make_beam_arguments,
)
from captioner_core.io.json_text import JsonObject
from captioner_core.options import limits_text

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", tuple: "array"}


@dataclasses.dataclass(frozen=True)
class FilledForm:
    """The values that a user submitted in the form of a DAG.

    Args:
      params: the value of each field.
      airflow_run_id: the id that Airflow gave the DAG run.
    """

    params: Mapping[str, Any]
    airflow_run_id: str

    @classmethod
    def current(cls, context: Context | None = None) -> Self:
        """Returns the form of the DAG run that the current task belongs to."""
        context = context or get_current_context()
        return cls(context["params"], context["run_id"])

    def select(self, *names: str) -> dict[str, Any]:
        """Returns the values of some fields, as keyword arguments of an options class."""
        return {name: self.params[name] for name in names}

    def select_for(self, options_class: type, *without: str) -> Mapping[str, Any]:
        """Returns the values of all fields that an options class has, as its keyword arguments.

        Args:
          options_class: a dataclass of options, such as ``RunOptions``.
          without: fields to leave out.
        """
        names = {field.name for field in dataclasses.fields(options_class)} - set(without)
        values = self.select(*(name for name in self.params if name in names))
        return {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }

    def beam_arguments(self) -> list[str]:
        """Returns the command-line arguments that select and configure the chosen Beam runner.

        Raises:
          CaptionerError: if the runner is not configured in this Airflow.
        """
        configured = RunnerSettings(settings.read_variable(settings.RUNNERS_VARIABLE))
        return make_beam_arguments(self.params["runner"], configured)


def make_runner_param(description: str) -> Param:
    """Returns the form field that selects a Beam runner.

    Args:
      description: the text that the form shows below the field.
    """
    return Param(
        DEFAULT_RUNNER, type="string", enum=list(RUNNERS), title="Runner", description=description
    )


def make_params(options_class: type, *names: str, section: str | None = None) -> dict[str, Param]:
    """Returns Airflow Params with the type, help, choices and limits of option fields.

    Args:
      options_class: a dataclass of options, such as ``RunOptions``.
      names: the fields to include, in the order of the form.
      section: the heading under which the form shows them, if any.
    """
    hints = get_type_hints(options_class)
    fields = {field.name: field for field in dataclasses.fields(options_class)}
    return {name: _make_param(fields[name], hints[name], section) for name in names}


def _make_param(field: dataclasses.Field[Any], hint: Any, section: str | None) -> Param:
    schema = _make_schema(field, hint)
    if section:
        schema["section"] = section
    help_text = field.metadata["help"]
    description = help_text[0].upper() + help_text[1:]
    if limits := limits_text(field):
        description += f" ({limits})"
    title = field.name.replace("_", " ").capitalize()
    return Param(title=title, description=f"{description}.", **schema)


def _make_schema(field: dataclasses.Field[Any], hint: Any) -> JsonObject:
    """Returns the JSON schema of an option field, including its default."""
    is_optional = isinstance(hint, types.UnionType)
    if is_optional:
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    json_type = _JSON_TYPES[get_origin(hint) or hint]
    schema: JsonObject = {"type": ["null", json_type] if is_optional else json_type}
    if json_type == "array":
        schema["items"] = {"type": "string", "minLength": 1}
    if field.metadata["choices"]:
        schema["enum"] = list(field.metadata["choices"])
    elif json_type == "string":
        schema["minLength"] = 1
        schema["maxLength"] = 4096
    if field.metadata["limits"]:
        minimum, maximum = field.metadata["limits"]
        schema["minimum"] = minimum
        if maximum is not None:
            schema["maximum"] = maximum
    if field.default is not dataclasses.MISSING:
        is_tuple = isinstance(field.default, tuple)
        schema["default"] = list(field.default) if is_tuple else field.default
    return schema
