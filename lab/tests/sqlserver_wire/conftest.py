"""A server in a process of its own, and the clients that others wrote."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.certificates import ServerCertificate, issue_certificate
from datakit_lab.sqlserver.child import SqlServerProcess
from datakit_lab.sqlserver.tls import Tls, TlsMode

from .tables_backend import PASSWORD

FACTORY = f"{Path(__file__).parent / 'cases.py'}:backend"


@dataclass(frozen=True)
class Clients:
    """Connections to one server by SQL login."""

    port: int
    host: str = "127.0.0.1"

    @contextlib.contextmanager
    def odbc(
        self,
        extra: str = "Encrypt=no;",
        *,
        database: str = "db",
        password: str = PASSWORD,
        autocommit: bool = True,
    ) -> Iterator[Any]:
        import mssql_python

        mssql_python.pooling(enabled=False)  # each of these is a login, and a dropped one is not handed out again
        password = password.replace("}", "}}")
        text = f"Server=tcp:{self.host},{self.port};Database={database};UID=sa;PWD={{{password}}};{extra}"
        connection = mssql_python.connect(text, autocommit=autocommit)
        try:
            yield connection
        finally:
            with contextlib.suppress(mssql_python.Error):  # a dropped connection cannot say goodbye
                connection.close()

    @contextlib.contextmanager
    def freetds(self, **options: Any) -> Iterator[Any]:
        import pymssql

        given = {"user": "sa", "password": PASSWORD, "database": "db", "charset": "UTF-8", **options}
        connection = pymssql.connect(self.host, port=str(self.port), **given)
        try:
            yield connection
        finally:
            connection.close()


def rows_until_the_connection_drops(cursor: Any) -> Iterator[Any]:
    """Yield FreeTDS's rows; the test fails if they end in any other way."""
    import pymssql

    try:
        while row := cursor.fetchone():
            yield row
    except pymssql.Error:
        return
    pytest.fail("the rows ended without an error")


@pytest.fixture(scope="module")
def server() -> Iterator[SqlServerProcess]:
    with SqlServerProcess(FACTORY) as running:
        yield running


@pytest.fixture
def clients(server: SqlServerProcess) -> Iterator[Clients]:
    yield Clients(server.port)
    server.fault("clear")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("tls"), ("localhost", "127.0.0.1"))


@pytest.fixture
def tls(certificate: ServerCertificate) -> Any:
    return lambda mode: Tls(TlsMode(mode), certificate.certificate, certificate.key)
