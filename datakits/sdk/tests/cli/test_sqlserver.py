"""The command against a SQL Server double, by Kerberos, through Microsoft's driver."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datakit_lab.double import run_double
from datakit_lab.kdc import Kdc
from datakit_lab.network import free_port
from datakit_lab.testing import SERVICE_ACCOUNT, LabTickets

from .conftest import Tree

SOURCE = """\
kind: source
name: ops-source
version: 1.0.0
system: sqlserver
connection: ops
datasets:
  airlines:
    sql: sql/airlines.sql
    key: [Carrier]
"""
BRONZE = """\
kind: bronze
name: sqlserver-bronze
version: 1.0.0
system: sqlserver
sources:
  - datakit: ops-source
"""


@pytest.fixture(scope="module")
def port(lab_kdc: Kdc, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A double with one table, to which the service account may connect by ticket."""
    port = free_port()
    keytab = tmp_path_factory.mktemp("server") / "sqlserver.keytab"
    lab_kdc.add_principal(f"MSSQLSvc/localhost:{port}")
    lab_kdc.keytab(keytab, f"MSSQLSvc/localhost:{port}")
    with run_double(port=port, principals=[lab_kdc.full_name(SERVICE_ACCOUNT)], keytab=keytab) as double:
        double.backend.run("CREATE DATABASE Shop", "master")
        for statement in (
            "CREATE SCHEMA ops",
            "CREATE TABLE ops.Airlines (Carrier char(2) NOT NULL PRIMARY KEY, Name nvarchar(50) NULL)",
            "INSERT INTO ops.Airlines VALUES ('AA', N'American'), ('ZZ', NULL)",
        ):
            double.backend.run(statement, "Shop")
        yield port


@pytest.fixture
def ops(tree: Tree, port: int, lab_tickets: LabTickets, monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setenv("KRB5_CONFIG", str(lab_tickets.kdc.krb5_conf))
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", "lab")
    tree.write("datakits/ops-source/datakit.yaml", SOURCE)
    tree.write("datakits/ops-source/sql/airlines.sql", "SELECT Carrier, Name FROM ops.Airlines")
    tree.write("datakits/sqlserver-bronze/datakit.yaml", BRONZE)
    tree.replace(
        "warehouses/finance/warehouse.yaml",
        "ingest:\n",
        "ingest:\n  - {datakit: sqlserver-bronze, datasets: [ops.airlines]}\n",
    )
    tree.write(
        "warehouses/environments/lab.yaml",
        f"name: lab\nruntime: process\nsources:\n  ops: {{host: localhost, port: {port}, database: Shop, "
        f"encrypt: 'no', principal: {lab_tickets.principal}, server_spn: 'MSSQLSvc/localhost:{port}'}}\n"
        f"warehouses:\n  finance-db: {{path: {tree.database}}}\n",
    )
    return tree


def test_preview_pull_check_and_run_reach_sql_server_by_ticket(ops: Tree, datakit: Any) -> None:
    previewed = datakit("preview", "ops.airlines", "--json")
    assert 0 == previewed.code, previewed.err
    preview = json.loads(previewed.out)
    assert [{"Carrier": "AA", "Name": "American"}, {"Carrier": "ZZ", "Name": None}] == sorted(
        preview["rows"], key=lambda row: str(row["Carrier"])
    )
    assert 0 == datakit("contract", "pull", "ops.airlines").code
    assert "as agreed" in datakit("contract", "check", "ops.airlines").out
    assert 0 == datakit("check", "datakits/ops-source").code
    run = datakit("run", "--dataset", "ops.airlines", "--warehouse", "finance", "--json")
    assert 0 == run.code, run.err
    assert ("loaded", 2) == tuple(json.loads(run.out)[key] for key in ("status", "rows_written"))


def test_a_contract_that_does_not_match_the_live_source_fails_the_run_and_writes_nothing(
    ops: Tree, datakit: Any
) -> None:
    datakit("contract", "pull", "ops.airlines")
    ops.replace("datakits/ops-source/contracts/airlines.yaml", "name: Name", "name: FullName")
    result = datakit("run", "--dataset", "ops.airlines", "--warehouse", "finance")
    assert (78, True) == (result.code, "FullName" in result.err)
    assert 78 == datakit("contract", "check", "ops.airlines").code


def test_without_a_ticket_access_is_denied_before_the_driver_is_asked(
    ops: Tree, datakit: Any, lab_tickets: LabTickets
) -> None:
    lab_tickets.ccache.unlink()
    result = datakit("preview", "ops.airlines", "--json")
    assert (77, "TicketMissing") == (result.code, json.loads(result.err)["error"]["type"])


def test_a_database_that_is_not_there_is_named(ops: Tree, datakit: Any) -> None:
    ops.replace("warehouses/environments/lab.yaml", "database: Shop", "database: Nothing")
    result = datakit("preview", "ops.airlines")
    assert (77, True) == (result.code, "Nothing" in result.err), result.err


def test_the_doctor_finds_the_server_and_the_ticket_for_it(ops: Tree, datakit: Any, port: int, tmp_path: Path) -> None:
    findings = {finding["subject"]: finding for finding in json.loads(datakit("doctor", "--json").out)["findings"]}
    assert "good" == findings["ticket for ops"]["state"]
    assert f"localhost:{port}" in findings["source ops"]["detail"]
