"""Bad input to a whole run: what is said, the exit code, and that nothing was written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from datakit_lab.double import DATABASE
from datakit_lab.kdc import Kdc
from datakit_lab.network import free_port
from datakit_lab.sqlserver.server import SqlServer
from datakit_lab.sqlserver.tsql import DuckBackend, Principal
from datakit_lab.supervisor import sqlserver_services
from datakit_lab.testing import LabTickets

from .house import DATASETS, FINANCE, MARKETING, Ended, House

DENIED, TEMPORARY, CONFIGURATION = 77, 75, 78


def nothing_is_written(house: House) -> None:
    for warehouse in (FINANCE, MARKETING):
        assert set() == house.tables(warehouse)
    assert [] == house.query(FINANCE, "SELECT 1 FROM pg_namespace WHERE nspname = 'bronze'")


# what people write


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("warehouses/finance/warehouse.yaml", '"schema":', '"shcema":', ("warehouse.yaml:5:3", "'shcema'", "'schema'")),
        ("warehouses/finance/warehouse.yaml", '"ingest": [', '"ingest": [[', ("warehouse.yaml:",)),
        (
            "datakits/shop-source/datakit.yaml",
            '"cursor"',
            '"cursro"',
            ("datakit.yaml:13:7", "'datasets.orders.cursro'", "'cursor'"),
        ),
        ("datakits/shop-bronze/datakit.yaml", '"merge"', '"merg"', ("datakit.yaml:", "merg", "merge")),
        ("warehouses/environments/lab.yaml", '"host"', '"hots"', ("lab.yaml:6:7", "'sources.shop.hots'", "'host'")),
    ],
)
def test_a_mistake_in_yaml_is_named_with_file_line_and_the_nearest_valid_word(
    house: House, file: str, old: str, new: str, says: tuple[str, ...]
) -> None:
    text = (house.root / file).read_text()
    assert old in text
    house.write(file, text.replace(old, new))
    ended = house.load(FINANCE)
    assert CONFIGURATION == ended.code, ended.err
    joined = " ".join(ended.err.split())
    for part in says:
        assert part in joined, ended.err
    assert "Traceback" not in ended.err
    nothing_is_written(house)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--dataset", "shop.ordres", "--warehouse", "finance"), "did you mean 'shop.orders'?"),
        (("--dataset", "shop.orders", "--warehouse", "finanse"), "did you mean 'finance'?"),
        (("--dataset", "shop.orders", "--warehouse", "finance", "-e", "labb"), "did you mean 'lab'?"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(house: House, arguments: tuple[str, ...], says: str) -> None:
    ended = house.datakit("run", *arguments)
    assert (CONFIGURATION, "UnknownName") == (ended.code, ended.error["type"])
    assert says in " ".join(ended.err.split())
    nothing_is_written(house)


def test_a_protocol_that_we_do_not_know_is_refused(house: House) -> None:
    document = {"protocol": "2.0", "run_id": "r", "dataset": "shop.orders", "warehouse": "finance"}
    ended = house.datakit("run", DATAKIT_RUN=json.dumps(document))
    assert (CONFIGURATION, True) == (ended.code, "2.0" in ended.err), ended.err
    nothing_is_written(house)


def test_a_contract_that_does_not_match_the_live_source_is_refused_with_the_difference(house: House) -> None:
    assert 0 == house.datakit("contract", "pull", "shop.orders").code
    house.sql("ALTER TABLE ops.Orders DROP COLUMN Quantity")
    house.load(FINANCE).is_refused("ContractMismatch", CONFIGURATION, "shop.orders", "Quantity", "contract check")
    nothing_is_written(house)


# cursors and keys


def test_a_cursor_with_nulls_is_refused(house: House) -> None:
    house.sql("CREATE TABLE ops.Loose (ID int NOT NULL PRIMARY KEY, At datetime2(3) NULL)")
    house.sql("INSERT INTO ops.Loose VALUES (1, '2024-01-01'), (2, NULL)")
    house.datasets(DATASETS | {"loose": {"table": "ops.Loose", "key": ["ID"], "cursor": {"column": "At"}}})
    house.takes(FINANCE, "loose")
    house.load(FINANCE, dataset="loose").is_refused("InvalidCursor", CONFIGURATION, "ops.Loose.At", "NULL")
    nothing_is_written(house)


def test_a_source_that_was_restored_from_a_backup_is_refused_until_a_full_run(house: House, warehouse: str) -> None:
    house.loaded(warehouse, run_id="first")
    before = house.landed(warehouse)
    house.sql("DELETE FROM ops.Orders WHERE OrderID > 50")
    house.load(warehouse).is_refused("InvalidCursor", CONFIGURATION, "ops.Orders.ModifiedAt", "restored", "--full")
    assert (before, ["first"]) == (house.landed(warehouse), house.loads(warehouse))
    house.loaded(warehouse, "--full")
    house.is_equal(warehouse)


@pytest.mark.parametrize(
    ("declared", "rows", "subject", "says"),
    [
        ("int NOT NULL", "(1, 'a'), (2, 'b'), (2, 'c')", "bronze.loose", "2"),
        ("int NULL", "(1, 'a'), (NULL, 'b')", "ops.Loose", "'ID' may be NULL"),
    ],
    ids=["duplicates", "nulls"],
)
def test_a_key_that_identifies_no_row_is_refused_by_merge(
    house: House, warehouse: str, declared: str, rows: str, subject: str, says: str
) -> None:
    house.sql(f"CREATE TABLE ops.Loose (ID {declared}, Name varchar(10))")
    house.sql(f"INSERT INTO ops.Loose VALUES {rows}")
    house.datasets(DATASETS | {"loose": {"table": "ops.Loose", "key": ["ID"]}})
    house.takes(warehouse, "loose")
    house.load(warehouse, dataset="loose").is_refused("InvalidKey", CONFIGURATION, subject, says)
    assert "loose" not in house.tables(warehouse)


# tickets


def test_a_missing_ticket_names_the_cache(house: House) -> None:
    house.tickets.ccache.unlink()
    house.load(FINANCE).is_refused("TicketMissing", DENIED, str(house.tickets.ccache), "kinit")
    nothing_is_written(house)


def test_a_ticket_that_this_process_may_not_read_names_owner_mode_and_uid(house: House) -> None:
    if os.geteuid() == 0:
        os.chown(house.tickets.ccache, 12345, 12345)
        house.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    else:
        house.tickets.ccache.chmod(0)
    house.load(FINANCE).is_refused("TicketUnreadable", DENIED, str(house.tickets.ccache), f"uid {os.geteuid()}", "mode")
    nothing_is_written(house)


def test_an_expired_ticket_says_when_it_ended(house: House) -> None:
    kdc, tickets = house.tickets.kdc, house.tickets
    ends = kdc.kinit(tickets.principal, tickets.keytab, tickets.ccache, life=timedelta(seconds=1), renewable=False)
    time.sleep(max(0.0, ends.timestamp() - time.time()) + 1)
    house.load(FINANCE).is_refused("TicketExpired", DENIED, f"{ends:%Y-%m-%d %H:%M:%S} UTC", tickets.principal)
    nothing_is_written(house)


def test_somebody_elses_ticket_names_both(house: House) -> None:
    house.located(source={"principal": "svc-other@LAB.TEST"})
    house.load(FINANCE).is_refused("WrongPrincipal", DENIED, "svc-other@LAB.TEST", house.tickets.principal)
    nothing_is_written(house)


def test_a_truncated_cache_is_called_corrupt(house: House) -> None:
    whole = house.tickets.ccache.read_bytes()
    house.tickets.ccache.write_bytes(whole[: len(whole) // 2])
    house.load(FINANCE).is_refused("TicketCorrupt", DENIED, str(house.tickets.ccache))
    nothing_is_written(house)


def test_an_spn_that_the_kdc_does_not_know_shows_spn_kdc_and_the_check(house: House) -> None:
    house.located(source={"server_spn": "MSSQLSvc/alias.lab.test:1433"})
    house.load(FINANCE).is_refused(
        "AccessDenied", DENIED, "MSSQLSvc/alias.lab.test:1433", f"127.0.0.1:{house.tickets.kdc.port}", "setspn -Q"
    )
    nothing_is_written(house)


# servers


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("error 18456", "LoginRefused", ("svc-datakit", "CREATE LOGIN")),
        ("error 4060", "LoginRefused", ("Cannot open database",)),
    ],
)
def test_a_server_that_refuses_is_named_with_the_next_step(
    house: House, fault: str, error: str, says: tuple[str, ...]
) -> None:
    house.server.fault(fault)
    house.load(FINANCE).is_refused(error, DENIED, f"localhost:{house.server.port}", *says)
    nothing_is_written(house)


def test_a_database_that_is_not_there_is_named(house: House) -> None:
    house.located(source={"database": "Shopp"})
    house.load(FINANCE).is_refused("LoginRefused", DENIED, "'Shopp'")
    nothing_is_written(house)


def test_a_source_that_is_down_is_temporary_and_named(house: House) -> None:
    port = free_port()
    house.located(source={"port": port, "server_spn": f"MSSQLSvc/localhost:{house.server.port}"})
    house.load(FINANCE).is_refused("SourceUnavailable", TEMPORARY, f"localhost:{port}", "nc -vz")
    nothing_is_written(house)


@contextmanager
def server_with_a_secret_table(kdc: Kdc, tickets: LabTickets, folder: Path) -> Iterator[int]:
    """Within, a server answers on the port, and its service account may not read ops.Orders."""
    port = free_port()
    services = sqlserver_services(port)
    for service in services:
        kdc.add_principal(service)
    account = Principal(read_only=True, denied=frozenset({f"{DATABASE}.ops.Orders"}))
    with DuckBackend(logins={}, principals={tickets.principal: account}) as backend:
        backend.run(f"CREATE DATABASE {DATABASE}", "master")
        backend.run("CREATE SCHEMA ops", DATABASE)
        backend.run("CREATE TABLE ops.Orders (OrderID bigint NOT NULL PRIMARY KEY, ModifiedAt datetime2(3))", DATABASE)
        with SqlServer(backend, port=port, tls=None, keytab=kdc.keytab(folder / "shop.keytab", *services)):
            yield port


def test_a_login_without_the_right_to_read_the_table_names_the_grant(
    house: House, lab_kdc: Kdc, tmp_path: Path
) -> None:
    with server_with_a_secret_table(lab_kdc, house.tickets, tmp_path) as port:
        house.located(source={"port": port, "database": DATABASE, "encrypt": "no"})
        house.load(FINANCE).is_refused("LoginRefused", DENIED, "'Orders'", "schema 'ops'", "GRANT SELECT")
    nothing_is_written(house)


# warehouses


def test_a_warehouse_that_nobody_answers_for_is_temporary_and_named(house: House) -> None:
    port = free_port()
    house.located(finance={"port": port})
    house.load(FINANCE).is_refused("WarehouseUnavailable", TEMPORARY, f"localhost:{port}")


def test_a_wrong_password_is_denied_and_not_shown(house: House) -> None:
    house.secrets.publish("finance-db/password", "wrong-and-secret")
    ended = house.load(FINANCE)
    ended.is_refused("LoginRefused", DENIED, house.finance.role)
    assert "wrong-and-secret" not in ended.err + ended.out + json.dumps(ended.report)
    nothing_is_written(house)


def test_a_secret_that_is_not_published_is_named_by_its_file(house: House) -> None:
    (house.secrets.folder / "finance-db" / "password").unlink()
    house.load(FINANCE).is_refused("SecretUnavailable", DENIED, "finance-db/password")
    nothing_is_written(house)


def test_a_folder_that_is_missing_is_named(house: House) -> None:
    house.located(marketing={"path": "/nonexistent/marketing.duckdb"})
    ended = house.load(MARKETING)
    ended.is_refused(ended.error["type"], CONFIGURATION, "/nonexistent")


def test_a_full_disk_is_temporary_and_leaves_the_old_table(house: House) -> None:
    house.loaded(MARKETING, run_id="first")
    before = house.landed(MARKETING)
    house.fill(200_000, start=1000, at="2024-02-01")
    limit = house.duckdb.stat().st_size + (1 << 20)
    house.prefix = ("prlimit", f"--fsize={limit}", "--")
    full = house.load(MARKETING, run_id="second")
    full.is_refused("WarehouseUnavailable", TEMPORARY, str(house.duckdb.name))
    assert (before, ["first"]) == (house.landed(MARKETING), house.loads(MARKETING))
    house.prefix = ()
    house.loaded(MARKETING, run_id="second")
    house.is_equal(MARKETING)


def test_a_report_that_cannot_be_written_is_found_out_before_the_run(house: House) -> None:
    ended: Ended = house.load(FINANCE, DATAKIT_REPORT="/nonexistent/return.json")
    assert (CONFIGURATION, True) == (ended.code, "/nonexistent/return.json" in ended.err), ended.err
    nothing_is_written(house)
