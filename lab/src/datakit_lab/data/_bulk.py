"""Filling a table of the double from a DuckDB query, past the T-SQL."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datakit_lab.sqlserver.backend import SqlError

if TYPE_CHECKING:
    import duckdb

    from datakit_lab.sqlserver.tsql import DuckBackend, TableSpec


def quoted(name: str) -> str:
    """Quote an identifier for DuckDB."""
    return '"' + name.replace('"', '""') + '"'


def create_database(backend: DuckBackend, name: str) -> None:
    """Create a database that allows snapshots, as the lab's do.

    :raises ValueError: it is there already.
    """
    try:
        backend.create_database(name, snapshot=True)
    except SqlError as error:
        raise ValueError(f"{error.text} Start the lab anew to load it again.") from None


def fill(
    cursor: duckdb.DuckDBPyConnection,
    database: str,
    table: TableSpec,
    columns: Sequence[str],
    query: str,
    parameters: Sequence[Any] = (),
) -> int:
    """Insert the rows of ``query`` (the columns in order) and return how many. A rowversion column fills itself."""
    names, values = list(columns), [f"s.{quoted(f'c{place}')}" for place in range(len(columns))]
    for column in table.columns:
        if column.type == "rowversion":
            names.append(column.name)
            values.append(f"unhex(printf('%016X', nextval('{quoted(database)}.lab.rowversions')))")
    aliases = ", ".join(quoted(f"c{place}") for place in range(len(columns)))
    target = ".".join(map(quoted, (database, table.schema, table.name)))
    into = f"INSERT INTO {target} ({', '.join(map(quoted, names))})"
    sql = f"{into} SELECT {', '.join(values)} FROM ({query}) AS s({aliases})"
    rows = cursor.execute(sql, list(parameters)).fetchall()
    return int(rows[0][0])
