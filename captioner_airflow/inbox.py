"""The form and the work of watch_inbox: complete folders of an inbox become caption_folder runs."""

from airflow.sdk import Context, Param, get_current_context

from captioner_airflow import forms, jobs, settings
from captioner_core.errors import CaptionerError
from captioner_core.options import InboxOptions, arguments_of
from captioner_core.security.redaction import escape_control_chars

_CAPTION_FOLDER = "caption_folder"
# Airflow maps at most 1024 tasks over one list ([core] max_map_length). The next run of watch_inbox
# starts the remaining folders.
_MAX_STARTS = 1000


def make_inbox_form() -> dict[str, Param]:
    """Returns the fields of the form of watch_inbox, all empty because the Variable sets them."""
    form = forms.make_params(
        InboxOptions, "inbox", "output", "marker", "quiet_minutes", "marker_only"
    )
    for param in form.values():
        json_type = param.schema["type"]
        param.schema["type"] = json_type if isinstance(json_type, list) else ["null", json_type]
        param.value = None
    return form


def list_runs_to_start() -> list[settings.JsonObject]:
    """Returns the runs to start: one for each complete folder of the inbox that has none.

    Returns:
      Keyword arguments of TriggerDagRunOperator, one dict a run.

    Raises:
      CaptionerError: if no inbox or output root is set, or a setting is invalid.
    """
    context = get_current_context()
    filled = {name: value for name, value in context["params"].items() if value is not None}
    values = {**settings.read_variable(settings.INBOX_VARIABLE), **filled}
    caption_conf = values.pop("caption", {})
    options = _make_options(values)
    starts = []
    for folder in jobs.read_command_json("inbox", *arguments_of(options)):
        line = f"{folder['folder']}: {folder['state']} {folder['reason'] or ''}"
        print(escape_control_chars(line.rstrip()))
        airflow_run_id = f"inbox__{folder['run_id']}"
        if folder["state"] != "ready" or _has_run(context, airflow_run_id):
            continue
        conf = {
            **caption_conf,
            "images": folder["uri"],
            "output": options.output,
            "run_id": folder["run_id"],
        }
        starts.append({"trigger_run_id": airflow_run_id, "conf": conf})
    return starts[:_MAX_STARTS]


def _make_options(values: settings.JsonObject) -> InboxOptions:
    if missing := [name for name in ("inbox", "output") if not values.get(name)]:
        raise CaptionerError(
            f"no {missing[0]} is set; set the Airflow Variable {settings.INBOX_VARIABLE}, such as "
            '{"inbox": "/data/inbox", "output": "/data/out"}'
        )
    try:
        return InboxOptions(**values, json=True)
    except TypeError as error:
        raise CaptionerError(
            f"Airflow Variable {settings.INBOX_VARIABLE}: {error}; docs/airflow.md lists its names"
        ) from error


def _has_run(context: Context, airflow_run_id: str) -> bool:
    return bool(context["ti"].get_dr_count(_CAPTION_FOLDER, run_ids=[airflow_run_id]))
