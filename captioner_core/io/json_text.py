"""Parsing of JSON that may come from somebody else."""

import json
from typing import Any

JsonObject = dict[str, Any]
"""A JSON object of any content."""


def parse_json(text: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
      ValueError: the text is not UTF-8, is not JSON, or is nested too deeply to be parsed.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its lists are nested too deeply") from error


def parse_object(text: str | bytes) -> JsonObject | None:
    """Returns the object that a JSON text describes, or None if the text is anything else."""
    try:
        value = parse_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
