"""The public pytest fixtures, used as a package's tests use them."""

from __future__ import annotations

import os
from pathlib import Path

import krb5
import psycopg
import pytest
from datakit_lab.kdc import Kdc
from datakit_lab.postgres import Postgres
from datakit_lab.testing import LabDatabase, LabSecrets, LabTickets


def services(ccache: str) -> list[str]:
    context = krb5.init_context()
    return [
        (ticket.server.name or b"").decode() for ticket in krb5.cc_resolve(context, ccache.encode()) if ticket.ticket
    ]


def test_the_environment_names_the_realm_and_a_live_ticket(lab_kdc: Kdc, lab_tickets: LabTickets) -> None:
    assert os.environ["KRB5_CONFIG"] == str(lab_kdc.krb5_conf)
    assert services(os.environ["KRB5CCNAME"]) == ["krbtgt/LAB.TEST@LAB.TEST"]


def test_tickets_can_be_narrowed_to_one_service(lab_kdc: Kdc, lab_tickets: LabTickets) -> None:
    service = f"HTTP/{os.urandom(4).hex()}"
    lab_kdc.add_principal(service)
    lab_tickets.only_for(service)
    assert services(os.environ["KRB5CCNAME"]) == [f"{service}@LAB.TEST"]


@pytest.mark.parametrize("round_", [1, 2])
def test_each_test_has_an_empty_database_of_its_own(lab_database: LabDatabase, round_: int) -> None:
    with psycopg.connect(lab_database.dsn()) as connection:
        connection.execute("CREATE TABLE t (n int)")


def test_a_test_may_kill_the_server(lab_database: LabDatabase) -> None:
    lab_database.server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(lab_database.dsn())


def test_and_the_next_one_finds_it_running(lab_database: LabDatabase) -> None:
    psycopg.connect(lab_database.dsn()).close()


def test_the_service_account_enters_postgresql_by_kerberos(lab_postgres: Postgres, lab_tickets: LabTickets) -> None:
    lab_postgres.create_role("svc-datakit")
    try:
        with psycopg.connect(lab_postgres.dsn("svc-datakit")) as connection:
            row = connection.execute("SELECT gss_authenticated FROM pg_stat_gssapi WHERE pid = pg_backend_pid()")
            assert row.fetchone() == (True,)
    finally:
        lab_postgres.drop_role("svc-datakit")


def test_a_published_secret_is_a_file_for_its_owner_only(lab_secrets: LabSecrets) -> None:
    path = lab_secrets.publish("finance-db/password", "s3cret")
    assert path == Path(os.environ["DATAKIT_SECRETS"]) / "finance-db" / "password"
    assert path.read_text() == "s3cret"
    assert path.stat().st_mode & 0o777 == 0o600
    lab_secrets.publish("finance-db/password", "rotated")
    assert path.read_text() == "rotated"
