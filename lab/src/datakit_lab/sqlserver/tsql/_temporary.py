"""``#temporary`` tables: DuckDB's own, with T-SQL's types kept by the session that made them."""

from __future__ import annotations

from typing import Final

import duckdb

from datakit_lab.sqlserver.backend import SqlError
from datakit_lab.sqlserver.tsql._catalog import ColumnSpec, StoredColumn, StoredTable
from datakit_lab.sqlserver.tsql._convert import quote
from datakit_lab.sqlserver.tsql._scope import SourceColumn
from datakit_lab.sqlserver.tsql._types import storage

_PREFIX: Final = "#"


class TemporaryTables:
    """The temporary tables of one session."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._tables: dict[str, StoredTable] = {}

    def get(self, name: str) -> StoredTable | None:
        """Return a table by its name, with or without ``#``."""
        return self._tables.get(name.lstrip(_PREFIX).casefold())

    def create(self, name: str, columns: tuple[ColumnSpec, ...]) -> StoredTable:
        """Create a table.

        :raises SqlError: 2714 it exists.
        """
        if self.get(name) is not None:
            raise SqlError(2714, f"There is already an object named '#{name}' in the database.")
        stored = tuple(
            StoredColumn(
                place,
                SourceColumn(
                    column.name, column.sql_type(), column.nullable, utf16=column.utf16, formula=column.formula
                ),
                column.default,
                None,
            )
            for place, column in enumerate(columns, 1)
        )
        table = StoredTable("temp", "main", f"{_PREFIX}{name}", 0, "U", stored)
        body = ", ".join(
            f"{quote(column.name)} {storage(column.sql_type(), utf16=column.utf16)}"
            for column in columns
            if column.formula is None
        )
        self._connection.execute(f"CREATE TEMP TABLE {table.sql} ({body})")
        self._tables[name.lstrip(_PREFIX).casefold()] = table
        return table

    def drop(self, table: StoredTable) -> None:
        """Drop a table."""
        self._connection.execute(f"DROP TABLE {table.sql}")
        del self._tables[table.name.lstrip(_PREFIX).casefold()]
