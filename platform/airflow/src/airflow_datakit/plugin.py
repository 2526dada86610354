"""The pages that the provider adds to Airflow's UI. They are built when somebody asks for one.

Airflow loads plugins in every one of its processes; only its API server has a use for a web application.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from airflow_datakit._links import PAGE


class _Pages:
    """An ASGI application that becomes one at the first request."""

    @cached_property
    def _application(self) -> Any:
        from airflow_datakit._pages import application

        return application()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._application(scope, receive, send)


class DatakitPlugin(AirflowPlugin):
    """Registers the pages (entry point ``airflow.plugins``)."""

    name = "datakit"
    fastapi_apps = [{"app": _Pages(), "url_prefix": PAGE, "name": "Datakits"}]  # noqa: RUF012  # Airflow's interface
    external_views = [  # noqa: RUF012  # the same
        {
            "name": "Datakits",
            "href": f"{PAGE}/",
            "destination": "nav",
            "url_route": "datakits",
            "nav_top_level": True,
        }
    ]
