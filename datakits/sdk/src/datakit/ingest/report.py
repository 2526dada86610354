"""The run report: drafted as the run goes, so that a failure leaves one too, and written whole or not at all."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any, Final

from datakit.errors import ConfigurationError, DatakitError, NothingToDo
from datakit.ingest.settings import Settings
from datakit.model.run import RunReport, RunRequest

_XCOM_FOLDER: Final = Path("/airflow/xcom")
_ASKED_FOR: Final = ("run_id", "dataset", "warehouse", "environment", "slice", "data_interval", "image")


class ReportDraft:
    """Collects what is known so far; :meth:`finish` makes the report of it.

    :param request: None if it could not be read; :meth:`note` what is known of it nevertheless.
    """

    def __init__(self, request: RunRequest | None) -> None:
        self._started_at = datetime.now(UTC)
        self._started = monotonic()
        self._known: dict[str, Any] = {name: getattr(request, name) for name in _ASKED_FOR} if request else {}

    def note(self, **known: Any) -> None:
        """Set fields of the report."""
        self._known.update(known)

    def note_settings(self, settings: Settings) -> None:
        """Set what the lookup found."""
        self.note(
            table=str(settings.table),
            datakit=settings.datakit,
            source_datakit=settings.source_datakit,
            mode=settings.landing,
        )

    def finish(self, status: str, error: DatakitError | None = None) -> RunReport:
        """Return the report of a run that ends now."""
        seconds = monotonic() - self._started
        rows_read = self._known.get("rows_read", 0)
        return RunReport.model_validate(
            {
                **self._known,
                "status": status,
                "started_at": self._started_at,
                "ended_at": datetime.now(UTC),
                "seconds": round(seconds, 3),
                "rows_per_second": round(rows_read / seconds) if rows_read and seconds else None,
                "error": error.as_json() if error else None,
                "exit_code": error.exit_code if error else 0,
            }
        )

    def finish_with(self, error: DatakitError) -> RunReport:
        """Return the report of a run that ends with this error."""
        return self.finish("nothing" if isinstance(error, NothingToDo) else "failed", error)


def unexpected(error: BaseException, subject: str | None = None) -> DatakitError:
    """Return what a report says of a bug. Not the exception's message: it may hold a secret."""
    return DatakitError(f"unexpected {type(error).__name__}", subject=subject)


def default_report_path() -> Path | None:
    """Return ``DATAKIT_REPORT``, else ``/airflow/xcom/return.json`` where that folder exists, else None."""
    if configured := os.environ.get("DATAKIT_REPORT"):
        return Path(configured)
    return _XCOM_FOLDER / "return.json" if _XCOM_FOLDER.is_dir() else None


def check_report_path(path: Path | None) -> None:
    """Find out before the run, not after it, that the report cannot be written.

    :raises ConfigurationError: its folder does not exist or may not be written.
    """
    if path is not None and not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigurationError(
            "the run report cannot be written there",
            subject=str(path),
            cause=f"the folder {'may not be written' if path.parent.exists() else 'does not exist'}",
            fix="set DATAKIT_REPORT to a file in a folder that this process may write",
        )


def write_report(report: RunReport, path: Path | None) -> None:
    """Write the report beside its place and rename it, so that a reader never sees half of it."""
    if path is None:
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(report.model_dump_json(), encoding="utf-8")
    partial.replace(path)
