"""DuckDB: the embedded warehouse, one file. See ``docs/warehouses.md`` for its types and guarantees."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import Field

from datakit.errors import DriverMissing
from datakit.model._base import Model
from datakit.model.manifest import Duration
from datakit.warehouses import Warehouse, adapter

__all__ = ["DuckDBConnection", "open_warehouse"]


class DuckDBConnection(Model):
    """Where a DuckDB warehouse is: its section of ``environments/NAME.yaml``."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            description="The database file, created if missing; its folder is not. ~ is expanded; "
            "a relative path starts at the root of the tree",
            examples=["NAME.duckdb"],
        ),
    ]
    memory_limit: Annotated[
        str,
        Field(
            pattern=r"^[0-9]+(\.[0-9]+)? ?(KB|MB|GB|KiB|MiB|GiB)$",
            description="How much memory DuckDB may use before it spills to disk; replaces and appends of any size fit "
            "in the default, merges that touch more than three million rows want 10 MB more for each million",
        ),
    ] = "64MB"
    threads: Annotated[
        int,
        Field(
            gt=0,
            description="Threads of DuckDB. The source is slower than one of them; more make merges of large tables "
            "faster, and take memory",
        ),
    ] = 1

    wait: Annotated[
        Duration,
        Field(description="How long to wait for another process to close the file, before the run is refused"),
    ] = timedelta(seconds=30)

    def file(self, base: Path) -> Path:
        """Return the database file, absolute; a relative path starts at ``base``."""
        return (base / Path(self.path).expanduser()).absolute()


@adapter(DuckDBConnection)
def open_warehouse(settings: DuckDBConnection, /, *, where: str, base: Path) -> Warehouse:
    """Open a DuckDB file as a warehouse. The file is opened at first use.

    :param base: folder that a relative ``path`` starts at.

    :raises InvalidFile: the section has an unknown key, lacks ``path``, or the file's folder does not exist.
    :raises DriverMissing: duckdb is not installed.
    """
    try:
        from datakit.warehouses._duckdb.warehouse import DuckDBWarehouse
    except ImportError as error:
        raise DriverMissing.of("DuckDB", "duckdb", error) from None
    return DuckDBWarehouse(
        settings.file(base),
        memory_limit=settings.memory_limit,
        threads=settings.threads,
        wait=settings.wait.total_seconds(),
        where=where,
    )
