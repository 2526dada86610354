"""From a SQL Server whose service names are on an account of the domain, with tickets that the domain issued."""

from __future__ import annotations

from pathlib import Path

import pytest
from datakit_lab.testing import LabSqlServer

from .accounts import PREAUTH_FAILED, REVOKED, Account, tickets
from .ingestion import Ingestion

AIRLINES = 16


@pytest.fixture
def ingestion(sqlserver: LabSqlServer, reader: Account, tmp_path: Path) -> Ingestion:
    """Runs of the command with the tickets of the account that may read, and nothing else."""
    environment = reader.domain.client_environment(reader.ccache)
    return Ingestion.of(sqlserver, tmp_path, **environment)


def test_a_dataset_is_loaded_with_service_tickets_alone(ingestion: Ingestion, reader: Account) -> None:
    services = ingestion.server.services
    reader.domain.service_tickets(reader.name, reader.keytab, reader.ccache, *services)
    report = ingestion.loaded()
    assert {f"{service}@{reader.domain.realm}" for service in services} == tickets(reader.ccache)
    assert ("loaded", AIRLINES, AIRLINES) == (report["status"], report["rows_read"], ingestion.rows())


def test_a_ticket_granting_ticket_loads_too(ingestion: Ingestion, reader: Account) -> None:
    reader.kinit()
    ingestion.loaded()
    assert AIRLINES == ingestion.rows()


def test_tickets_from_before_a_rotation_load_until_they_end_even_if_the_account_is_disabled(
    ingestion: Ingestion, reader: Account
) -> None:
    reader.domain.service_tickets(reader.name, reader.keytab, reader.ccache, *ingestion.server.services)
    reader.domain.rotate(reader.name)
    assert PREAUTH_FAILED == reader.refusal()
    reader.export()
    reader.domain.disable(reader.name)
    assert REVOKED == reader.refusal()
    ingestion.loaded()


def test_a_service_name_that_no_account_holds_is_named_with_the_command_that_looks_it_up(
    ingestion: Ingestion, reader: Account
) -> None:
    reader.kinit()
    file = ingestion.folder / "environments/lab.yaml"
    missing = f"MSSQLSvc/sql-alias.ad.lab.test:{ingestion.server.port}"
    file.write_text(file.read_text().replace('"trust_server', f'"server_spn": "{missing}", "trust_server'))
    ended = ingestion.run()
    ended.is_refused("AccessDenied", 77, missing, "setspn")


def test_a_server_that_rotated_its_own_password_refuses_tickets_from_before_and_takes_new_ones(
    ingestion: Ingestion, reader: Account
) -> None:
    services = ingestion.server.services
    reader.domain.service_tickets(reader.name, reader.keytab, reader.ccache, *services)
    reader.domain.rotate("svc-sql")
    reader.domain.keytab(ingestion.server.control.with_name("keytab"), "svc-sql")
    ingestion.run().is_refused("LoginRefused", 77, "untrusted domain", "new key")
    reader.domain.service_tickets(reader.name, reader.keytab, reader.ccache, *services)
    ingestion.loaded()
