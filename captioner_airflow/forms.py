"""Forms of options: what a field of a dataclass states becomes what the UI shows and checks."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from airflow.sdk import Context, Param, get_current_context

from captioner_airflow import settings
from captioner_airflow.runners import DEFAULT_RUNNER, RUNNERS, RunnerSettings, runner_options
from captioner_core.options import limits_text

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", tuple: "array"}


@dataclasses.dataclass(frozen=True)
class FilledForm:
    """What a run of a DAG was asked for.

    Args:
      params: what its form holds.
      airflow_run_id: what Airflow calls the run.
    """

    params: Mapping[str, Any]
    airflow_run_id: str

    @classmethod
    def current(cls, context: Context | None = None) -> Self:
        """That of the run that the current task is part of."""
        context = context or get_current_context()
        return cls(context["params"], context["run_id"])

    def runner_options(self) -> list[str]:
        """Beam's options of the runner that was chosen.

        Raises:
          CaptionerError: it is not set up in this place.
        """
        return runner_options(
            self.params["runner"], RunnerSettings(settings.variable(settings.RUNNERS))
        )


def runner_field(description: str) -> Param:
    """The field by which a form names a runner."""
    return Param(
        DEFAULT_RUNNER, type="string", enum=list(RUNNERS), title="Runner", description=description
    )


def form_of(options_class: type, *names: str, section: str | None = None) -> dict[str, Param]:
    """Airflow's Params of some fields: their types, help, choices and limits are the fields' own.

    Args:
      options_class: a dataclass of options.
      names: of its fields, in the order of the form.
      section: heading under which the form puts them.
    """
    hints, fields = (
        typing.get_type_hints(options_class),
        {f.name: f for f in dataclasses.fields(options_class)},
    )
    return {name: _param(fields[name], hints[name], section) for name in names}


def _param(field: dataclasses.Field[Any], hint: Any, section: str | None) -> Param:
    optional = isinstance(hint, types.UnionType)
    kind = next(k for k in typing.get_args(hint) if k is not type(None)) if optional else hint
    json_type = _JSON_TYPES[typing.get_origin(kind) or kind]
    facts = field.metadata
    schema: dict[str, Any] = {"type": ["null", json_type] if optional else json_type}
    if json_type == "array":
        schema["items"] = {"type": "string", "minLength": 1}
    if json_type == "string" and not facts["choices"]:
        schema.update(minLength=1, maxLength=4096)
    if facts["choices"]:
        schema["enum"] = list(facts["choices"])
    if facts["limits"]:
        least, most = facts["limits"]
        schema["minimum"] = least
        if most is not None:
            schema["maximum"] = most
    if field.default is not dataclasses.MISSING:
        schema["default"] = (
            list(field.default) if isinstance(field.default, tuple) else field.default
        )
    text, limits = facts["help"][0].upper() + facts["help"][1:], limits_text(field)
    if section:
        schema["section"] = section
    return Param(
        title=field.name.replace("_", " ").capitalize(),
        description=f"{text} ({limits})." if limits else f"{text}.",
        **schema,
    )
