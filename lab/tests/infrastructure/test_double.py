"""The double as the lab runs it, read by Microsoft's own driver."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mssql_python
import pytest
from datakit_lab.errors import LabError
from datakit_lab.testing import LabSqlServer, LabTickets

mssql_python.pooling(enabled=False)  # a pooled connection would outlive the ticket that a test takes away


@contextmanager
def connected(text: str) -> Iterator[Any]:
    connection = mssql_python.connect(text)
    try:
        yield connection.cursor()
    finally:
        connection.close()


def flights(cursor: Any) -> int:
    return int(cursor.execute("SELECT COUNT(*) FROM ops.Flights").fetchone()[0])


@pytest.mark.parametrize("spn", ["", "localhost"])
def test_a_cache_of_service_tickets_enters_by_kerberos(
    lab_sqlserver: LabSqlServer, lab_tickets: LabTickets, spn: str
) -> None:
    lab_tickets.only_for(*lab_sqlserver.services)
    asked = f";ServerSPN=MSSQLSvc/{spn}:{lab_sqlserver.port}" if spn else ""
    with connected(lab_sqlserver.connection_string() + asked) as cursor:
        assert flights(cursor) == 308_641
        scheme = "SELECT auth_scheme FROM sys.dm_exec_connections WHERE session_id = @@SPID"
        assert cursor.execute(scheme).fetchone()[0] == "KERBEROS"


def test_the_sql_login_enters_by_password(lab_sqlserver: LabSqlServer) -> None:
    with connected(lab_sqlserver.connection_string(kerberos=False)) as cursor:
        assert flights(cursor) == 308_641


def test_another_principal_is_refused(lab_sqlserver: LabSqlServer, lab_tickets: LabTickets) -> None:
    stranger = lab_tickets.kdc.add_principal(f"stranger-{secrets.token_hex(4)}")
    keytab = lab_tickets.kdc.keytab(lab_tickets.keytab.with_name("stranger"), stranger)
    lab_tickets.kdc.kinit(stranger, keytab, lab_tickets.ccache)
    with pytest.raises(mssql_python.Error, match="Login failed"), connected(lab_sqlserver.connection_string()):
        pass


def test_the_service_account_reads_and_cannot_write(lab_sqlserver: LabSqlServer, lab_tickets: LabTickets) -> None:
    with connected(lab_sqlserver.connection_string()) as cursor, pytest.raises(mssql_python.Error, match="permission"):
        cursor.execute("DELETE FROM ops.Flights")


def test_the_source_changes_and_misbehaves_on_command(lab_own_sqlserver: LabSqlServer, lab_tickets: LabTickets) -> None:
    lab_own_sqlserver.mutate("december")
    with connected(lab_own_sqlserver.connection_string()) as cursor:
        assert flights(cursor) == 336_776
    with pytest.raises(LabError, match="December is there already"):
        lab_own_sqlserver.mutate("december")
    assert lab_own_sqlserver.run("SELECT COUNT(*) FROM ops.Airlines") == [[16]]
    with pytest.raises(LabError, match="Invalid object name"):
        lab_own_sqlserver.run("SELECT * FROM ops.Nothing")
    lab_own_sqlserver.fault("error 1205 matching flights")
    with connected(lab_own_sqlserver.connection_string()) as cursor:
        with pytest.raises(mssql_python.Error, match="deadlock"):
            flights(cursor)
        assert flights(cursor) == 336_776
    with pytest.raises(LabError, match="is no fault"):
        lab_own_sqlserver.fault("explode")
