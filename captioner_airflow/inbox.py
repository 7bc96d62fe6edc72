"""What watch_inbox does: folders of an inbox to runs of caption_folder."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param, get_current_context

from captioner_airflow import settings
from captioner_airflow.forms import form_of
from captioner_airflow.jobs import ask_command
from captioner_core.errors import CaptionerError
from captioner_core.options import InboxOptions, arguments_of
from captioner_core.security.redaction import escape_control_chars

_CAPTION_FOLDER = "caption_folder"
_MOST = 1000  # tasks that Airflow makes of one list at most, [core] max_map_length, are 1024; the rest comes next time


def inbox_form() -> dict[str, Param]:
    """The form of watch_inbox: all empty, since the Variable says what is always so."""
    form = form_of(InboxOptions, "inbox", "output", "marker", "quiet_minutes", "marker_only")
    for param in form.values():
        kind = param.schema["type"]
        param.schema["type"] = kind if isinstance(kind, list) else ["null", kind]
        param.value = None
    return form


def complete_folders() -> list[dict[str, Any]]:
    """Folders that are complete and have no run, as arguments of TriggerDagRunOperator.

    Raises:
      CaptionerError: no inbox is named, or a setting is bad.
    """
    context = get_current_context()
    asked = {name: value for name, value in context["params"].items() if value is not None}
    place = {**settings.variable(settings.INBOX), **asked}
    caption = place.pop("caption", {})
    if lacking := [name for name in ("inbox", "output") if not place.get(name)]:
        raise CaptionerError(
            f"no {lacking[0]} is named; set the Airflow Variable {settings.INBOX}, as "
            '{"inbox": "/data/inbox", "output": "/data/out"}'
        )
    try:
        options = InboxOptions(**place, json=True)
    except TypeError as error:
        raise CaptionerError(
            f"Airflow Variable {settings.INBOX}: {error}; docs/airflow.md lists its names"
        ) from error
    starts = []
    for folder in ask_command("inbox", *arguments_of(options)):
        print(
            escape_control_chars(
                f"{folder['folder']}: {folder['state']} {folder['reason'] or ''}".rstrip()
            )
        )
        run_id = f"inbox__{folder['run_id']}"
        if folder["state"] == "ready" and not context["ti"].get_dr_count(
            _CAPTION_FOLDER, run_ids=[run_id]
        ):
            asked = {
                **caption,
                "images": folder["uri"],
                "output": options.output,
                "run_id": folder["run_id"],
            }
            starts.append({"trigger_run_id": run_id, "conf": asked})
    return starts[:_MOST]
