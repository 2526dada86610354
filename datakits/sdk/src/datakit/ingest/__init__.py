"""The engine: reads a dataset from its source and lands it in a warehouse, atomically and once.

:func:`run` is what ``datakit run`` calls; :class:`Ingestion` does the same for a source and a warehouse that are
already open. ``ARCHITECTURE.md`` draws the way of a row.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from datakit.errors import DatakitError
from datakit.ingest.ingestion import Ingestion
from datakit.ingest.interrupts import Interrupts
from datakit.ingest.progress import Progress, default_progress
from datakit.ingest.report import ReportDraft, check_report_path, default_report_path, unexpected, write_report
from datakit.ingest.settings import Settings
from datakit.model.run import RunReport, RunRequest
from datakit.sources import Source, open_source
from datakit.warehouses import open_warehouse

if TYPE_CHECKING:
    from datakit.model.project import Project

__all__ = ["Ingestion", "Interrupts", "Progress", "ReportDraft", "Settings", "attempt", "run"]


def run(
    request: RunRequest, project: Project, *, report_path: Path | None = None, progress: Progress | None = None
) -> RunReport:
    """Load one dataset into one warehouse, or do one step of a sliced load, and leave a run report.

    :param report_path: where the report goes; None means :func:`datakit.ingest.report.default_report_path`.
    :raises NothingToDo: there is nothing new; the report says so too.
    :raises DatakitError: any other failure; the report holds it, and the warehouse is as it was.
    """
    report, error = attempt(request, project, report_path=report_path, progress=progress)
    if error is not None:
        raise error
    return report


def attempt(
    request: RunRequest, project: Project, *, report_path: Path | None = None, progress: Progress | None = None
) -> tuple[RunReport, DatakitError | None]:
    """Do what :func:`run` does, and return the report with the error instead of raising it."""
    report_path = report_path or default_report_path()
    check_report_path(report_path)
    draft = ReportDraft(request)
    failure: DatakitError | None = None
    try:
        report = draft.finish(_execute(request, project, draft, progress or default_progress()))
    except DatakitError as error:
        failure, report = error, draft.finish_with(error)
    except BaseException as error:
        write_report(draft.finish_with(unexpected(error, request.dataset)), report_path)
        raise
    write_report(report, report_path)
    return report, failure


def _execute(request: RunRequest, project: Project, draft: ReportDraft, progress: Progress) -> str:
    settings = Settings.resolve(request, project)
    environment = project.environment(request.environment)
    draft.note(environment=environment.name)
    config, _, _, source = project.ingest(request.warehouse, request.dataset)
    system, system_where = project.source_system(environment, source)
    connection, connection_where = project.warehouse_connection(environment, config)

    def connect() -> Source:
        manifest = source.manifest
        return open_source(
            manifest.system, system, isolation=manifest.isolation, where=system_where, base=str(source.folder)
        )

    interrupts = Interrupts(request.dataset)
    warehouse = open_warehouse(config.type, connection, where=connection_where, base=project.root)
    with closing(warehouse), interrupts.handled():
        return Ingestion(settings, connect, warehouse, progress, draft, interrupts).execute()
