"""One slice on its way into staging, by binary COPY."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any, Final

import pgpq
import psycopg
import pyarrow as pa

from datakit.errors import RowsLost
from datakit.model.load import LoadRequest, Slice, TableName
from datakit.warehouses._identifiers import qualified, quote_all
from datakit.warehouses._ledger import SLICES, Ledger
from datakit.warehouses._postgres.catalog import LIMITS
from datakit.warehouses._postgres.connections import Connection, Connections, executor
from datakit.warehouses._values import check_values

_ROWS: Final = 16_384
"""Rows encoded at a time: PostgreSQL then parses one part while the next is encoded, and buffers stay small."""


class PostgresLoad:
    """See :class:`datakit.warehouses.Load`. One transaction: the rows by COPY, then the mark."""

    def __init__(self, connections: Connections, request: LoadRequest, slice_: Slice, staging: TableName) -> None:
        self._connections = connections
        self._request = request
        self._slice = slice_
        self._staging = staging
        self._schema = pa.schema([pa.field(column.name, column.type.arrow()) for column in request.columns])
        self._encoder = pgpq.ArrowToPostgresBinaryEncoder(self._schema)
        self._connection: Connection | None = None
        self._cursor: psycopg.Cursor[tuple[Any, ...]] | None = None
        self._copying: AbstractContextManager[psycopg.Copy] | None = None
        self._copy: psycopg.Copy | None = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Send a batch."""
        check_values(batch, self._request, LIMITS)
        copy = self._copy or self._start()
        batch = pa.RecordBatch.from_arrays(batch.columns, schema=self._schema)
        with self._translated():
            for offset in range(0, len(batch), _ROWS):
                copy.write(self._encoder.write_batch(batch.slice(offset, _ROWS)))

    def stage(self, rows: int) -> None:
        """End the COPY, compare the counts, and commit rows and mark together."""
        copy = self._copy or self._start()
        assert self._connection is not None  # noqa: S101  # _start() has set all three
        assert self._cursor is not None  # noqa: S101
        assert self._copying is not None  # noqa: S101
        try:
            with self._translated():
                copy.write(self._encoder.finish())
                copying, self._copying, self._copy = self._copying, None, None
                copying.__exit__(None, None, None)
                if (copied := self._cursor.rowcount) != rows:
                    raise RowsLost(
                        f"{rows} rows were written to slice {self._slice}, and PostgreSQL took {copied}",
                        subject=str(self._request.table),
                        fix="retry; nothing of the slice was kept",
                    )
                ledger = Ledger(executor(self._connection), self._staging.schema)
                try:
                    ledger.mark_staged(self._request, self._slice, rows)
                except psycopg.errors.UniqueViolation as error:
                    if error.diag.table_name != SLICES:
                        raise
                    # an earlier try of the slice, which we took for dead, was committing: its rows count, ours do not
                    self.abort()
                    return
                self._connection.execute("COMMIT")
        except BaseException:
            self.abort()
            raise
        self._finish()

    def abort(self) -> None:
        """Roll the slice back."""
        if self._connection is None:
            return
        copying, self._copying, self._copy = self._copying, None, None
        with suppress(psycopg.Error):  # COPY ends with the very error that we send, or the connection is gone
            if copying is not None:
                error = _AbortedError()
                copying.__exit__(_AbortedError, error, None)
        with suppress(psycopg.Error):  # a connection that is gone has rolled back by itself
            self._connection.execute("ROLLBACK")
        self._finish()

    def _start(self) -> psycopg.Copy:
        self._connection = self._connections.lend()
        with self._translated():
            self._connection.execute("BEGIN")
            names = quote_all(column.name for column in self._request.columns)
            self._cursor = self._connection.cursor()
            self._copying = self._cursor.copy(
                f"COPY {qualified(self._staging)} ({names}) FROM STDIN (FORMAT BINARY)".encode()
            )
            self._copy = self._copying.__enter__()
            self._copy.write(self._encoder.write_header())
        return self._copy

    def _finish(self) -> None:
        if self._connection is not None:
            self._connections.give_back(self._connection)
            self._connection = None

    def _translated(self) -> AbstractContextManager[None]:
        return self._connections.translated(str(self._request.table))


class _AbortedError(Exception):
    """What the server is told when a COPY is given up."""

    def __str__(self) -> str:
        return "the load was aborted"
