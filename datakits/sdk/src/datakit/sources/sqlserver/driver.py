"""The only module that imports mssql-python: opens connections, and keeps its surprises in one place.

- It pins Microsoft's ODBC driver, since another provider may become the default that knows no Kerberos.
- It switches the driver's pool off: its key is the connection string, which does not hold the Kerberos principal, so
  a process that changes its ticket would go on as the one before.
- The driver's login timeout does not bound the time that libkrb5 waits for a silent KDC, so a deadline of our own does.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, Final, TypeVar

from datakit.credentials import Login, Secret
from datakit.credentials.tickets import usable_ticket
from datakit.errors import ConfigurationError, DatakitError, DriverMissing, SourceUnavailable
from datakit.model.environment import SourceSystem
from datakit.sources.sqlserver.connection_string import accepted_services, connection_string, service_name
from datakit.sources.sqlserver.failures import Place, translate

_T = TypeVar("_T")
_PROVIDER: Final = "msodbcsql18"
_PROVIDER_VARIABLE: Final = "MSSQL_PYTHON_NATIVE_PROVIDER"

LOGIN_TIMEOUT: Final = 30
"""Seconds that the driver waits for the server to answer the login."""

CONNECT_DEADLINE: Final = 60
"""Seconds for the whole, Kerberos included; one silent KDC costs libkrb5 about 27 of them."""

_lock = threading.Lock()
_module: ModuleType | None = None


def load_driver() -> ModuleType:
    """Import mssql-python and set it up, once.

    :raises DriverMissing: it is not installed.
    """
    global _module  # the driver is one per process, and so is its set-up
    with _lock:
        if _module is None:
            os.environ.setdefault(_PROVIDER_VARIABLE, _PROVIDER)
            try:
                import mssql_python
            except ImportError as error:
                raise DriverMissing.of("SQL Server", "sqlserver", error) from error
            mssql_python.pooling(enabled=False)
            _module = mssql_python
    return _module


def driver_errors() -> tuple[type[BaseException], ...]:
    """Return what the driver raises: its own exceptions, and RuntimeError from its native half."""
    driver = load_driver()
    return (driver.exceptions.Exception, RuntimeError)


class Connection:
    """One connection. Not thread-safe, except for :meth:`close` of an idle one."""

    def __init__(self, raw: Any, system: SourceSystem) -> None:
        self._raw = raw
        self._system = system

    def cursor(self) -> Any:
        """Return a cursor of the driver."""
        return self._raw.cursor()

    def rows(self, sql: str, parameters: Sequence[Any] = (), *, subject: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows.

        :param subject: what the statement is about, for errors.
        :raises DatakitError: as :func:`datakit.sources.sqlserver.failures.translate` says.
        """
        place = self.place(subject)
        try:
            cursor = self._raw.cursor()
            try:
                cursor.execute(sql, tuple(parameters)) if parameters else cursor.execute(sql)
                return [tuple(row) for row in cursor.fetchall()] if cursor.description else []
            finally:
                cursor.close()
        except driver_errors() as error:
            raise translate(error, place) from None

    def iterate(self, sql: str, *, subject: str | None = None) -> Iterator[tuple[Any, ...]]:
        """Run a statement and yield its rows, a thousand at a time in memory."""
        place = self.place(subject)
        try:
            cursor = self._raw.cursor()
            cursor.execute(sql)
            while rows := cursor.fetchmany(1000):
                yield from (tuple(row) for row in rows)
            cursor.close()
        except driver_errors() as error:
            raise translate(error, place) from None

    def place(self, subject: str | None = None) -> Place:
        """Return where this is, for errors."""
        return Place(self._system, subject or f"{self._system.host}:{self._system.port}")

    def close(self) -> None:
        """Close it; a connection that is already broken is closed, too. May be called twice."""
        raw, self._raw = self._raw, None
        if raw is None:
            return
        try:
            raw.close()
        except driver_errors():
            # The server is gone, and it ended the session on its side.
            return


class Connector:
    """Opens connections to one source system, each with the credentials of that moment. Thread-safe.

    :param where: the file and key that ``system`` comes from.
    """

    def __init__(self, system: SourceSystem, *, where: str) -> None:
        self._system = system
        self._where = where
        self._login = Login(system.password) if system.password else None

    def connect(self, *, stop: threading.Event | None = None) -> Connection:
        """Open a connection, after making sure that the credentials have a chance.

        :param stop: ends the wait for credentials from another thread.
        :raises CredentialsNotReady: no ticket or secret came in time.
        :raises TicketError: the credential cache cannot be used.
        :raises AccessDenied: the KDC or the server refuses.
        :raises SourceUnavailable: the server or the KDC does not answer.
        """
        load_driver()
        if self._system.user is None:
            with usable_ticket(self._system.principal, accepted_services(self._system), stop=stop):
                return self._open(None)
        if self._login is None:
            raise ConfigurationError(
                f"the SQL login {self._system.user!r} has no password",
                subject=self._where,
                fix="name its secret: password: REF/FIELD",
            )
        return self._login.connect(self._open, stop=stop)

    def _open(self, password: Secret[str] | None) -> Connection:
        driver = load_driver()
        text = connection_string(self._system, password=password.reveal() if password else None)
        place = Place(self._system, f"{self._system.host}:{self._system.port}")

        def open_raw() -> Any:
            return driver.connect(text, autocommit=True, timeout=LOGIN_TIMEOUT)

        try:
            return Connection(_within(CONNECT_DEADLINE, open_raw, place), self._system)
        except DatakitError:
            raise
        except (*driver_errors(), driver.ConnectionStringParseError) as error:
            raise translate(error, place) from None


def _within(seconds: float, function: Callable[[], _T], place: Place) -> _T:
    """Call a function that cannot be interrupted, and stop waiting for it after some time."""
    done = threading.Event()
    results: list[_T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001  # it is raised again where the caller waits
            failures.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name=f"connect {place.subject}", daemon=True).start()
    if not done.wait(seconds):
        raise SourceUnavailable(
            f"nobody answered within {seconds:.0f} seconds",
            subject=place.subject,
            cause="the server or a KDC takes connections but says nothing",
            fix=f"check: nc -vz {place.system.host} {place.system.port}; kvno {service_name(place.system)}",
        )
    if failures:
        raise failures[0]
    return results[0]
