"""The server: its databases, its logins, its sessions."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self
from urllib.parse import quote as url_quote
from urllib.parse import unquote

import duckdb

from datakit_lab.sqlserver.backend import Login, SqlError
from datakit_lab.sqlserver.tsql._catalog import Catalog, StoredTable, TableSpec
from datakit_lab.sqlserver.tsql._convert import quote, text_literal
from datakit_lab.sqlserver.tsql._principals import Principal
from datakit_lab.sqlserver.tsql._rowversions import Rowversions
from datakit_lab.sqlserver.tsql._scope import SourceColumn
from datakit_lab.sqlserver.tsql._session import DuckSession
from datakit_lab.sqlserver.tsql._types import character, from_duckdb

MEMORY: Final = ":memory:"
_FIRST_SESSION: Final = 51
"""SQL Server keeps the numbers below for itself."""


class DuckBackend:
    """A :class:`~datakit_lab.sqlserver.backend.Backend` on DuckDB: one DuckDB file for each database.

    :param path: the folder of the database files, made if it is not there; ``:memory:`` keeps nothing.
    :param logins: SQL logins by name.
    :param principals: Kerberos principals, ``user@REALM``.
    """

    def __init__(
        self,
        path: Path | str = MEMORY,
        *,
        logins: Mapping[str, Principal] = MappingProxyType({}),
        principals: Mapping[str, Principal] = MappingProxyType({}),
    ) -> None:
        self._folder = None if str(path) == MEMORY else Path(path)
        self._logins = {name.casefold(): principal for name, principal in logins.items()}
        self._principals = dict(principals)
        self._root = duckdb.connect(MEMORY)
        self._lock = threading.Lock()
        self._databases: dict[str, int] = {}
        self._options: dict[str, dict[str, str]] = {}
        self._sessions: dict[int, DuckSession] = {}
        self._system_columns: dict[str, tuple[SourceColumn, ...]] = {}
        self._next_session = _FIRST_SESSION
        self.rowversions = Rowversions()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._folder.glob("*.duckdb")):
                self._attach(unquote(file.stem))
        if "master" not in self._databases:
            self.create_database("master")

    # what the wire calls

    def open_session(self, login: Login) -> DuckSession:
        """Check the login and its database.

        :raises SqlError: 18456 login failed, 4060 database missing or no right to it.
        """
        principal = self._authenticate(login)
        database = login.database or "master"
        try:
            name = self.check_access(principal, database)
        except SqlError:
            raise SqlError(
                4060, f'Cannot open database "{database}" requested by the login. The login failed.', severity=11
            ) from None
        return self._start(login, principal, name)

    def _start(self, login: Login, principal: Principal, database: str) -> DuckSession:
        with self._lock:
            number = self._next_session
            self._next_session += 1
        session = DuckSession(self, login, principal, number, database)
        with self._lock:
            self._sessions[number] = session
        return session

    def _authenticate(self, login: Login) -> Principal:
        shown = login.principal or login.user or ""
        failed = SqlError(18456, f"Login failed for user '{shown}'.", severity=14)
        if login.principal is not None:
            found = self._principals.get(login.principal)
        else:
            found = self._logins.get((login.user or "").casefold())
            if found is not None and (found.password is None or found.password != login.password):
                raise failed
        if found is None:
            raise failed
        return found

    # databases

    def create_database(self, name: str, *, snapshot: bool = False, read_committed_snapshot: bool = False) -> None:
        """Create a database.

        :param snapshot: whether it allows SNAPSHOT isolation.
        :raises SqlError: 1801 it exists.
        """
        if not name or set(name) & set("'\"/"):
            raise SqlError(40517, f"The lab's SQL Server double does not support the database name {name!r}.")
        if name.casefold() in {known.casefold() for known in self._databases}:
            raise SqlError(1801, f"Database '{name}' already exists. Choose a different database name.")
        self._attach(name)
        with self.cursor() as cursor:
            cursor.execute("BEGIN")
            Catalog(cursor, name).create()
            cursor.execute("COMMIT")
        self.set_option(name, "ALLOW_SNAPSHOT_ISOLATION", "ON" if snapshot else "OFF")
        self.set_option(name, "READ_COMMITTED_SNAPSHOT", "ON" if read_committed_snapshot else "OFF")

    def _attach(self, name: str) -> None:
        file = MEMORY if self._folder is None else str(self._folder / f"{url_quote(name, safe=' ')}.duckdb")
        self._root.execute(f"ATTACH {text_literal(file)} AS {quote(name)}")
        self._databases[name] = len(self._databases) + (1 if name == "master" else 5)
        self._options.pop(name, None)

    def database_ids(self) -> dict[str, int]:
        """Return the databases and their ids."""
        return dict(self._databases)

    def spelling(self, name: str) -> str:
        """Return a database's name as it was created.

        :raises SqlError: 911 there is none.
        """
        for known in self._databases:
            if known.casefold() == name.casefold():
                return known
        raise SqlError(911, f"Database '{name}' does not exist. Make sure that the name is entered correctly.")

    def check_access(self, principal: Principal, name: str) -> str:
        """Return a database's name as it was created, if the principal may open it.

        :raises SqlError: 911 there is none, 916 no right to it.
        """
        known = self.spelling(name)
        if known != "master" and not principal.may_open(known):
            raise SqlError(
                916,
                f'The server principal is not able to access the database "{known}" under the current security '
                f"context.",
                severity=14,
            )
        return known

    def set_option(self, name: str, option: str, value: str) -> None:
        """Set ALLOW_SNAPSHOT_ISOLATION or READ_COMMITTED_SNAPSHOT of a database to ON or OFF."""
        with self.cursor() as cursor:
            catalog = Catalog(cursor, name)
            catalog.rows("DELETE FROM lab.options WHERE name = ?", [option])
            catalog.rows("INSERT INTO lab.options VALUES (?, ?)", [option, value])
        self._options.pop(name, None)

    def allows_snapshot(self, name: str) -> bool:
        """Whether a database allows SNAPSHOT isolation."""
        return self._option(name, "ALLOW_SNAPSHOT_ISOLATION")

    def reads_committed_snapshot(self, name: str) -> bool:
        """Whether READ COMMITTED reads row versions in a database."""
        return self._option(name, "READ_COMMITTED_SNAPSHOT")

    def _option(self, name: str, option: str) -> bool:
        if name not in self._options:
            with self.cursor() as cursor:
                self._options[name] = dict(Catalog(cursor, name).rows("SELECT name, value FROM lab.options"))
        return self._options[name].get(option) == "ON"

    # for loaders and tests

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a DuckDB connection to all databases."""
        return self._root.cursor()

    def create_table(self, database: str, spec: TableSpec) -> StoredTable:
        """Create a table, and its schema if it is not there; for loaders, which then fill it through :meth:`cursor`.

        :raises SqlError: 2714 it exists.
        """
        with self.cursor() as cursor:
            cursor.execute("BEGIN")
            catalog = Catalog(cursor, database)
            if catalog.schema_id(spec.schema) is None:
                catalog.create_schema(spec.schema)
            table = catalog.create_table(spec)
            cursor.execute("COMMIT")
        return table

    def restart_identity(self, database: str, schema: str, table: str) -> None:
        """Continue a table's identity behind the highest value that it holds; for loaders that brought their own."""
        with self.cursor() as cursor:
            catalog = Catalog(cursor, database)
            stored = catalog.find(schema, table)
            if stored is None:
                raise SqlError(208, f"Invalid object name '{schema}.{table}'.")
            column = next(column.source.name for column in stored.columns if column.identity)
            ((last,),) = cursor.execute(f"SELECT coalesce(max({quote(column)}), 0) FROM {stored.sql}").fetchall()
            catalog.restart_identity(stored, last + 1)

    def run(self, sql: str, database: str = "master") -> list[Any]:
        """Run a batch as the server itself, and return the rows of its last result set."""
        login = Login(None, "datakit-lab", None, database, "datakit-lab", "localhost", "<local machine>")
        session = self._start(login, Principal(), self.spelling(database))
        rows: list[Any] = []
        try:
            for answer in session.execute(sql):
                batches = getattr(answer, "batches", None)
                if batches is not None:
                    rows = [
                        tuple(row.values())
                        for batch in batches
                        for row in batch.rename_columns([str(place) for place in range(batch.num_columns)]).to_pylist()
                    ]
        finally:
            session.close()
        return rows

    def system_columns(self, view: str, database: str) -> tuple[SourceColumn, ...]:
        """Return the columns of a system view; every database has the same."""
        if view not in self._system_columns:
            with self.cursor() as cursor:
                rows = cursor.execute(f"DESCRIBE SELECT * FROM {quote(database)}.sys.{quote(view)}").fetchall()
            self._system_columns[view] = tuple(
                SourceColumn(
                    name,
                    character("nvarchar", -1 if name == "definition" else 128)
                    if kind == "VARCHAR"
                    else from_duckdb(kind),
                )
                for name, kind, *_ in rows
            )
        return self._system_columns[view]

    def sessions(self) -> tuple[DuckSession, ...]:
        """Return the open sessions."""
        with self._lock:
            return tuple(self._sessions.values())

    def forget(self, session: DuckSession) -> None:
        """A session is closed."""
        with self._lock:
            self._sessions.pop(session.number, None)

    def close(self) -> None:
        """Close every session and the databases."""
        for session in self.sessions():
            session.close()
        self._root.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
