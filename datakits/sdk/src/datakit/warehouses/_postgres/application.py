"""Staging becomes the table: the middle of a commit's transaction."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote()

from __future__ import annotations

from datetime import datetime

from datakit.model.contract import Column
from datakit.model.load import LoadRequest, TableName, TableState
from datakit.model.manifest import LoadMode
from datakit.warehouses._changes import TableChanges, changes_to_fit, wanted_columns
from datakit.warehouses._guards import check_key
from datakit.warehouses._identifiers import literal, qualified, quote, quote_all
from datakit.warehouses._ledger import Execute
from datakit.warehouses._postgres import catalog, replacement
from datakit.warehouses._postgres.catalog import column_definition, native_type


def apply(execute: Execute, request: LoadRequest, staging: TableName) -> int:
    """Apply the staged rows to the table.

    :returns: how many rows staging held.
    """
    target = catalog.oid_of(execute, request.table)
    if target is None or (request.mode is LoadMode.REPLACE and not replacement.must_stay(execute, target)):
        return _swap(execute, request, staging, target)
    state = catalog.inspect(execute, request.table)
    assert state is not None  # noqa: S101  # it has an oid
    if request.mode is LoadMode.MERGE:
        return _merge(execute, request, staging, state, target)
    if request.key:
        check_key(execute, request, staging, "the load")
    if request.mode is LoadMode.APPEND:
        _alter(execute, request.table, changes_to_fit(state, request))
        return _insert(execute, request, staging, "")
    _empty(execute, request.table, target)
    had_another_key = catalog.drop_former_keys(execute, request.table, target, request.key)
    _alter(execute, request.table, changes_to_fit(state, request, emptied=True))
    held = _insert(execute, request, staging, "")
    if had_another_key and request.key and catalog.key_index(execute, target, request.key) is None:
        _create_key(execute, request, request.table, target)  # after the rows: an index is built faster than grown
    return held


def _swap(execute: Execute, request: LoadRequest, staging: TableName, old: int | None) -> int:
    oid = catalog.oid_of(execute, staging)
    assert oid is not None  # noqa: S101  # the commit has made sure of it
    held: int = execute(f"SELECT count(*) FROM {qualified(staging)}", ())[0][0]
    if execute("SELECT 1 FROM pg_class WHERE oid = $1::bigint::oid AND relpersistence = 'u'", (oid,)):
        execute(f"ALTER TABLE {qualified(staging)} SET LOGGED", ())
    # a default that is a constant is stored once for the whole table (pg_attribute.attmissingval), not in its rows
    if request.constants:
        added = ", ".join(
            f"ADD COLUMN {column_definition(column)} DEFAULT {_literal(column, value)}"
            for column, value in request.constants.values()
        )
        dropped = ", ".join(
            f"ALTER COLUMN {quote(column.name)} DROP DEFAULT" for column, _ in request.constants.values()
        )
        execute(f"ALTER TABLE {qualified(staging)} {added}", ())
        execute(f"ALTER TABLE {qualified(staging)} {dropped}", ())
    if request.key:
        if request.mode is LoadMode.APPEND:  # the same key may come again with a later load
            check_key(execute, request, staging, "the load")
        else:
            _create_key(execute, request, staging, oid)
    if old is not None:
        replacement.carry_over(execute, old, staging, oid, [column.name for column in wanted_columns(request)])
    replacement.swap(execute, staging, request.table, exists=old is not None)
    return held


def _merge(execute: Execute, request: LoadRequest, staging: TableName, state: TableState, target: int) -> int:
    catalog.drop_former_keys(execute, request.table, target, request.key)
    _alter(execute, request.table, changes_to_fit(state, request))
    if any(column.nullable for column in request.columns if column.name in request.key):
        _check_null(execute, request, staging)
    if catalog.key_index(execute, target, request.key) is None:
        _create_key(execute, request, request.table, target)
    others = [column.name for column in wanted_columns(request) if column.name not in request.key]
    update = ", ".join(f"{quote(name)} = excluded.{quote(name)}" for name in others)
    return _insert(
        execute,
        request,
        staging,
        f"ON CONFLICT ({quote_all(request.key)}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}",
    )


def _insert(execute: Execute, request: LoadRequest, staging: TableName, conflict: str) -> int:
    names = [column.name for column in request.columns]
    constants = list(request.constants.values())
    values = ", ".join(
        [
            quote_all(names),
            *(f"${number}::{native_type(column.type)}" for number, (column, _) in enumerate(constants, 1)),
        ]
    )
    columns = quote_all([*names, *(column.name for column, _ in constants)])
    held: int = execute(f"SELECT count(*) FROM {qualified(staging)}", ())[0][0]
    execute(
        f"INSERT INTO {qualified(request.table)} ({columns}) SELECT {values} FROM {qualified(staging)} {conflict}",
        [value for _, value in constants],
    )
    execute(f"DROP TABLE {qualified(staging)}", ())
    return held


def _empty(execute: Execute, table: TableName, oid: int) -> None:
    """Remove every row. TRUNCATE is quick, but not allowed on a table that a foreign key points to."""
    pointed_to = execute("SELECT 1 FROM pg_constraint WHERE confrelid = $1::bigint::oid LIMIT 1", (oid,))
    execute(f"{'DELETE FROM' if pointed_to else 'TRUNCATE'} {qualified(table)}", ())


def _alter(execute: Execute, table: TableName, changes: TableChanges) -> None:
    actions = [
        *(f"ADD COLUMN {column_definition(column)}" for column in changes.add),
        *(f"ALTER COLUMN {quote(column.name)} TYPE {native_type(column.type)}" for column in changes.widen),
        *(f"ALTER COLUMN {quote(name)} DROP NOT NULL" for name in changes.relax),
    ]
    if actions:  # together, so that the table is rewritten once at most
        execute(f"ALTER TABLE {qualified(table)} {', '.join(actions)}", ())


def _create_key(execute: Execute, request: LoadRequest, table: TableName, oid: int) -> None:
    """Make the key unique: a primary key where the contract says NOT NULL, else a unique index.

    The name is no other object's: the index of the table that is replaced still has its own.
    """
    name = quote(f"_dk_key_{oid}")
    nullable = any(column.nullable for column in request.columns if column.name in request.key)
    if nullable:
        _check_null(execute, request, table)
    has_primary = execute("SELECT 1 FROM pg_index WHERE indrelid = $1::bigint::oid AND indisprimary", (oid,))
    if nullable or has_primary:
        execute(f"CREATE UNIQUE INDEX {name} ON {qualified(table)} ({quote_all(request.key)})", ())
    else:
        execute(f"ALTER TABLE {qualified(table)} ADD CONSTRAINT {name} PRIMARY KEY ({quote_all(request.key)})", ())


def _check_null(execute: Execute, request: LoadRequest, table: TableName) -> None:
    is_null = " OR ".join(f"{quote(name)} IS NULL" for name in request.key)
    if execute(f"SELECT 1 FROM {qualified(table)} WHERE {is_null} LIMIT 1", ()):
        check_key(execute, request, table, "the load")


def _literal(column: Column, value: str | datetime) -> str:
    return f"{literal(value if isinstance(value, str) else value.isoformat())}::{native_type(column.type)}"
