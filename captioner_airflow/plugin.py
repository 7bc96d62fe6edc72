"""The tab Report in Airflow's UI, on the page of each run, for users who may see that run."""

from __future__ import annotations

import functools
from typing import Any

from airflow.plugins_manager import AirflowPlugin

_URL_PREFIX = "/captioner"
_NO_REPORT = (
    "This run has no captioner report. A run of caption_folder gets one when its task 'report' "
    "succeeds."
)


@functools.cache
def _make_app() -> Any:
    """Returns the FastAPI app that serves reports.

    It reads a report only from the run folder that the run's own task ``report`` returned, and only
    if that is ROOT/runs/RUN_ID within the allowed roots.
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response

    app = FastAPI(title="captioner", docs_url=None, redoc_url=None, openapi_url=None)
    may_see_run = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))

    @app.get("/report/{dag_id}/{run_id:path}", dependencies=[may_see_run])
    def report(dag_id: str, run_id: str) -> Response:
        """Returns the report of a run as a page, or status 404."""
        page = _read_report(dag_id, run_id)
        if page is None:
            return PlainTextResponse(_NO_REPORT, status_code=404)
        # The page shows file names and captions from untrusted images, so no script may run in it.
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
        headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(page, headers=headers)

    return app


def _read_report(dag_id: str, run_id: str) -> str | None:
    from airflow.models.xcom import XComModel
    from airflow.sdk import ObjectStoragePath
    from airflow.utils.session import create_session

    from captioner_core.security.allowed_roots import is_allowed
    from captioner_core.tables.layout import RunLayout

    with create_session() as session:
        query = XComModel.get_many(
            run_id=run_id, dag_ids=dag_id, task_ids="report", key="return_value", limit=1
        )
        row = session.scalars(query).first()
        run_dir = XComModel.deserialize_value(row) if row else None
    layout = RunLayout.from_run_dir(run_dir) if isinstance(run_dir, str) else None
    if layout is None or not is_allowed(layout.report):
        return None
    try:
        return ObjectStoragePath(layout.report).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


async def _serve_reports(scope: Any, receive: Any, send: Any) -> None:
    """Answers an ASGI request for a report.

    The app is created at the first request, because every Airflow process loads plugins but only
    the API server serves pages.
    """
    await _make_app()(scope, receive, send)


class CaptionerPlugin(AirflowPlugin):
    """The plugin that Airflow finds through the entry point ``airflow.plugins``."""

    name = "captioner"
    # RUF012: Airflow expects plain lists as class attributes.
    fastapi_apps = [  # noqa: RUF012
        {"app": _serve_reports, "url_prefix": _URL_PREFIX, "name": "captioner"}
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "Report",
            "href": f"{_URL_PREFIX}/report/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "captioner-report",
        }
    ]
