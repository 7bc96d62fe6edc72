"""The report in Airflow's UI: a tab on the page of each run, for those who may see the run."""

from __future__ import annotations

import functools
from typing import Any

from airflow.plugins_manager import AirflowPlugin

_PREFIX = "/captioner"
_NO_REPORT = "This run has no captioner report; a run of caption_folder has one once its task 'report' is green."


@functools.cache
def _app() -> Any:
    """The part of the API server that hands out reports.

    A report is read where the run's own task said it is, and from no other place than
    ROOT/runs/RUN_ID/report/index.html.
    """
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
    from airflow.api_fastapi.core_api.security import requires_access_dag
    from fastapi import Depends, FastAPI
    from fastapi.responses import HTMLResponse, PlainTextResponse, Response

    app = FastAPI(title="captioner", docs_url=None, redoc_url=None, openapi_url=None)
    may_see = Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.RUN))

    @app.get("/report/{dag_id}/{run_id:path}", dependencies=[may_see])
    def report(dag_id: str, run_id: str) -> Response:
        page = _read_report(dag_id, run_id)
        if page is None:
            return PlainTextResponse(_NO_REPORT, status_code=404)
        # what the page shows comes from file names and captions, so it may run nothing, whatever they hold
        headers = {
            "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox",
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(page, headers=headers)

    return app


def _read_report(dag_id: str, run_id: str) -> str | None:
    from airflow.models.xcom import XComModel
    from airflow.sdk import ObjectStoragePath
    from airflow.utils.session import create_session

    from captioner_core.security.allowed_roots import is_allowed
    from captioner_core.tables.layout import RunLayout

    with create_session() as session:
        asked = XComModel.get_many(
            run_id=run_id, dag_ids=dag_id, task_ids="report", key="return_value", limit=1
        )
        row = session.scalars(asked).first()
        run_dir = XComModel.deserialize_value(row) if row else None
    place = RunLayout.from_run_dir(run_dir) if isinstance(run_dir, str) else None
    if place is None or not is_allowed(place.report):
        return None
    try:
        return ObjectStoragePath(place.report).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


async def _reports(scope: Any, receive: Any, send: Any) -> None:
    """Makes the app when it is first asked: every process of Airflow loads plugins, and one serves pages."""
    await _app()(scope, receive, send)


class CaptionerPlugin(AirflowPlugin):
    """Found by Airflow through the entry point ``airflow.plugins``."""

    name = "captioner"
    fastapi_apps = [{"app": _reports, "url_prefix": _PREFIX, "name": "captioner"}]  # noqa: RUF012  Airflow's own form
    external_views = [  # noqa: RUF012
        {
            "name": "Report",
            "href": f"{_PREFIX}/report/{{DAG_ID}}/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "captioner-report",
        }
    ]
