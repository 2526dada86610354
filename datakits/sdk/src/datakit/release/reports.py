"""Run reports in a folder, as datakits left them: one JSON document in a file, or a list of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datakit.errors import ConfigurationError
from datakit.model.run import RunReport


@dataclass(frozen=True, slots=True)
class FoundReport:
    """One run report and the file that holds it."""

    report: RunReport
    path: Path

    @property
    def datakit(self) -> tuple[str, str] | None:
        """Name and version of the bronze datakit that ran; None if the report does not say."""
        name, at, version = (self.report.datakit or "").partition("@")
        return (name, version) if at else None

    @property
    def digest(self) -> str | None:
        """The digest of the image that ran; None if the report does not say it."""
        return (self.report.image or "").partition("@")[2] or None


def read_reports(folder: Path) -> tuple[tuple[FoundReport, ...], tuple[Path, ...]]:
    """Read every ``*.json`` below a folder; return the reports, the earliest first, and the files that hold none.

    :raises ConfigurationError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigurationError("there is no such folder of run reports", subject=str(folder))
    found, others = [], []
    for path in sorted(folder.rglob("*.json")):
        reports = list(_reports(path))
        found += reports
        if not reports:
            others.append(path)
    return tuple(sorted(found, key=lambda each: each.report.started_at)), tuple(others)


def _reports(path: Path) -> Iterator[FoundReport]:
    try:
        said: Any = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    for each in said if isinstance(said, list) else [said]:
        try:
            yield FoundReport(RunReport.model_validate(each), path)
        except ValidationError:
            continue
