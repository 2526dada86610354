"""Who may do what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Principal:
    """A login's rights.

    :ivar password: of a SQL login; None for a Kerberos principal.
    :ivar databases: those it may open; None for all.
    :ivar denied: tables it may not read, as ``Database.schema.Table``.
    :ivar read_only: whether it may change nothing (``db_datareader``).
    :ivar view_server_state: whether it sees ``sys.dm_exec_connections`` and ``sys.dm_exec_sessions``.
    """

    password: str | None = None
    databases: frozenset[str] | None = None
    denied: frozenset[str] = frozenset()
    read_only: bool = False
    view_server_state: bool = True

    def may_open(self, database: str) -> bool:
        """Whether it may open a database."""
        return self.databases is None or database.casefold() in {name.casefold() for name in self.databases}

    def may_read(self, database: str, schema: str, table: str) -> bool:
        """Whether it may SELECT from a table."""
        return f"{database}.{schema}.{table}".casefold() not in {name.casefold() for name in self.denied}

    def __repr__(self) -> str:
        return f"Principal(databases={self.databases}, denied={self.denied}, read_only={self.read_only})"
