"""The button beside a task that leads to its run report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator

PAGE = "/datakits"
"""Where the plugin's pages are, below Airflow's own address."""


class RunReportLink(BaseOperatorLink):
    """Leads to the page that shows the run report of one try of a task."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "Run report"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:  # noqa: ARG002  # Airflow's signature
        """Return the page's address, relative to where Airflow's UI is."""
        base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
        parts = (ti_key.dag_id, ti_key.run_id, ti_key.task_id, str(ti_key.map_index))
        return f"{base}{PAGE}/reports/" + "/".join(quote(part, safe="") for part in parts)
