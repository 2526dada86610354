"""The pages: of a run report (what a task did, for people, and the JSON that it left), and of what runs where."""

from __future__ import annotations

import json
from html import escape
from typing import Any, Final

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag, requires_access_view
from airflow.models.xcom import XComModel
from airflow.providers.common.compat.sdk import XCOM_RETURN_KEY
from datakit.errors import DatakitError
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse

from airflow_datakit._html import document, error_box
from airflow_datakit._status_page import status_page

_FIRST: Final = ("status", "dataset", "warehouse", "table", "mode", "rows_read", "rows_written", "seconds", "datakit")


def application() -> FastAPI:
    """Return the web application; Airflow leaves plugins open to anybody unless they ask for a right themselves."""
    app = FastAPI(
        title="Datakits",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(requires_access_view(AccessView.PLUGINS))],
    )

    @app.get("/")
    def what_runs_where() -> HTMLResponse:
        try:
            return HTMLResponse(status_page())
        except DatakitError as error:
            box = error_box(error.what, error.subject, error.cause, error.fix)
            return HTMLResponse(document("What runs where", box), status_code=503)

    @app.get(
        "/reports/{dag_id}/{run_id}/{task_id}/{map_index}",
        # whoever may not see a DAG's XComs may not see its run reports, which are XComs
        dependencies=[Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.XCOM))],
    )
    def report(dag_id: str, run_id: str, task_id: str, map_index: int, session: SessionDep) -> HTMLResponse:
        query = XComModel.get_many(
            run_id=run_id, key=XCOM_RETURN_KEY, task_ids=task_id, dag_ids=dag_id, map_indexes=map_index, limit=1
        )
        found = session.scalars(query).first()
        title = f"{dag_id} · {task_id}" + (f" [{map_index}]" if map_index >= 0 else "")
        if found is None:
            raise HTTPException(
                404, f"{title} left no run report in {run_id}: it never ran, or was killed before it could"
            )
        return HTMLResponse(_page(title, run_id, XComModel.deserialize_value(found)))

    return app


def _page(title: str, run_id: str, report: Any) -> str:
    known = report if isinstance(report, dict) else {}
    rows = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(_text(known[name]))}</td></tr>"
        for name in _FIRST
        if known.get(name) is not None
    )
    text = json.dumps(report, indent=2, ensure_ascii=False, default=str)
    return document(
        title,
        f"<p>{escape(run_id)}</p><table>{rows}</table>{_error(known.get('error'))}"
        f"<h2>Run report</h2><pre>{escape(text)}</pre>",
    )


def _error(error: Any) -> str:
    if not isinstance(error, dict):
        return ""
    return error_box(*(error.get(key) for key in ("what", "subject", "cause", "fix")))


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
