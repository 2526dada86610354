"""DuckDB's types and catalog, in the words of a contract."""

from __future__ import annotations

import re
from typing import Final

from datakit.errors import ContractError, UnsupportedType
from datakit.model.contract import Column
from datakit.model.load import TableName, TableState
from datakit.model.types import DataType
from datakit.warehouses._identifiers import METADATA_PREFIX, qualified, quote
from datakit.warehouses._ledger import LOADS, RUNS, SLICES, Execute, Ledger
from datakit.warehouses._values import Limits

_NATIVE: Final = {
    "boolean": "BOOLEAN",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "binary": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMP WITH TIME ZONE",
}
_CONTRACT: Final = {native: DataType(name) for name, native in _NATIVE.items()}  # type: ignore[arg-type]  # the keys above are type names
_DECIMAL: Final = re.compile(r"DECIMAL\((\d+),(\d+)\)")

_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def limits(memory_limit: str) -> Limits:
    """Return what DuckDB holds with this setting of its memory."""
    unit = memory_limit.lstrip("0123456789. ")
    memory = float(memory_limit.removesuffix(unit)) * _UNITS[unit]
    return Limits(
        # DuckDB counts from 1970 like Arrow, keeps ±(2⁶³-1) for infinity and cannot print what lies before 290309 BC
        ranges={
            "timestamp": (-9_223_372_022_400_000_000, 2**63 - 2),
            "timestamptz": (-9_223_372_022_400_000_000, 2**63 - 2),
            "date": (-(2**31) + 2, 2**31 - 2),
        },
        nul=True,
        # a value is one block of memory, and there twice while it is written to the file
        row_bytes=int(memory * 0.4),
        larger="raise memory_limit of the warehouse in the environment to three times the row, or shorten it in the "
        "dataset's SQL",
    )


LONGEST_NAME: Final = 1 << 16
"""DuckDB sets no limit of its own; this one keeps a name from being a document."""


def native_type(type_: DataType) -> str:
    """Return the DuckDB type that holds exactly the values of the contract's type."""
    return f"DECIMAL({type_.precision},{type_.scale})" if type_.name == "decimal" else _NATIVE[type_.name]


def contract_type(native: str) -> DataType | None:
    """Return the contract's type for one of DuckDB's, or None if there is none."""
    if match := _DECIMAL.fullmatch(native):
        return DataType("decimal", int(match[1]), int(match[2]))
    return _CONTRACT.get(native)


def column_definition(column: Column) -> str:
    """Return ``"name" TYPE [NOT NULL]``."""
    return f"{quote(column.name)} {native_type(column.type)}{'' if column.nullable else ' NOT NULL'}"


def exists(execute: Execute, table: TableName) -> bool:
    """Whether there is a table of that name.

    :raises ContractError: there is a view of that name.
    """
    rows = execute(
        "SELECT table_type FROM information_schema.tables WHERE table_catalog = current_database() "
        "AND lower(table_schema) = lower(?) AND lower(table_name) = lower(?)",
        (table.schema, table.table),
    )
    if rows and rows[0][0] == "VIEW":
        raise ContractError(
            "there is a view of that name, where the load wants its table",
            subject=str(table),
            fix="drop or rename the view",
        )
    return bool(rows)


def ledger_exists(execute: Execute, schema: str) -> bool:
    """Whether the schema has its ``_dk_`` tables."""
    return all(exists(execute, TableName(schema, name)) for name in (LOADS, RUNS, SLICES))


def inspect(execute: Execute, table: TableName) -> TableState | None:
    """Return the table's columns in contract types.

    :raises UnsupportedType: a column has a type that datakit would not have given it.
    """
    if not exists(execute, table):
        return None
    rows = execute(
        "SELECT column_name, data_type, is_nullable FROM duckdb_columns() WHERE database_name = current_database() "
        "AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) ORDER BY column_index",
        (table.schema, table.table),
    )
    columns = []
    for name, native, nullable in rows:
        if (type_ := contract_type(native)) is None:
            raise UnsupportedType(
                f"the column {name!r} has the type {native}, which no contract type maps to",
                subject=str(table),
                cause="the table was made or altered by something else",
                fix="drop the column, or load into another table",
            )
        columns.append(Column(name=name, type=type_, nullable=nullable))
    return TableState(
        columns=tuple(column for column in columns if not column.name.startswith(METADATA_PREFIX)),
        metadata=tuple(column for column in columns if column.name.startswith(METADATA_PREFIX)),
        key=_key(execute, table),
    )


def _key(execute: Execute, table: TableName) -> tuple[str, ...]:
    # datakit makes no primary key in DuckDB: its index must fit in memory. The load log knows the key.
    if ledger_exists(execute, table.schema) and (known := Ledger(execute, table.schema).key_of(table)) is not None:
        return known[0]
    rows = execute(
        "SELECT constraint_column_names FROM duckdb_constraints() WHERE database_name = current_database() "
        "AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) AND constraint_type = 'PRIMARY KEY'",
        (table.schema, table.table),
    )
    return tuple(rows[0][0]) if rows else ()


def belongings(execute: Execute, table: TableName) -> bool:
    """Whether the table carries something that a new table in its place would lose: indexes, constraints, defaults."""
    found = execute(
        """
        SELECT 1 FROM duckdb_constraints() WHERE database_name = current_database() AND lower(schema_name) = lower($1)
            AND lower(table_name) = lower($2) AND constraint_type <> 'NOT NULL'
        UNION ALL SELECT 1 FROM duckdb_indexes() WHERE database_name = current_database()
            AND lower(schema_name) = lower($1) AND lower(table_name) = lower($2)
        UNION ALL SELECT 1 FROM duckdb_columns() WHERE database_name = current_database()
            AND lower(schema_name) = lower($1) AND lower(table_name) = lower($2) AND column_default IS NOT NULL
        UNION ALL SELECT 1 FROM duckdb_constraints() WHERE database_name = current_database()
            AND lower(schema_name) = lower($1) AND constraint_type = 'FOREIGN KEY'
            AND constraint_text ILIKE '%REFERENCES %' || $2 || '%'
        """,
        (table.schema, table.table),
    )
    return bool(found)


def comments(execute: Execute, table: TableName) -> list[tuple[str | None, str]]:
    """Return the comments of the table (column None) and of its columns."""
    return [
        *execute(
            "SELECT NULL, comment FROM duckdb_tables() WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) AND comment IS NOT NULL",
            (table.schema, table.table),
        ),
        *execute(
            "SELECT column_name, comment FROM duckdb_columns() WHERE database_name = current_database() "
            "AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?) AND comment IS NOT NULL",
            (table.schema, table.table),
        ),
    ]


def create_schema(execute: Execute, table: TableName) -> None:
    """Create the schema and its ``_dk_`` tables if they are missing."""
    if ledger_exists(execute, table.schema):
        return
    execute(f"CREATE SCHEMA IF NOT EXISTS {quote(table.schema)}", ())
    Ledger(execute, table.schema).create()


def create_table(execute: Execute, table: TableName, columns: tuple[Column, ...]) -> None:
    """Create a table, replacing one of the same name."""
    definitions = ", ".join(column_definition(column) for column in columns)
    execute(f"CREATE OR REPLACE TABLE {qualified(table)} ({definitions})", ())
