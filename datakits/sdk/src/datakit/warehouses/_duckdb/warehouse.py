"""The warehouse in a DuckDB file."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote()

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from datakit.errors import DatakitError, InvalidKey, LoadInProgress
from datakit.model.load import LoadRecord, LoadRequest, ReadPlan, Slice, TableName, TableState
from datakit.model.manifest import LoadMode
from datakit.warehouses import Load
from datakit.warehouses._changes import TableChanges, changes_to_fit, wanted_columns
from datakit.warehouses._duckdb import catalog
from datakit.warehouses._duckdb.database import Database, lock_of
from datakit.warehouses._duckdb.load import DuckDBLoad
from datakit.warehouses._guards import check_base, check_complete, check_key, keep_newest, staging_lost
from datakit.warehouses._identifiers import check_names, literal, qualified, quote, quote_all, staging_table
from datakit.warehouses._ledger import Execute, Ledger

_KEYS_AT_ONCE: Final = 500_000
"""Keys of one statement that deletes replaced rows: DuckDB keeps them in memory, and they take about 25 MB."""


class DuckDBWarehouse:
    """See :class:`datakit.warehouses.Warehouse`."""

    def __init__(self, file: Path, *, memory_limit: str, threads: int, wait: float, where: str) -> None:
        self._database = Database(file, memory_limit=memory_limit, threads=threads, wait=wait, where=where)

    # what there is

    def inspect(self, table: TableName) -> TableState | None:
        """Return the table as it is."""
        with self._database.transaction() as execute:
            return catalog.inspect(execute, table)

    def last_load(self, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the newest committed load."""
        with self._database.transaction() as execute:
            return Ledger(execute, table.schema).last(dataset, table) if _known(execute, table) else None

    def find_load(self, run_id: str, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the committed load of that run."""
        with self._database.transaction() as execute:
            return Ledger(execute, table.schema).find(run_id, dataset, table) if _known(execute, table) else None

    def stored_plan(self, run_id: str, dataset: str, table: TableName) -> ReadPlan | None:
        """Return the stored plan of the run."""
        with self._database.transaction() as execute:
            return Ledger(execute, table.schema).plan(run_id, dataset, table) if _known(execute, table) else None

    # a load

    @contextmanager
    def exclusive(self, dataset: str, table: TableName) -> Iterator[None]:  # noqa: ARG002  # two datasets into one table must not interleave either
        """Hold the table: against this process's threads by a lock, against other processes by DuckDB's file lock."""
        lock = lock_of(f"{self._database.file}\0{str(table).lower()}")
        if not lock.acquire(blocking=False):
            raise LoadInProgress(
                "another run in this process loads the table",
                subject=str(table),
                cause=f"process {os.getpid()} runs two loads of it at once",
                fix="wait for the other run",
            )
        try:
            self._database.cursor().close()  # takes the file lock now, not after the source was read
            yield
        finally:
            lock.release()

    def remember_plan(self, run_id: str, dataset: str, table: TableName, plan: ReadPlan) -> ReadPlan:
        """Store the plan of the run if it has none."""
        with self._database.ddl, self._database.transaction() as execute:
            catalog.create_schema(execute, table)
            ledger = Ledger(execute, table.schema)
            ledger.open_run(run_id, dataset, table, staging_table(run_id, dataset, table), plan)
            return ledger.plan(run_id, dataset, table) or plan

    def begin(self, request: LoadRequest, slice_: Slice) -> Load | None:
        """Open staging for one slice."""
        check_names(
            (column.name for column in wanted_columns(request)),
            table=request.table,
            longest=catalog.LONGEST_NAME,
            fold=str.lower,
        )
        with self._database.ddl, self._database.transaction() as execute:
            catalog.create_schema(execute, request.table)
            ledger = Ledger(execute, request.table.schema)
            if ledger.find(request.run_id, request.dataset, request.table) or ledger.is_staged(request, slice_):
                return None
            staging = self._open_staging(execute, request)
        return DuckDBLoad(self._database, request, slice_, staging)

    def commit(self, request: LoadRequest, cursor: str | None) -> LoadRecord:
        """Apply the staged slices."""
        with self._database.ddl:
            with self._database.transaction() as execute:
                catalog.create_schema(execute, request.table)
                ledger = Ledger(execute, request.table.schema)
                if done := ledger.find(request.run_id, request.dataset, request.table):
                    ledger.close_run(request.run_id, request.dataset, request.table)  # a retry opened it again
                    return done
                check_base(ledger, request)
                staging = self._open_staging(execute, request)
                staged = ledger.staged(request)
            check_complete(request, staged)
            self._check_held(request, staging, sum(staged.values()))
            with self._database.transaction() as execute:
                ledger = Ledger(execute, request.table.schema)
                check_base(ledger, request)
                rows = sum(staged.values())
                applied = _check_staged_key(execute, request, staging, rows) if request.key else rows
                self._apply(execute, request, staging, applied)
                record = ledger.record(request, rows, applied, cursor)
                ledger.close_run(request.run_id, request.dataset, request.table)
                obsolete = ledger.other_runs(request)
        for obsolete_run in obsolete:  # each began before this commit, so it could not commit any more
            with suppress(DatakitError):  # the commit stands; what is left over now, the next one finds again
                self.discard(obsolete_run.run_id, request.dataset, request.table)
        return record

    def discard(self, run_id: str, dataset: str, table: TableName) -> None:
        """Drop staging and plan of a run."""
        with self._database.ddl, self._database.transaction() as execute:
            if _known(execute, table):
                execute(f"DROP TABLE IF EXISTS {qualified(staging_table(run_id, dataset, table))}", ())
                Ledger(execute, table.schema).close_run(run_id, dataset, table)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    # parts of a load

    def _open_staging(self, execute: Execute, request: LoadRequest) -> TableName:
        """Return the run's staging table, made anew if it is missing or was made for other columns."""
        staging = staging_table(request.run_id, request.dataset, request.table)
        columns = wanted_columns(request)
        shape = json.dumps([[column.name, str(column.type), column.nullable] for column in columns])
        ledger = Ledger(execute, request.table.schema)
        ledger.open_run(request.run_id, request.dataset, request.table, staging, None)
        if ledger.shape(request) != shape or not catalog.exists(execute, staging):
            catalog.create_table(execute, staging, columns)
            ledger.unmark(request)
            ledger.set_shape(request, shape)
        return staging

    def _check_held(self, request: LoadRequest, staging: TableName, marked: int) -> None:
        with self._database.transaction() as execute:
            held = execute(f"SELECT count(*) FROM {qualified(staging)}", ())[0][0]
            if held == marked:
                return
            Ledger(execute, request.table.schema).unmark(request)
            execute(f"DELETE FROM {qualified(staging)}", ())
        raise staging_lost(request, marked=marked, held=held)

    def _apply(self, execute: Execute, request: LoadRequest, staging: TableName, rows: int) -> None:
        state = catalog.inspect(execute, request.table)
        target = qualified(request.table)
        if state is None or (request.mode is LoadMode.REPLACE and not catalog.belongings(execute, request.table)):
            kept = catalog.comments(execute, request.table) if state else []
            execute(f"DROP TABLE IF EXISTS {target}", ())
            execute(f"ALTER TABLE {qualified(staging)} RENAME TO {quote(request.table.table)}", ())
            present = {column.name.lower() for column in wanted_columns(request)}
            for column, text in kept:
                if column is None:
                    execute(f"COMMENT ON TABLE {target} IS {literal(text)}", ())
                elif column.lower() in present:
                    execute(f"COMMENT ON COLUMN {target}.{quote(column)} IS {literal(text)}", ())
            return
        emptied = request.mode is LoadMode.REPLACE
        if emptied:
            execute(f"DELETE FROM {target}", ())
        _alter(execute, request.table, changes_to_fit(state, request, emptied=emptied))
        if request.mode is LoadMode.MERGE:
            known = Ledger(execute, request.table.schema).key_of(request.table)
            if known is None or known[0] != request.key or known[1] is LoadMode.APPEND:
                check_key(execute, request, request.table, "the table")
            _merge(execute, request, staging, state, rows)
        else:
            names = quote_all(column.name for column in wanted_columns(request))
            execute(f"INSERT INTO {target} ({names}) SELECT {names} FROM {qualified(staging)}", ())
        execute(f"DROP TABLE {qualified(staging)}", ())


def _known(execute: Execute, table: TableName) -> bool:
    return catalog.ledger_exists(execute, table.schema)


def _check_staged_key(execute: Execute, request: LoadRequest, staging: TableName, rows: int) -> int:
    """Refuse rows that share a key, but for versions of one row; returns how many rows are left of ``rows``."""
    try:
        check_key(execute, request, staging, "the load")
    except InvalidKey:
        if request.versions is None:
            raise
        keep_newest(execute, request, request.versions, staging, catalog.native_type)
        rows = execute(f"SELECT count(*) FROM {qualified(staging)}", ())[0][0]
    return rows


def _alter(execute: Execute, table: TableName, changes: TableChanges) -> None:
    for column in changes.add:
        execute(f"ALTER TABLE {qualified(table)} ADD COLUMN {catalog.column_definition(column)}", ())
    for column in changes.widen:
        execute(
            f"ALTER TABLE {qualified(table)} ALTER COLUMN {quote(column.name)} "
            f"SET DATA TYPE {catalog.native_type(column.type)}",
            (),
        )
    for name in changes.relax:
        execute(f"ALTER TABLE {qualified(table)} ALTER COLUMN {quote(name)} DROP NOT NULL", ())


def _merge(execute: Execute, request: LoadRequest, staging: TableName, state: TableState, rows: int) -> None:
    """Delete the rows that the load replaces, and insert the load's.

    An UPDATE, or MERGE INTO, keeps the former values of every row in memory until the commit, which no memory_limit
    survives for a large load; inserted rows go to the file at once, and a deleted one costs a few bytes.
    """
    target, source = qualified(request.table), qualified(staging)
    names = [column.name for column in wanted_columns(request)]
    others = [column.name for column in (*state.columns, *state.metadata) if column.name not in names]
    same = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in request.key)
    # a unique index would refuse the new row while the old one is there; and a column may be called rowid
    by_statement = catalog.belongings(execute, request.table) or (others and "rowid" in map(str.lower, others + names))
    if by_statement:
        update = ", ".join(f"{quote(name)} = s.{quote(name)}" for name in names if name not in request.key)
        execute(
            f"MERGE INTO {target} AS t USING {source} AS s ON {same} "
            + (f"WHEN MATCHED THEN UPDATE SET {update} " if update else "")
            + f"WHEN NOT MATCHED THEN INSERT ({quote_all(names)}) VALUES ({quote_all(names, 's.')})",
            (),
        )
    elif others:  # what the load does not bring stays as it was: new rows take it from the old ones first
        last = execute(f"SELECT coalesce(max(rowid), -1) FROM {target}", ())[0][0]
        execute(
            f"INSERT INTO {target} ({quote_all([*names, *others])}) "
            f"SELECT {quote_all(names, 's.')}, {quote_all(others, 't.')} "
            f"FROM {source} AS s LEFT JOIN {target} AS t ON {same}",
            (),
        )
        _delete_replaced(execute, request, staging, rows, f"t.rowid <= {last} AND ")
    else:
        _delete_replaced(execute, request, staging, rows)
        execute(f"INSERT INTO {target} ({quote_all(names)}) SELECT {quote_all(names)} FROM {source}", ())


def _delete_replaced(
    execute: Execute, request: LoadRequest, staging: TableName, rows: int, condition: str = ""
) -> None:
    """Delete rows of the table whose key the load has, a part of the keys at a time."""
    same = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name in request.key)
    parts = -(-rows // _KEYS_AT_ONCE)
    for part in range(parts):
        of_part = [f" AND hash({quote_all(request.key, alias)}) % {parts} = {part}" for alias in ("t.", "s.")]
        in_target, in_source = of_part if parts > 1 else ("", "")
        execute(
            f"DELETE FROM {qualified(request.table)} AS t WHERE {condition}EXISTS "
            f"(SELECT 1 FROM {qualified(staging)} AS s WHERE {same}{in_source}){in_target}",
            (),
        )
