"""Transactions of a session on DuckDB's.

DuckDB gives every transaction a snapshot. Under READ COMMITTED a T-SQL statement sees what is committed when it
begins, so the DuckDB transaction opens only at the first write; under SNAPSHOT (and REPEATABLE READ and
SERIALIZABLE, which a snapshot satisfies for readers) it opens at the first read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb

from datakit_lab.sqlserver.backend import SqlError

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._session import DuckSession


class Transaction:
    """The transaction of one session: ``count`` is ``@@TRANCOUNT``."""

    def __init__(self, session: DuckSession) -> None:
        self._session = session
        self._open = False
        self.count = 0

    def begin(self) -> None:
        """BEGIN TRANSACTION."""
        self.count += 1

    def commit(self) -> None:
        """COMMIT.

        :raises SqlError: 3902 there is no transaction.
        """
        if self.count == 0:
            raise SqlError(3902, "The COMMIT TRANSACTION request has no corresponding BEGIN TRANSACTION.")
        self.count -= 1
        if self.count == 0:
            self._end("COMMIT")

    def rollback(self) -> None:
        """ROLLBACK: all levels.

        :raises SqlError: 3903 there is no transaction.
        """
        if self.count == 0:
            raise SqlError(3903, "The ROLLBACK TRANSACTION request has no corresponding BEGIN TRANSACTION.")
        self.count = 0
        self._end("ROLLBACK")

    def abandon(self) -> None:
        """The connection is gone."""
        self.count = 0
        self._end("ROLLBACK")

    def before_read(self) -> None:
        """Open what the isolation level needs.

        :raises SqlError: 3952 the database does not allow SNAPSHOT.
        """
        level = self._session.settings.isolation
        if level == "SNAPSHOT" and not self._session.backend.allows_snapshot(self._session.database):
            name = self._session.database
            raise SqlError(
                3952,
                f"Snapshot isolation transaction failed accessing database '{name}' because snapshot isolation is "
                f"not allowed "
                "in this database. Use ALTER DATABASE to allow snapshot isolation.",
            )
        if self.count and level in {"SNAPSHOT", "REPEATABLE READ", "SERIALIZABLE"}:
            self._start()

    def before_write(self) -> None:
        """Open the DuckDB transaction of an explicit T-SQL transaction."""
        self.before_read()
        if self.count:
            self._start()

    @property
    def is_open(self) -> bool:
        """Whether DuckDB's transaction is open."""
        return self._open

    def after_error(self, error: duckdb.Error) -> None:
        """A DuckDB transaction that failed cannot go on: end it, as SQL Server does after a conflict."""
        del error
        if self._open:
            self.abandon()

    def _start(self) -> None:
        if not self._open:
            self._session.connection.execute("BEGIN TRANSACTION")
            self._open = True

    def _end(self, verb: str) -> None:
        if self._open:
            self._open = False
            try:
                self._session.connection.execute(verb)
            finally:
                self._session.backend.rowversions.released(self._session)
