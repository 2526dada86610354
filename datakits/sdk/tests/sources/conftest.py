"""A SQL Server double with tables of every kind, and sources that are connected to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from datakit.model.environment import SourceSystem
from datakit.model.manifest import Isolation
from datakit.sources.sqlserver import SqlServerSource, open_source
from datakit_lab.certificates import ServerCertificate
from datakit_lab.kdc import Kdc
from datakit_lab.testing import LabSecrets, LabSqlServer, LabTickets, sqlserver_double

DATABASE = "Ops"
ROWS = 500

# Each is one batch.
TABLES = (
    "ALTER DATABASE Ops SET ALLOW_SNAPSHOT_ISOLATION ON",
    "CREATE SCHEMA [my.schema]",
    """CREATE TABLE dbo.Events (
        id int NOT NULL PRIMARY KEY, at datetime2(3) NOT NULL, legacy datetime NOT NULL, day date NOT NULL,
        version rowversion NOT NULL, maybe int NULL, name nvarchar(50) NULL, amount decimal(12,2) NULL)""",
    f"""INSERT INTO dbo.Events (id, at, legacy, day, maybe, name, amount)
        SELECT n, DATEADD(second, n / 3, CONVERT(datetime2(3), '2024-01-01')),
               DATEADD(second, n / 3, CONVERT(datetime, '2024-01-01')),
               DATEADD(day, n / 50, CONVERT(date, '2024-01-01')),
               CASE WHEN n = 7 THEN NULL ELSE n END, CASE WHEN n % 7 = 0 THEN NULL ELSE CONCAT('n', n) END, n * 1.25
        FROM (SELECT value AS n FROM GENERATE_SERIES(0, {ROWS - 1})) AS s""",
)


@dataclass(frozen=True)
class Ops:
    """The double, and how to open sources on it."""

    server: LabSqlServer
    tickets: LabTickets
    base: Path

    def system(self, **changes: object) -> SourceSystem:
        """Return where it is, by Kerberos, with changes."""
        settings = {
            "host": self.server.host,
            "port": self.server.port,
            "database": DATABASE,
            "principal": self.server.principal,
            "trust_server_certificate": True,
        }
        return SourceSystem.model_validate({**settings, **changes})

    def open(self, isolation: Isolation = Isolation.AUTO, **changes: object) -> SqlServerSource:
        """Open a source."""
        return open_source(
            self.system(**changes), isolation=isolation, where="environments/lab.yaml", base=str(self.base)
        )

    def run(self, sql: str) -> list[list[object]]:
        """Run a batch as the server itself."""
        return self.server.run(sql, DATABASE)


@pytest.fixture(scope="session")
def ops_server(
    lab_kdc: Kdc, lab_certificate: ServerCertificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabSqlServer]:
    """The double without the lab's data, and with these tests' tables."""
    with sqlserver_double(lab_kdc, lab_certificate, tmp_path_factory.mktemp("ops"), data=()) as server:
        server.run(f"CREATE DATABASE {DATABASE}", "master")
        for batch in TABLES:
            server.run(batch, DATABASE)
        yield server


@pytest.fixture
def ops(ops_server: LabSqlServer, lab_tickets: LabTickets, lab_secrets: LabSecrets, tmp_path: Path) -> Iterator[Ops]:
    """The double, a ticket for it, and the secret of its SQL login; faults end with the test."""
    lab_secrets.publish("ops/password", ops_server.password)
    yield Ops(ops_server, lab_tickets, tmp_path)
    ops_server.fault("clear")


@pytest.fixture
def source(ops: Ops) -> Iterator[SqlServerSource]:
    """A source connected by Kerberos."""
    opened = ops.open()
    yield opened
    opened.close()


Table = Callable[[str, str], str]


@pytest.fixture
def table(ops: Ops, request: pytest.FixtureRequest) -> Iterator[Table]:
    """Make a table for one test: ``table("a int NOT NULL", "(1), (2)")`` returns its name."""
    made: list[str] = []

    def make(columns: str, rows: str = "") -> str:
        name = f"dbo.t{abs(hash(request.node.nodeid)) % 10**9}_{len(made)}"
        ops.run(f"CREATE TABLE {name} ({columns})")
        made.append(name)
        if rows:
            ops.run(f"INSERT INTO {name} VALUES {rows}")
        return name

    yield make
    for name in made:
        ops.run(f"DROP TABLE {name}")
