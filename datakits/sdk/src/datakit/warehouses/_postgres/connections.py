"""Connections: made with what the environment says, in a known state, lent to one thread at a time."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg

from datakit.credentials import Login, Secret
from datakit.credentials.tickets import usable_ticket
from datakit.warehouses._ledger import Execute
from datakit.warehouses._postgres.problems import connect_problem, problem

if TYPE_CHECKING:
    from datakit.warehouses.postgres import PostgresConnection

Connection = psycopg.Connection[tuple[Any, ...]]

_SETTINGS: Final = {
    # what the load log reads back as text
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    # nothing in a user's schema may stand in for a function or an operator
    "search_path": "pg_catalog",
    "client_min_messages": "warning",
    # a role's defaults are for people: a load may take long, and waits for its source with a transaction open
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",  # the session whose lock holds the table does nothing else
    # the server notices within a minute that this machine is gone, and releases its locks
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "10s",
}


class Connections:
    """The connections of one warehouse; thread-safe."""

    def __init__(self, settings: PostgresConnection) -> None:
        self._settings = settings
        self._login = Login(settings.password) if settings.password else None
        self.name = f"{settings.host}:{settings.port}/{settings.database}"
        self._idle: list[Connection] = []
        self._lock = threading.Lock()

    def connect(self) -> Connection:
        """Make a new connection, in autocommit. The caller closes it or gives it back with :meth:`give_back`.

        :raises CredentialsNotReady: no ticket or secret came in time.
        :raises WarehouseUnavailable: the server cannot be reached.
        :raises AccessDenied: the ticket, the secret or the login is not good.
        """
        settings = self._settings
        if settings.gssapi:
            with usable_ticket(settings.principal, [f"{settings.krbsrvname}/{settings.host}"]):
                return self._open(
                    krbsrvname=settings.krbsrvname,
                    gssencmode=settings.gssencmode,
                    require_auth="gss",
                    password="",  # so that PGPASSWORD is not looked at
                )
        if self._login is None:
            return self._open(gssencmode="disable", password="")
        return self._login.connect(self._open_by_password)

    def _open_by_password(self, password: Secret[str]) -> Connection:
        return self._open(gssencmode="disable", password=password.reveal())

    def _open(self, **credentials: Any) -> Connection:
        settings = self._settings
        options: dict[str, Any] = {
            "host": settings.host,
            "port": settings.port,
            "dbname": settings.database,
            "user": settings.user,
            "sslmode": settings.sslmode,
            "sslrootcert": settings.sslrootcert,
            "connect_timeout": max(2, round(settings.connect_timeout.total_seconds())),  # libpq takes nothing below 2 s
            "application_name": _application_name(),
            "client_encoding": "utf8",
            "passfile": f"{os.devnull}/none",  # cannot exist: passwords come from the secrets folder, nowhere else
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 60_000,
        }
        try:
            connection = psycopg.connect(
                **options,
                **credentials,
                autocommit=True,
                cursor_factory=psycopg.RawCursor,
                prepare_threshold=None,
            )
        except psycopg.Error as error:
            raise connect_problem(error, self.name, settings.user) from None
        try:
            with self.translated():
                connection.execute(
                    "SELECT set_config(name, value, false) FROM unnest($1::text[], $2::text[]) AS wanted (name, value) "
                    "WHERE current_setting(name, true) IS NOT NULL",  # older servers lack the newest ones
                    (list(_SETTINGS), list(_SETTINGS.values())),
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def lend(self) -> Connection:
        """Return an idle connection that still answers, or a new one."""
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection = self._idle.pop()
            try:
                connection.execute("SELECT 1")
            except psycopg.Error:  # the server went away while it lay idle
                connection.close()
            else:
                return connection
        return self.connect()

    def give_back(self, connection: Connection) -> None:
        """Keep the connection for the next one, unless it is broken or in a transaction."""
        if connection.closed or connection.info.transaction_status is not psycopg.pq.TransactionStatus.IDLE:
            connection.close()
            return
        with self._lock:
            self._idle.append(connection)

    @contextmanager
    def transaction(self, subject: str | None = None) -> Iterator[Execute]:
        """Run statements in one transaction: committed at the end, rolled back by any exception."""
        connection = self.lend()
        try:
            with self.translated(subject):
                connection.execute("BEGIN")
                try:
                    yield executor(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    with suppress(
                        psycopg.Error
                    ):  # a broken connection has rolled back by itself; the first error counts
                        connection.execute("ROLLBACK")
                    raise
        finally:
            self.give_back(connection)

    @contextmanager
    def translated(self, subject: str | None = None) -> Iterator[None]:
        """Turn PostgreSQL's errors into ours."""
        try:
            yield
        except psycopg.Error as error:
            raise problem(error, f"{subject} on {self.name}" if subject else self.name) from None

    def close(self) -> None:
        """Close the idle connections. May be called twice."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def executor(connection: Connection) -> Execute:
    """Return a function that executes on this connection."""

    def execute(sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = connection.execute(sql.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else []

    return execute


def _application_name() -> str:
    # PostgreSQL keeps 63 bytes, and shows other sessions this name: it is how a refused run says who holds the table
    return f"datakit on {socket.gethostname()[:40]} pid {os.getpid()}"
