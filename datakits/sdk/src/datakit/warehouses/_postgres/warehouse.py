"""The warehouse in a PostgreSQL database."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote()

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg

from datakit.errors import DatakitError, InvalidKey, LoadInProgress, WarehouseUnavailable
from datakit.model.load import LoadRecord, LoadRequest, ReadPlan, Slice, TableName, TableState, Versions
from datakit.model.manifest import LoadMode
from datakit.warehouses import Load
from datakit.warehouses._changes import wanted_columns
from datakit.warehouses._guards import check_base, check_complete, check_key, keep_newest, staging_lost
from datakit.warehouses._identifiers import check_names, qualified, staging_table
from datakit.warehouses._ledger import LOADS, Execute, Ledger, RunUnderWay
from datakit.warehouses._postgres import catalog
from datakit.warehouses._postgres.application import apply
from datakit.warehouses._postgres.connections import Connections
from datakit.warehouses._postgres.load import PostgresLoad

if TYPE_CHECKING:
    from datakit.warehouses.postgres import PostgresConnection

_HOLDER = """
    SELECT a.application_name, a.pid, a.client_addr::text, a.backend_start
    FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended($1, 0)
"""


class PostgresWarehouse:
    """See :class:`datakit.warehouses.Warehouse`."""

    def __init__(self, settings: PostgresConnection) -> None:
        self._connections = Connections(settings)
        self._lock_timeout = round(settings.lock_timeout.total_seconds() * 1000)

    # what there is

    def inspect(self, table: TableName) -> TableState | None:
        """Return the table as it is."""
        with self._connections.transaction(str(table)) as execute:
            return catalog.inspect(execute, table)

    def last_load(self, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the newest committed load."""
        with self._connections.transaction(str(table)) as execute:
            return Ledger(execute, table.schema).last(dataset, table) if _known(execute, table) else None

    def find_load(self, run_id: str, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the committed load of that run."""
        with self._connections.transaction(str(table)) as execute:
            return Ledger(execute, table.schema).find(run_id, dataset, table) if _known(execute, table) else None

    def stored_plan(self, run_id: str, dataset: str, table: TableName) -> ReadPlan | None:
        """Return the stored plan of the run."""
        with self._connections.transaction(str(table)) as execute:
            return Ledger(execute, table.schema).plan(run_id, dataset, table) if _known(execute, table) else None

    # a load

    @contextmanager
    def exclusive(self, dataset: str, table: TableName) -> Iterator[None]:  # noqa: ARG002  # two datasets into one table must not interleave either
        """Hold the table by an advisory lock of a session of its own, which PostgreSQL ends with this process."""
        name = f"datakit table {json.dumps([table.schema, table.table])}"
        connection = self._connections.connect()
        try:
            with self._connections.translated(str(table)):
                row = connection.execute("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", (name,)).fetchone()
                if row != (True,):
                    raise _held(connection.execute(_HOLDER.encode(), (name,)).fetchone(), table)
            yield
        finally:
            connection.close()

    def remember_plan(self, run_id: str, dataset: str, table: TableName, plan: ReadPlan) -> ReadPlan:
        """Store the plan of the run if it has none."""
        check_names((), table=table, longest=catalog.LONGEST_NAME, fold=str)  # the columns' follow in begin()
        self._create_schema(table)
        with self._connections.transaction(str(table)) as execute:
            ledger = Ledger(execute, table.schema)
            ledger.open_run(run_id, dataset, table, staging_table(run_id, dataset, table), plan)
            return ledger.plan(run_id, dataset, table) or plan

    def begin(self, request: LoadRequest, slice_: Slice) -> Load | None:
        """Open staging for one slice."""
        check_names(
            (column.name for column in wanted_columns(request)),
            table=request.table,
            longest=catalog.LONGEST_NAME,
            fold=str,
        )
        self._create_schema(request.table)
        with self._connections.transaction(str(request.table)) as execute:
            ledger = Ledger(execute, request.table.schema)
            if ledger.find(request.run_id, request.dataset, request.table):
                return None
            staging = _open_staging(execute, request)
            if ledger.is_staged(request, slice_):
                return None
        return PostgresLoad(self._connections, request, slice_, staging)

    def commit(self, request: LoadRequest, cursor: str | None) -> LoadRecord:
        """Apply the staged slices."""
        table = str(request.table)
        self._create_schema(request.table)
        with self._connections.transaction(table) as execute:
            ledger = Ledger(execute, request.table.schema)
            if done := ledger.find(request.run_id, request.dataset, request.table):
                ledger.close_run(request.run_id, request.dataset, request.table)  # a retry opened it again
                return done
            check_base(ledger, request)
            staging = _open_staging(execute, request)
        try:
            try:
                with self._connections.transaction(table) as execute:
                    record, obsolete = self._commit(execute, request, staging, cursor)
            except (_KeyViolatedError, InvalidKey):
                if request.versions is None:
                    raise
                with self._connections.transaction(table) as execute:
                    record, obsolete = self._commit(execute, request, staging, cursor, versions=request.versions)
        except _KeyViolatedError as error:
            with self._connections.transaction(table) as execute:
                check_key(execute, request, staging, "the load")
                check_key(execute, request, request.table, "the table")
            if isinstance(error.violation, psycopg.errors.UniqueViolation):
                raise InvalidKey(
                    f"a unique index of the table forbids a row of the load: {error.violation.diag.message_detail}",
                    subject=table,
                    fix="load with mode merge, or drop the index",
                ) from None
            with self._connections.translated(table):
                raise error.violation from None
        except _StagingLostError as lost:
            with self._connections.transaction(table) as execute:
                execute(f"TRUNCATE {qualified(staging)}", ())
                Ledger(execute, request.table.schema).unmark(request)
            raise staging_lost(request, marked=lost.marked, held=lost.held) from None
        self._sweep(request, obsolete)
        return record

    def discard(self, run_id: str, dataset: str, table: TableName) -> None:
        """Drop staging and plan of a run."""
        with self._connections.transaction(str(table)) as execute:
            if _known(execute, table):
                execute(f"DROP TABLE IF EXISTS {qualified(staging_table(run_id, dataset, table))}", ())
                Ledger(execute, table.schema).close_run(run_id, dataset, table)

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self._connections.close()

    # parts of a load

    def _create_schema(self, table: TableName) -> None:
        with self._connections.transaction(table.schema) as execute:
            catalog.create_schema(execute, table)

    def _commit(
        self,
        execute: Execute,
        request: LoadRequest,
        staging: TableName,
        cursor: str | None,
        *,
        versions: Versions | None = None,
    ) -> tuple[LoadRecord, list[RunUnderWay]]:
        """Do the whole commit but its last statement; also returns the runs that it makes obsolete.

        :param versions: look for superseded versions first. Only when the key was found to have duplicates: the key's
            index finds them for nothing, and this costs a pass over staging.
        """
        execute("SELECT set_config('lock_timeout', $1, true)", (str(self._lock_timeout),))
        # one commit of a load at a time, also against a server process whose client died in the middle of one
        catalog.lock(execute, f"commit {request.dataset} {request.table}")
        ledger = Ledger(execute, request.table.schema)
        if done := ledger.find(request.run_id, request.dataset, request.table):
            return done, []
        check_base(ledger, request)
        staged = ledger.staged(request)
        check_complete(request, staged)
        rows = sum(staged.values())
        try:
            if versions is not None:
                _check_held(rows, execute(f"SELECT count(*) FROM {qualified(staging)}", ())[0][0])
                keep_newest(execute, request, versions, staging, catalog.native_type)
            applied = apply(execute, request, staging)
            if versions is None:
                _check_held(rows, applied)
            record = ledger.record(request, rows, applied, cursor)
        except (
            psycopg.errors.UniqueViolation,
            psycopg.errors.CardinalityViolation,
            psycopg.errors.NotNullViolation,
        ) as error:
            if error.diag.table_name == LOADS:
                raise LoadInProgress(
                    "another run committed at this moment", subject=str(request.table), fix="retry"
                ) from None
            if request.key:
                raise _KeyViolatedError(error) from None
            raise
        ledger.close_run(request.run_id, request.dataset, request.table)
        return record, ledger.other_runs(request)

    def _sweep(self, request: LoadRequest, obsolete: list[RunUnderWay]) -> None:
        """Drop what other runs of this load staged: each began before this commit, so it could not commit any more."""
        with suppress(DatakitError):  # the commit stands; what is left over now, the next one finds again
            for run in obsolete:
                with suppress(WarehouseUnavailable), self._connections.transaction() as execute:
                    ledger = Ledger(execute, request.table.schema)
                    # the run's row first, as _open_staging() does: two orders would be a deadlock
                    if not ledger.still_is(run, request.dataset, request.table):
                        continue
                    ledger.close_run(run.run_id, request.dataset, request.table)
                    if catalog.oid_of(execute, run.staging) is not None:  # not waited for if a slice is being staged
                        execute(f"LOCK TABLE {qualified(run.staging)} IN ACCESS EXCLUSIVE MODE NOWAIT", ())
                        execute(f"DROP TABLE {qualified(run.staging)}", ())


class _KeyViolatedError(Exception):
    """Leaves a transaction because of the key; which row it was can be asked only in another one."""

    def __init__(self, violation: psycopg.Error) -> None:
        super().__init__()
        self.violation = violation


class _StagingLostError(Exception):
    """Leaves a transaction because staging does not hold what was marked."""

    def __init__(self, marked: int, held: int) -> None:
        super().__init__()
        self.marked = marked
        self.held = held


def _check_held(marked: int, held: int) -> None:
    if held != marked:
        raise _StagingLostError(marked, held)


def _known(execute: Execute, table: TableName) -> bool:
    return catalog.ledger_exists(execute, table.schema)


def _open_staging(execute: Execute, request: LoadRequest) -> TableName:
    """Return the run's staging table; made anew if it is missing, was made for other columns, or lost its rows."""
    staging = staging_table(request.run_id, request.dataset, request.table)
    shape = json.dumps([[column.name, str(column.type), column.nullable] for column in request.columns])
    ledger = Ledger(execute, request.table.schema)
    ledger.open_run(
        request.run_id, request.dataset, request.table, staging, None
    )  # its row is this run's lock from here on
    missing = ledger.shape(request) != shape or catalog.oid_of(execute, staging) is None
    if missing or _was_truncated(execute, staging, sum(ledger.staged(request).values())):
        # A table that takes the place of the target must be logged, and would be rewritten to become it. Any other
        # staging table need not survive a crash of the server: its slices are read again.
        swapped = request.mode is LoadMode.REPLACE or catalog.oid_of(execute, request.table) is None
        catalog.create_staging(execute, staging, request.columns, logged=swapped)
        ledger.unmark(request)
        ledger.set_shape(request, shape)
    return staging


def _was_truncated(execute: Execute, staging: TableName, marked: int) -> bool:
    """Whether a crash of the server emptied the unlogged table, while the marks, which are logged, still stand."""
    return marked > 0 and not execute(f"SELECT 1 FROM {qualified(staging)} LIMIT 1", ())


def _held(holder: tuple[str | None, int, str | None, datetime | None] | None, table: TableName) -> LoadInProgress:
    if holder is None:  # it has ended since
        return LoadInProgress("another run loads the table", subject=str(table), fix="retry")
    name, pid, address, since = holder
    # PostgreSQL shows another role's session only to pg_read_all_stats; the application name is shown to everybody
    who = (name or "a session without a name") + (f" from {address}" if address else "")
    return LoadInProgress(
        "another run loads the table",
        subject=str(table),
        cause=who + (f", since {since:%Y-%m-%d %H:%M:%S} UTC" if since else ""),
        fix=f"wait for it; if it hangs: SELECT pg_terminate_backend({pid})",
    )
