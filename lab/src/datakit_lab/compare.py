"""Proof that two tables are equal: the number of rows and one digest of all of them, whatever their order.

It shares no code with the product that it checks: rows come through the drivers' own Arrow interfaces, and the
digest is the sum of each row's MD5, in which no row can hide another. Columns are matched by name, case and
underscores aside; metadata columns (``_dk_…``) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Equal for tables with the same columns and rows.

    :ivar digest: 32 hexadecimal digits.
    """

    rows: int
    digest: str
    columns: tuple[str, ...]


def fingerprint(table: pa.Table) -> Fingerprint:
    """Return the fingerprint of a table held in memory."""
    import duckdb
    import pyarrow as pa

    names = {_fold(name): name for name in table.column_names if not name.startswith("_dk_")}
    columns = sorted(names)
    rows = pa.table({column: table[names[column]] for column in columns})
    text = ", ".join(_text(column, rows.schema.field(column).type) for column in columns)
    with duckdb.connect() as connection:
        connection.register("rows", rows)
        query = f"SELECT count(*), coalesce(sum(md5_number_lower(concat({text}))::HUGEINT), 0) FROM rows"  # noqa: S608  # quoted
        [(count, total)] = connection.sql(query).fetchall()
    return Fingerprint(count, f"{int(total) % 2**128:032x}", tuple(columns))


def read_sqlserver(connection_string: str, table: str) -> pa.Table:
    """Read a whole table of SQL Server (or of its double) by Microsoft's driver."""
    import mssql_python

    with mssql_python.connect(connection_string) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")  # noqa: S608  # the lab's own table names
        return cursor.arrow()


def read_postgres(dsn: str, table: str) -> pa.Table:
    """Read a whole table of PostgreSQL by ADBC."""
    from adbc_driver_postgresql import dbapi

    with dbapi.connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")  # noqa: S608  # the lab's own table names
        return cursor.fetch_arrow_table()


def read_duckdb(path: str, table: str) -> pa.Table:
    """Read a whole table of a DuckDB file."""
    import duckdb

    with duckdb.connect(path, read_only=True) as connection:
        return connection.sql(f"SELECT * FROM {table}").to_arrow_table()  # noqa: S608  # the lab's own table names


def _fold(name: str) -> str:
    return name.replace("_", "").casefold()


def _text(column: str, type_: pa.DataType) -> str:
    import pyarrow as pa

    name = '"' + column.replace('"', '""') + '"'
    if pa.types.is_timestamp(type_):
        text = f"CAST(epoch_us({name}) AS VARCHAR)"
    elif pa.types.is_floating(type_):
        text = f"CAST(CAST({name} AS DOUBLE) AS VARCHAR)"
    else:
        text = f"CAST({name} AS VARCHAR)"
    return f"coalesce(concat(strlen({text}), ':', {text}), '~')"
