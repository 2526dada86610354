"""Pytest fixtures: a KDC, a PostgreSQL and the SQL Server double, each started when the first test asks for it.

Installing datakit-lab makes them available (entry point ``pytest11``). Each pytest-xdist worker has its own servers on
ports of their own; they end with the worker, however that ends.

Session-wide: ``lab_kdc``, ``lab_certificate``, ``lab_postgres``, ``lab_sqlserver``. For one test:
``lab_own_sqlserver`` (a double to change), ``lab_database`` (an empty database and the role that owns it),
``lab_tickets`` (a credential cache of the service account) and ``lab_secrets`` (the folder of secret files). The last
two also set ``DATAKIT_CREDENTIALS_WAIT`` to nothing, because what a test takes away does not come back by itself.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from datakit_lab.control import call

if TYPE_CHECKING:
    from datakit_lab.certificates import ServerCertificate
    from datakit_lab.kdc import Kdc
    from datakit_lab.postgres import Postgres

SERVICE_ACCOUNT: Final = "svc-datakit"
"""The principal that reads source systems, without its realm."""
_LOAD_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class LabDatabase:
    """An empty PostgreSQL database and the role that owns it."""

    host: str
    port: int
    name: str
    role: str
    password: str
    server: Postgres

    def dsn(self) -> str:
        """Return a libpq connection string for the role, with its password."""
        return self.server.dsn(self.role, self.password, database=self.name)

    def rotate(self) -> LabDatabase:
        """Give the role a new password, which nobody else knows; return the database with it."""
        password = secrets.token_urlsafe(12)
        self.server.set_password(self.role, password)
        return replace(self, password=password)


@dataclass(frozen=True, slots=True)
class LabTickets:
    """A credential cache of the service account; ``KRB5CCNAME`` names it while the test runs."""

    ccache: Path
    principal: str
    keytab: Path
    kdc: Kdc

    def renew(self) -> None:
        """Publish a new ticket-granting ticket, whatever happened to the cache."""
        self.kdc.kinit(self.principal, self.keytab, self.ccache)

    def only_for(self, *services: str) -> None:
        """Publish a cache that opens these services and no other."""
        self.kdc.service_tickets(self.principal, self.keytab, self.ccache, *services)


@dataclass(frozen=True, slots=True)
class LabSecrets:
    """The folder of secret files; ``DATAKIT_SECRETS`` names it while the test runs."""

    folder: Path

    def publish(self, reference: str, value: str) -> Path:
        """Write the secret ``REFERENCE/FIELD``, replacing what is there at once; mode 0600."""
        path = self.folder / reference
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        scratch.touch(mode=0o600)
        scratch.write_text(value, encoding="utf-8")
        return scratch.replace(path)


@dataclass(frozen=True, slots=True)
class LabSqlServer:
    """The SQL Server double, in a process of its own: mssql-python waits within Python's lock, and nobody could answer.

    :ivar user: a SQL login that may change everything, with ``password``; the service account only reads.
    """

    host: str
    port: int
    database: str
    user: str
    password: str
    principal: str
    certificate: ServerCertificate
    control: Path
    log: Path

    @property
    def services(self) -> tuple[str, ...]:
        """The service names that a client on this machine may ask for."""
        from datakit_lab.supervisor import sqlserver_services

        return tuple(sqlserver_services(self.port))

    def connection_string(self, database: str | None = None, *, kerberos: bool = True) -> str:
        """Return a connection string for mssql-python, with the ticket in ``KRB5CCNAME`` or the SQL login."""
        login = "Trusted_Connection=yes" if kerberos else f"UID={self.user};PWD={{{self.password}}}"
        server = f"Server=tcp:{self.host},{self.port};Database={database or self.database}"
        return f"{server};{login};Encrypt=yes;TrustServerCertificate=yes"

    def run(self, sql: str, database: str | None = None) -> list[list[Any]]:
        """Run a batch as the server itself; return the last result's rows, as far as JSON knows their values."""
        rows: list[list[Any]] = call(self.control, "run", sql=sql, database=database or self.database)["rows"]
        return rows

    def fault(self, text: str) -> None:
        """Set a fault, as :mod:`datakit_lab.sqlserver.faults` writes it, or ``clear`` them all."""
        call(self.control, "fault", text=text)

    def load(self, name: str) -> None:
        """Load a data set."""
        call(self.control, "load", name=name)

    def mutate(self, step: str | None = None) -> list[str]:
        """Let the source change by one step, or by all; return what happened."""
        did: list[str] = call(self.control, "mutate", step=step)["did"]
        return did


@contextmanager
def sqlserver_double(
    kdc: Kdc, certificates: ServerCertificate, folder: Path, data: Sequence[str] = ("airline",)
) -> Iterator[LabSqlServer]:
    """Within, a double of its own with this data runs; for tests that change the source."""
    from datakit_lab.double import DATABASE, SQL_LOGIN
    from datakit_lab.network import free_port
    from datakit_lab.supervisor import sqlserver_services, start_double

    port = free_port()
    services = sqlserver_services(port)
    for service in services:
        kdc.add_principal(service)
    password = secrets.token_urlsafe(12)
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password, encoding="utf-8")
    running = LabSqlServer(
        host="localhost",
        port=port,
        database=DATABASE,
        user=SQL_LOGIN,
        password=password,
        principal=kdc.full_name(SERVICE_ACCOUNT),
        certificate=certificates,
        control=folder / "control",
        log=folder / "sqlserver.log",
    )
    process = start_double(
        port=port,
        data=data,
        principal=running.principal,
        keytab=kdc.keytab(folder / "keytab", *services),
        password_file=password_file,
        certificates=certificates.certificate.parent,
        control=running.control,
        log=running.log,
        environment=kdc.client_environment(),
    )
    try:
        process.wait_until(running.control.exists, seconds=_LOAD_SECONDS)
        yield running
    finally:
        process.stop()


@pytest.fixture(scope="session")
def lab_kdc() -> Iterator[Kdc]:
    """A running KDC with the principal ``svc-datakit``; ``KRB5_CONFIG`` of this process is the realm's."""
    from datakit_lab.kdc import Kdc

    with Kdc() as kdc, pytest.MonkeyPatch.context() as patch:
        kdc.add_principal(SERVICE_ACCOUNT)
        patch.setenv("KRB5_CONFIG", str(kdc.krb5_conf))
        yield kdc


@pytest.fixture(scope="session")
def lab_certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    """A server certificate for this machine's loopback names, and the authority that signed it."""
    from datakit_lab.certificates import issue_certificate

    return issue_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def lab_postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    """A running PostgreSQL; with Kerberos where it is built with that (Debian's is)."""
    from datakit_lab.postgres import Postgres

    kdc = request.getfixturevalue("lab_kdc") if Postgres.speaks_kerberos() else None
    with Postgres(kdc=kdc, durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def lab_sqlserver(
    lab_kdc: Kdc, lab_certificate: ServerCertificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabSqlServer]:
    """The double with AirlineOps, January to November; leave its tables as they are, and clear faults that you set."""
    with sqlserver_double(lab_kdc, lab_certificate, tmp_path_factory.mktemp("sqlserver")) as running:
        yield running


@pytest.fixture
def lab_own_sqlserver(lab_kdc: Kdc, lab_certificate: ServerCertificate, tmp_path: Path) -> Iterator[LabSqlServer]:
    """A double with AirlineOps for one test, which may change it."""
    with sqlserver_double(lab_kdc, lab_certificate, tmp_path) as running:
        yield running


@pytest.fixture
def lab_database(lab_postgres: Postgres) -> Iterator[LabDatabase]:
    """An empty database with an owner of its own; dropped after the test. The test may stop or kill the server."""
    lab_postgres.start()
    name = f"test_{secrets.token_hex(6)}"
    password = secrets.token_urlsafe(12)
    lab_postgres.create_role(name, password)
    lab_postgres.create_database(name, owner=name)
    yield LabDatabase("localhost", lab_postgres.port, name, name, password, lab_postgres)
    lab_postgres.start()
    lab_postgres.drop_database(name)
    lab_postgres.drop_role(name)


@pytest.fixture
def lab_tickets(lab_kdc: Kdc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabTickets:
    """A fresh ticket-granting ticket of ``svc-datakit`` in a cache of the test's own."""
    folder = tmp_path / "tickets"
    folder.mkdir()
    tickets = LabTickets(
        ccache=folder / SERVICE_ACCOUNT,
        principal=lab_kdc.full_name(SERVICE_ACCOUNT),
        keytab=lab_kdc.keytab(tmp_path / "svc-datakit.keytab", SERVICE_ACCOUNT),
        kdc=lab_kdc,
    )
    tickets.renew()
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tickets.ccache}")
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "0s")
    return tickets


@pytest.fixture
def lab_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabSecrets:
    """An empty folder of secret files."""
    folder = tmp_path / "secrets"
    folder.mkdir()
    monkeypatch.setenv("DATAKIT_SECRETS", str(folder))
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "0s")
    return LabSecrets(folder)
