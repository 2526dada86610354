"""SQL Server as a source: Kerberos or SQL login, Arrow from the driver to the engine, lossless or refused.

Where to change what: types in ``type_table``, the catalog's queries in ``catalog``, cursors in ``windows`` and
``values``, SQL in ``query``, the driver's surprises in ``driver`` and ``stream``, messages in ``failures``.
"""

from __future__ import annotations

from datakit.model.environment import SourceSystem
from datakit.model.manifest import Isolation
from datakit.sources.sqlserver.source import SqlServerSource

__all__ = ["SqlServerSource", "open_source"]


def open_source(
    connection: SourceSystem, *, isolation: Isolation = Isolation.AUTO, where: str, base: str | None = None
) -> SqlServerSource:
    """Open a SQL Server, as :func:`datakit.sources.open_source` says."""
    source = SqlServerSource(connection, isolation=isolation, where=where, base=base)
    source.check()
    return source
