"""Renders the report's template with its filters.

All texts in a run's tables come from others. On its way into the page, every text passes through
``escape_control_chars`` and through Jinja's autoescape.
"""

import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from captioner_core.security.redaction import escape_control_chars


def render(values: Mapping[str, object]) -> str:
    """Returns the page as HTML.

    Args:
      values: what the template shows, by the names that it uses.
    """
    return _environment().get_template("report.html.j2").render(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent_of": _format_percent,
        "score": _format_score,
        "seconds": _format_seconds,
        "plain": _format_value,
        "short": _truncate,
        "thousands": lambda number: f"{number:,}",
    }
    return environment


def _finalize(value: Any) -> Any:
    """Escapes control characters in every text that the template inserts."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return escape_control_chars(value)
    return value


def _format_percent(part: int, whole: int) -> str:
    """Returns a share, rounded down, so that 100 % means all."""
    return f"{math.floor(1000 * part / whole) / 10:g} %" if whole else "–"


def _format_score(value: float) -> str:
    """Returns three decimals, rounded down.

    A score just below the threshold must not look as if it reached it.
    """
    return f"{math.floor(value * 1000 + 1e-3) / 1000:.3f}"


def _format_seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_format_value, value)) or "none"
    if isinstance(value, str):
        return value
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _truncate(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
