"""One slice on its way into staging.

The rows go through *one* ``INSERT … SELECT`` from a stream, in a thread of its own, because DuckDB then writes full
row groups with all its threads; one statement per batch takes twice as long and leaves the file twice as large.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import duckdb
import pyarrow as pa

from datakit.errors import RowsLost
from datakit.model.load import LoadRequest, Slice, TableName
from datakit.warehouses._changes import wanted_columns
from datakit.warehouses._duckdb.catalog import native_type
from datakit.warehouses._duckdb.database import Database, executor
from datakit.warehouses._identifiers import qualified, quote_all
from datakit.warehouses._ledger import Ledger
from datakit.warehouses._values import check_values

_STREAM: Final = "_dk_batches"
_WAITING: Final = 2  # batches between the caller and DuckDB: enough to keep both busy, too few to matter for memory


class _AbortedError(Exception):
    """Ends the stream of an aborted load, so that its INSERT fails and nothing of it is kept."""


class DuckDBLoad:
    """See :class:`datakit.warehouses.Load`. Its transaction begins with the first batch and ends with the mark."""

    def __init__(self, database: Database, request: LoadRequest, slice_: Slice, staging: TableName) -> None:
        self._database = database
        self._request = request
        self._slice = slice_
        self._staging = staging
        self._schema = pa.schema([pa.field(column.name, column.type.arrow()) for column in request.columns])
        self._batches: queue.Queue[pa.RecordBatch | _AbortedError | None] = queue.Queue(_WAITING)
        self._cursor: duckdb.DuckDBPyConnection | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._inserted = 0
        self._ended = False

    def write(self, batch: pa.RecordBatch) -> None:
        """Hand a batch to DuckDB's stream."""
        check_values(batch, self._request, self._database.limits)
        if self._thread is None:
            self._start()
        if len(batch):
            self._put(pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))

    def stage(self, rows: int) -> None:
        """End the stream, compare the counts, and commit rows and mark together."""
        if self._thread is None:
            self._start()
        self._put(None)
        assert self._thread is not None  # noqa: S101  # _start() has set both
        assert self._cursor is not None  # noqa: S101
        self._thread.join()
        self._raise_failure()
        if self._inserted != rows:
            self.abort()
            raise RowsLost(
                f"{rows} rows were written to slice {self._slice}, and staging holds {self._inserted}",
                subject=str(self._request.table),
                fix="retry; nothing of the slice was kept",
            )
        with self._database.translated(str(self._request.table)):
            try:
                Ledger(executor(self._cursor), self._staging.schema).mark_staged(self._request, self._slice, rows)
                self._cursor.execute("COMMIT")
            except duckdb.Error:
                self.abort()
                raise
        self._finish()

    def abort(self) -> None:
        """Roll the slice back."""
        if self._thread is not None and self._thread.is_alive():
            self._ended = True
            with suppress(queue.Full):  # then the stream notices `_ended` at its next batch
                self._batches.put_nowait(_AbortedError())
            self._thread.join()
        if self._cursor is not None:
            with suppress(duckdb.Error):  # a transaction that has failed already has nothing to roll back
                self._cursor.execute("ROLLBACK")
        self._finish()

    def _finish(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def _start(self) -> None:
        cursor = self._database.cursor()
        self._cursor = cursor
        cursor.register(_STREAM, pa.RecordBatchReader.from_batches(self._schema, self._stream()))
        self._thread = threading.Thread(
            target=self._insert, args=(cursor,), name=f"duckdb-load-{self._slice}", daemon=True
        )
        self._thread.start()

    def _insert(self, cursor: duckdb.DuckDBPyConnection) -> None:
        wanted = wanted_columns(self._request)
        constants = [f"CAST(? AS {native_type(column.type)})" for column, _ in self._request.constants.values()]
        values = [
            value if isinstance(value, str) else value.isoformat() for _, value in self._request.constants.values()
        ]
        columns = ", ".join([quote_all(column.name for column in self._request.columns), *constants])
        try:
            with self._database.translated(str(self._request.table)):
                cursor.execute("BEGIN")
                self._inserted = cursor.execute(
                    f"INSERT INTO {qualified(self._staging)} ({quote_all(column.name for column in wanted)}) "  # noqa: S608
                    f"SELECT {columns} FROM {_STREAM}",
                    values,
                ).fetchall()[0][0]
        except BaseException as error:  # noqa: BLE001  # belongs to the caller's thread, which raises it
            self._failure = error

    def _stream(self) -> Iterator[pa.RecordBatch]:
        while not self._ended:
            match self._batches.get():
                case None:
                    return
                case _AbortedError() as abort:
                    raise abort
                case batch:
                    yield batch
        raise _AbortedError

    def _put(self, batch: pa.RecordBatch | None) -> None:
        assert self._thread is not None  # noqa: S101  # callers start it
        while True:
            self._raise_failure()
            try:
                self._batches.put(batch, timeout=0.2)
            except queue.Full:
                continue
            return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            failure = self._failure
            self.abort()
            raise failure
