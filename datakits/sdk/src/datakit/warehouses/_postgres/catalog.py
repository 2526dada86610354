"""PostgreSQL's types and catalog, in the words of a contract."""

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
    "boolean": "boolean",
    "int16": "smallint",
    "int32": "integer",
    "int64": "bigint",
    "float32": "real",
    "float64": "double precision",
    "string": "text",
    "binary": "bytea",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
}
# format_type() writes a precision only where one was given; 6 is what PostgreSQL has without one
_CONTRACT: Final = {native: DataType(name) for name, native in _NATIVE.items()} | {  # type: ignore[arg-type]  # the keys above are type names
    "time(6) without time zone": DataType("time"),
    "timestamp(6) without time zone": DataType("timestamp"),
    "timestamp(6) with time zone": DataType("timestamptz"),
    "character varying": DataType("string"),
}
_NUMERIC: Final = re.compile(r"numeric\((\d+),(\d+)\)")

LIMITS: Final = Limits(
    # 4714-11-24 BC, where PostgreSQL's calendar begins, to the end of Arrow's microseconds in 294247 and of its days,
    # less the thirty years between the two epochs; the last values are infinity
    ranges={
        "timestamp": (-210_866_803_200_000_000, 2**63 - 2),
        "timestamptz": (-210_866_803_200_000_000, 2**63 - 2),
        "date": (-2_440_588, 2_145_031_948),
    },
    nul=False,
    # a row is put together in one piece of memory, of which PostgreSQL grants less than 1 GiB (MaxAllocSize); the rest
    # is room for the row's header and its other columns, of which there are 1,600 at most
    row_bytes=(1 << 30) - (1 << 15),
    larger="leave the column out or shorten it in the dataset's SQL, or load it into a warehouse that holds more",
)
LONGEST_NAME: Final = 63
"""Bytes; NAMEDATALEN - 1. PostgreSQL cuts longer names in silence."""


def native_type(type_: DataType) -> str:
    """Return the PostgreSQL type that holds exactly the values of the contract's type."""
    return f"numeric({type_.precision},{type_.scale})" if type_.name == "decimal" else _NATIVE[type_.name]


def contract_type(native: str) -> DataType | None:
    """Return the contract's type for one as ``format_type()`` writes it, or None if there is none."""
    if match := _NUMERIC.fullmatch(native):
        precision, scale = int(match[1]), int(match[2])
        return DataType("decimal", precision, scale) if precision <= 38 and scale <= precision else None
    return _CONTRACT.get(native)


def column_definition(column: Column) -> str:
    """Return ``"name" type [NOT NULL]``."""
    return f"{quote(column.name)} {native_type(column.type)}{'' if column.nullable else ' NOT NULL'}"


def oid_of(execute: Execute, table: TableName) -> int | None:
    """Return the table's oid, or None if there is none.

    :raises ContractError: something else than a table has that name.
    """
    rows = execute(
        "SELECT c.oid::bigint, c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = $1 AND c.relname = $2",
        (table.schema, table.table),
    )
    if rows and rows[0][1] not in {"r", "p"}:
        raise ContractError(
            "there is a view, sequence or index of that name, where the load wants its table",
            subject=str(table),
            fix="drop or rename it, or load into another table",
        )
    oid: int | None = rows[0][0] if rows else None
    return oid


def ledger_exists(execute: Execute, schema: str) -> bool:
    """Whether the schema has its ``_dk_`` tables."""
    return all(oid_of(execute, TableName(schema, name)) is not None for name in (LOADS, RUNS, SLICES))


def columns_of(execute: Execute, table: TableName, oid: int) -> tuple[Column, ...]:
    """Return the table's columns in contract types.

    :raises UnsupportedType: a column has a type that datakit would not have given it.
    """
    rows = execute(
        "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull FROM pg_attribute "
        "WHERE attrelid = $1::bigint::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        (oid,),
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
    return tuple(columns)


def inspect(execute: Execute, table: TableName) -> TableState | None:
    """Return the table as it is, or None if there is none."""
    if (oid := oid_of(execute, table)) is None:
        return None
    columns = columns_of(execute, table, oid)
    return TableState(
        columns=tuple(column for column in columns if not column.name.startswith(METADATA_PREFIX)),
        metadata=tuple(column for column in columns if column.name.startswith(METADATA_PREFIX)),
        key=_key(execute, table, oid),
    )


def _key(execute: Execute, table: TableName, oid: int) -> tuple[str, ...]:
    if ledger_exists(execute, table.schema) and (known := Ledger(execute, table.schema).key_of(table)) is not None:
        return known[0]
    rows = execute(
        "SELECT a.attname FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place) "
        "JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum "
        "WHERE i.indrelid = $1::bigint::oid AND i.indisprimary ORDER BY k.place",
        (oid,),
    )
    return tuple(name for (name,) in rows)


def key_index(execute: Execute, oid: int, key: tuple[str, ...]) -> tuple[str, bool] | None:
    """Return name and primacy of an index that makes exactly ``key`` unique and can serve ON CONFLICT, or None."""
    rows = execute(
        """
        SELECT c.relname, i.indisprimary FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = $1::bigint::oid AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = i.indnatts
          AND $2::text[] = (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C") FROM pg_attribute a
                    WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]))
        ORDER BY i.indisprimary DESC LIMIT 1
        """,
        (oid, sorted(key, key=str.encode)),
    )
    return rows[0] if rows else None


def drop_former_keys(execute: Execute, table: TableName, oid: int, key: tuple[str, ...]) -> bool:
    """Drop what datakit made to keep another key than this one unique; indexes of anybody else stay.

    :returns: whether there was one.
    """
    former = execute(
        """
        SELECT c.relname, EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = i.indexrelid AND contype = 'p')
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = $1::bigint::oid AND starts_with(c.relname::text, '_dk_key_')
          AND $2::text[] IS DISTINCT FROM (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C")
                    FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]))
        """,
        (oid, sorted(key, key=str.encode)),
    )
    for name, is_constraint in former:
        if is_constraint:
            execute(f"ALTER TABLE {qualified(table)} DROP CONSTRAINT {quote(name)}", ())
        else:
            execute(f"DROP INDEX {qualified(TableName(table.schema, name))}", ())
    return bool(former)


def create_schema(execute: Execute, table: TableName) -> None:
    """Create the schema and its ``_dk_`` tables if they are missing; safe however many do it at once."""
    if ledger_exists(execute, table.schema):
        return
    # IF NOT EXISTS is not enough: of two sessions that see nothing yet, one fails on a unique index of the catalog
    lock(execute, f"schema {table.schema}")
    if not execute("SELECT 1 FROM pg_namespace WHERE nspname = $1", (table.schema,)):
        # asked for only when needed, because it wants the right to create schemas even where the schema exists
        execute(f"CREATE SCHEMA IF NOT EXISTS {quote(table.schema)}", ())
    Ledger(execute, table.schema).create()


def lock(execute: Execute, name: str) -> None:
    """Wait for the transaction-wide lock of that name in this database."""
    execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (f"datakit {name}",))


def create_staging(execute: Execute, staging: TableName, columns: tuple[Column, ...], *, logged: bool) -> None:
    """Create a staging table in the place of one that may be there."""
    execute(f"DROP TABLE IF EXISTS {qualified(staging)}", ())
    definitions = ", ".join(column_definition(column) for column in columns)
    execute(f"CREATE {'' if logged else 'UNLOGGED '}TABLE {qualified(staging)} ({definitions})", ())
