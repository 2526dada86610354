"""Who may connect, and how the wire is encrypted."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.certificates import ServerCertificate
from datakit_lab.kdc import Kdc
from datakit_lab.network import own_names
from datakit_lab.sqlserver.child import SqlServerProcess
from datakit_lab.sqlserver.tls import Tls

from .conftest import FACTORY, Clients
from .tables_backend import PASSWORD

MakeTls = Callable[[str], Tls]


def sees(connection: Any) -> str:
    cursor = connection.cursor()
    cursor.execute("SELECT auth")
    return str(cursor.fetchone()[0])


def test_a_wrong_password_is_error_18456(clients: Clients) -> None:
    done = subprocess.run(  # pymssql remembers errors of earlier connections of its process
        ["tsql", "-H", "127.0.0.1", "-p", str(clients.port), "-U", "sa", "-P", "wrong"],
        env={**os.environ, "TDSVER": "7.4"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "Msg 18456" in done.stderr + done.stdout
    with pytest.raises(Exception, match="Login failed for user 'sa'"), clients.odbc(password="wrong"):
        pass


def test_a_missing_database_is_error_4060(clients: Clients) -> None:
    with pytest.raises(Exception, match="Cannot open database"), clients.odbc(database="missing"):
        pass


def test_tsql_logs_in_and_reads(clients: Clients) -> None:
    command = ["tsql", "-H", "127.0.0.1", "-p", str(clients.port), "-U", "sa", "-P", PASSWORD, "-D", "db"]
    environment = {**os.environ, "TDSVER": "7.4", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, input="SELECT several\ngo\nexit\n", env=environment, capture_output=True, text=True, timeout=60
    )
    assert "(3 rows affected)" in done.stdout, done


@pytest.mark.parametrize(
    ("mode", "wish"),
    [("off", "no"), ("on", "no"), ("on", "yes"), ("required", "no"), ("required", "yes"), ("on", "strict")],
)
def test_the_odbc_driver_connects_encrypted_as_agreed(
    mode: str, wish: str, tls: MakeTls, certificate: ServerCertificate
) -> None:
    trust = f"ServerCertificate={certificate.certificate};" if wish == "strict" else "TrustServerCertificate=yes;"
    with (
        SqlServerProcess(FACTORY, tls=tls(mode)) as server,
        Clients(server.port).odbc(f"Encrypt={wish};{trust}") as connection,
    ):
        cursor = connection.cursor()
        cursor.execute("SELECT counted")
        assert 100_000 == cursor.arrow().num_rows


def test_a_client_that_insists_on_encryption_refuses_a_server_without(server: SqlServerProcess) -> None:
    with pytest.raises(Exception, match=r"(?i)encrypt|ssl"), Clients(server.port).odbc("Encrypt=yes;"):
        pass


def test_a_certificate_of_an_unknown_authority_is_refused(tls: MakeTls) -> None:
    with (
        SqlServerProcess(FACTORY, tls=tls("on")) as server,
        pytest.raises(Exception, match=r"(?i)certificate"),
        Clients(server.port).odbc("Encrypt=yes;TrustServerCertificate=no;"),
    ):
        pass


def test_a_certificate_of_a_trusted_authority_is_accepted(tls: MakeTls, certificate: ServerCertificate) -> None:
    code = """
import sys, mssql_python
connection = mssql_python.connect(sys.argv[1])
cursor = connection.cursor()
cursor.execute("SELECT auth")
print(cursor.fetchone()[0])
"""
    with SqlServerProcess(FACTORY, tls=tls("on")) as server:
        password = PASSWORD.replace("}", "}}")
        text = f"Server=tcp:localhost,{server.port};Database=db;UID=sa;PWD={{{password}}};Encrypt=yes;"
        trusting = {**os.environ, "SSL_CERT_FILE": str(certificate.authority)}
        done = subprocess.run(
            [sys.executable, "-c", code, text], env=trusting, capture_output=True, text=True, timeout=60
        )
    assert "sa" == done.stdout.strip(), done.stderr


@pytest.mark.parametrize(("mode", "wish"), [("on", "request"), ("required", "require"), ("off", "off")])
def test_freetds_connects_encrypted_as_agreed(mode: str, wish: str, tls: MakeTls) -> None:
    with (
        SqlServerProcess(FACTORY, tls=tls(mode)) as server,
        Clients(server.port).freetds(encryption=wish) as connection,
    ):
        assert "sa" == sees(connection)


def test_garbage_ends_only_its_own_connection(clients: Clients) -> None:
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x12\x01\x00\x05\x00\x00\x01\x00",
        b"\x10\x01\x00\x0c\x00\x00\x01\x00abcd",
    ):
        with socket.create_connection(("127.0.0.1", clients.port), timeout=30) as raw:
            raw.sendall(garbage)
            raw.shutdown(socket.SHUT_WR)
            while raw.recv(4096):
                pass
    with clients.odbc() as connection:
        assert "sa" == sees(connection)


# -- Kerberos ----------------------------------------------------------------------------------------------------


class Realm:
    """A server with a keytab, and the environment of a user who holds a ticket."""

    def __init__(self, kdc: Kdc, folder: Path, tls: Tls) -> None:
        self.keytab = folder / "server.keytab"
        self.server = SqlServerProcess(
            FACTORY, tls=tls, keytab=self.keytab, environment={**os.environ, **kdc.client_environment()}
        ).start()
        services = [f"MSSQLSvc/{name}:{self.server.port}" for name in own_names()]
        for service in services:
            kdc.add_principal(service)
        kdc.keytab(self.keytab, *services)
        kdc.add_principal("svc-etl")
        kdc.kinit("svc-etl", kdc.keytab(folder / "user.keytab", "svc-etl"), folder / "ccache")
        self.principal = kdc.full_name("svc-etl")
        self.environment = {**os.environ, **kdc.client_environment(folder / "ccache")}

    def python(self, code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, str(self.server.port)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory, certificate: ServerCertificate) -> Iterator[Realm]:
    from datakit_lab.sqlserver.tls import TlsMode

    with Kdc() as kdc:
        made = Realm(kdc, tmp_path_factory.mktemp("realm"), Tls(TlsMode.ON, certificate.certificate, certificate.key))
        try:
            yield made
        finally:
            made.server.stop()


ODBC = """
import sys, mssql_python
connection = mssql_python.connect(
    f"Server=tcp:localhost,{sys.argv[1]};Database=db;Trusted_Connection=yes;Encrypt=yes;TrustServerCertificate=yes;"
)
cursor = connection.cursor()
cursor.execute("SELECT auth")
print(cursor.fetchone()[0])
"""


def test_the_odbc_driver_logs_in_with_a_ticket(realm: Realm) -> None:
    done = realm.python(ODBC)
    assert realm.principal == done.stdout.strip(), done.stderr


def test_pymssql_logs_in_with_a_ticket(realm: Realm) -> None:
    code = """
import sys, pymssql
connection = pymssql.connect("localhost", database="db", port=sys.argv[1])
cursor = connection.cursor()
cursor.execute("SELECT auth")
print(cursor.fetchone()[0])
"""
    done = realm.python(code)
    assert realm.principal == done.stdout.strip(), done.stderr


def test_tsql_logs_in_with_a_ticket(realm: Realm) -> None:
    done = subprocess.run(
        ["tsql", "-H", "localhost", "-p", str(realm.server.port), "-D", "db"],
        input="SELECT auth\ngo\nexit\n",
        env={**realm.environment, "TDSVER": "7.4"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert realm.principal in done.stdout, done


@pytest.mark.parametrize("mechanism", ["1.2.840.113554.1.2.2", "1.3.6.1.5.5.2"], ids=["kerberos", "spnego"])
def test_the_acceptor_takes_bare_kerberos_and_spnego(realm: Realm, mechanism: str) -> None:
    code = f"""
import sys, gssapi
from datakit_lab.sqlserver.kerberos import Acceptor
from pathlib import Path
name = gssapi.Name("MSSQLSvc/localhost:" + sys.argv[1], gssapi.NameType.kerberos_principal)
client = gssapi.SecurityContext(name=name, mech=gssapi.OID.from_int_seq("{mechanism}"), usage="initiate")
print(Acceptor(Path({str(realm.keytab)!r})).step(client.step())[0])
"""
    done = realm.python(code)
    assert realm.principal == done.stdout.strip(), done.stderr


def test_a_server_with_another_key_refuses_the_ticket_with_18452(realm: Realm, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copy(realm.keytab, other)
    with Kdc() as stranger:
        name = f"MSSQLSvc/localhost:{realm.server.port}"
        stranger.add_principal(name)
        stranger.keytab(realm.keytab, name)
    try:
        done = realm.python(ODBC)
    finally:
        shutil.copy(other, realm.keytab)
    assert "untrusted domain" in done.stderr


def test_a_server_without_a_keytab_refuses_a_ticket_with_18452(realm: Realm, tmp_path: Path) -> None:
    away = realm.keytab.rename(tmp_path / "away")
    try:
        done = realm.python(ODBC)
    finally:
        away.rename(realm.keytab)
    assert "untrusted domain" in done.stderr
