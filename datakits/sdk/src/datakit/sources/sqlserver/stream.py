"""One slice on its way from the server: batches, the server's own count, and an end that another thread may ask for.

It calls ``arrow_batch`` and not ``arrow_reader``, whose end closes the statement, and with it the second result set
that holds the server's count; and because a size can be chosen for each batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from datakit.errors import DatakitError, SourceUnavailable
from datakit.sources.sqlserver.arrays import BatchSizer, Converter
from datakit.sources.sqlserver.driver import Connection, driver_errors
from datakit.sources.sqlserver.failures import translate
from datakit.sources.sqlserver.type_table import Field

if TYPE_CHECKING:
    import pyarrow as pa

_ATTEMPTS: Final = 3
_PAUSE: Final = 0.5
"""Seconds before the second attempt; twice as many before the third."""

_CANCEL_PATIENCE: Final = 10.0
"""Seconds after which a server that does not answer a cancellation is left alone."""

_CANCEL_INTERVAL: Final = 0.05
"""Seconds after which a cancellation is repeated that came before the call it should end."""


class SqlServerStream:
    """A :class:`datakit.sources.RowStream`.

    :param connect: opens a connection with the isolation level set; the event ends its wait for credentials.
    :param sql: a SELECT and a second statement that gives its row count.
    :param verify: looks at the server's own bytes of columns that may have lost half a surrogate pair; called at
        most once for each column.
    """

    def __init__(
        self,
        connect: Callable[[threading.Event], Connection],
        sql: str,
        converter: Converter,
        verify: Callable[[Field], None],
        finished: Callable[[SqlServerStream], None],
    ) -> None:
        self._connect = connect
        self._sql = sql
        self._converter = converter
        self._verify = verify
        self._finished = finished
        self._connection: Connection | None = None
        self._cursor: Any = None
        self._count: int | None = None
        self._closed = threading.Event()
        self._native = threading.Lock()  # held while a call of the driver runs
        self._sizer = BatchSizer([*(field.width for field in converter.fields), 2])

    @property
    def schema(self) -> pa.Schema:
        """The contract's schema."""
        return self._converter.schema

    @property
    def server_count(self) -> int | None:
        """ROWCOUNT_BIG() of the same batch; known after the last row."""
        return self._count

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield batches of about 1.5 MiB."""
        rows = 0
        verified: set[str] = set()
        batch = self._begin()
        while batch.num_rows:
            self._sizer.learn(batch)
            for field in self._converter.suspects(batch):
                if field.column.name not in verified:
                    verified.add(field.column.name)
                    self._verify(field)
            yield self._converter.convert(batch, rows)
            rows += batch.num_rows
            batch = self._call(lambda: self._cursor.arrow_batch(self._sizer.rows))
        self._count = self._call(self._read_count)

    def close(self) -> None:
        """Cancel what runs and close the connection."""
        self._closed.set()
        self._finished(self)
        for _ in range(int(_CANCEL_PATIENCE / _CANCEL_INTERVAL)):
            if self._native.acquire(timeout=_CANCEL_INTERVAL):
                try:
                    self._drop()
                finally:
                    self._native.release()
                return
            self._cancel()
        # The server does not even answer the cancellation; the reading thread drops the connection when it ends.

    def _begin(self) -> pa.RecordBatch:
        """Connect, execute and fetch the first batch. Nothing was given away yet, so all of it may be tried again."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._call(self._first_batch)
            except SourceUnavailable:
                if attempt == _ATTEMPTS or self._closed.wait(_PAUSE * attempt):
                    raise
                with self._native:
                    self._drop()
        raise AssertionError("the last attempt either returns or raises")

    def _first_batch(self) -> pa.RecordBatch:
        if self._connection is None:
            self._connection = self._connect(self._closed)
        cursor = self._cursor = self._connection.cursor()
        cursor.execute(self._sql)
        return cursor.arrow_batch(self._sizer.rows)

    def _read_count(self) -> int:
        if not self._cursor.nextset():
            raise SourceUnavailable(
                "the server ended the result without its row count",
                subject=self._subject,
                cause="the connection dropped in the middle of the rows, which the driver does not report",
                fix="run again; if it happens at the same place every time, look at the server's log",
            )
        return int(self._cursor.fetchone()[0])

    def _call(self, function: Callable[[], Any]) -> Any:
        with self._native:
            if self._closed.is_set():
                raise SourceUnavailable("the stream was closed while it was read", subject=self._subject)
            try:
                return function()
            except DatakitError:
                raise
            except driver_errors() as error:
                if self._closed.is_set():
                    raise SourceUnavailable("the stream was closed while it was read", subject=self._subject) from None
                if self._connection is None:
                    raise SourceUnavailable(str(error), subject=self._subject) from None
                raise translate(error, self._connection.place(self._subject)) from None
            finally:
                if self._closed.is_set():
                    self._drop()

    @property
    def _subject(self) -> str:
        return self._converter.subject

    def _cancel(self) -> None:
        cursor = self._cursor
        if cursor is None:
            return  # it connects, and that has a deadline of its own
        with contextlib.suppress(AttributeError, *driver_errors()):  # it ends just now
            # SQLCancel, the one call of ODBC that may come from another thread. The driver has no public name for it
            # that can be called before there are rows, or twice.
            cursor.hstmt._cancel()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._cursor = None
        if connection is not None:
            connection.close()
