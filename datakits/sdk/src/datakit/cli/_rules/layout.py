"""Rules about names of files: what lies beside the tree's files but is never read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from datakit.errors import DatakitError, InvalidFile
from datakit.model.project import Project

_NEVER_READ: Final = (
    "datakit.yml",
    "warehouse.yml",
    "contracts/*.yml",
    "environments/*.yml",
    "datakits/*/datakit.yml",
    "datakits/*/contracts/*.yml",
    "warehouses/*/warehouse.yml",
    "warehouses/environments/*.yml",
)


def layout_problems(project: Project) -> Iterator[DatakitError]:
    """Yield files that look like ours, but whose name keeps them from being read."""
    for pattern in _NEVER_READ:
        for path in sorted(project.root.glob(pattern)):
            yield InvalidFile(
                "the file is never read, because its name ends in .yml",
                subject=str(path),
                fix=f"rename it: mv {path.name} {path.stem}.yaml",
            )
