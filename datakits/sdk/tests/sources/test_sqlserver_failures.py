"""What goes wrong between a datakit and a SQL Server, as the person who runs it reads it."""

from __future__ import annotations

import os
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from datakit.errors import (
    AccessDenied,
    ConfigurationError,
    ContractMismatch,
    DatakitError,
    InvalidCursor,
    InvalidKey,
    LoginRefused,
    SourceUnavailable,
    TicketExpired,
    TicketMissing,
    WrongPrincipal,
)
from datakit.model.contract import Column, Contract
from datakit.model.load import ReadPlan, Slice
from datakit.model.manifest import Cursor, Dataset, Isolation, LoadMode, SlicePlan
from datakit.model.types import DataType
from datakit.sources.sqlserver import SqlServerSource

from .conftest import ROWS, Ops, Table

EVENTS = Dataset(table="dbo.Events")


def _count(source: SqlServerSource, dataset: Dataset = EVENTS) -> int:
    contract = source.describe("ops.t", dataset)
    stream = source.read(dataset, contract, None, Slice())
    try:
        rows = sum(batch.num_rows for batch in stream)
        assert stream.server_count == rows
        return rows
    finally:
        stream.close()


def _plan(source: SqlServerSource, dataset: Dataset, mode: LoadMode, since: str | None = None) -> ReadPlan:
    return source.plan(dataset, source.describe("ops.t", dataset), mode=mode, since=since, slices=None)


def test_a_cache_with_only_the_service_ticket_is_enough(ops: Ops) -> None:
    ops.tickets.only_for(*ops.server.services)
    source = ops.open()
    assert _count(source) == ROWS
    source.close()


def test_a_cache_for_another_service_is_refused_before_connecting(ops: Ops, lab_kdc: object) -> None:
    other = f"MSSQLSvc/other.lab.test:{ops.server.port}"
    if not ops.tickets.kdc.has_principal(other):
        ops.tickets.kdc.add_principal(other)
    ops.tickets.only_for(other)
    with pytest.raises(TicketMissing, match=other):
        ops.open()


def test_the_wrong_principal_is_refused_before_connecting(ops: Ops) -> None:
    with pytest.raises(WrongPrincipal, match="svc-datakit"):
        ops.open(principal="somebody@LAB.TEST")


def test_a_missing_cache_names_its_path(ops: Ops, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5CCNAME", "FILE:/nowhere/cc")
    with pytest.raises(TicketMissing, match="/nowhere/cc"):
        ops.open()


def test_an_unknown_spn_shows_the_spn_the_kdc_and_the_check(ops: Ops) -> None:
    with pytest.raises(AccessDenied) as caught:
        ops.open(server_spn="MSSQLSvc/unknown.lab.test:1433")
    text = str(caught.value)
    assert "kvno MSSQLSvc/unknown.lab.test:1433" in text
    assert f":{ops.tickets.kdc.port}" in text
    assert "setspn -Q" in text


def test_a_principal_without_login_is_refused(ops: Ops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kdc = ops.tickets.kdc
    if not kdc.has_principal("stranger"):
        kdc.add_principal("stranger")
    kdc.kinit("stranger", kdc.keytab(tmp_path / "stranger.keytab", "stranger"), tmp_path / "stranger")
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/stranger")
    with pytest.raises(LoginRefused, match="stranger"):
        ops.open(principal=kdc.full_name("stranger"))


def test_a_database_that_does_not_exist_is_named(ops: Ops) -> None:
    with pytest.raises(LoginRefused, match="'Nowhere'"):
        ops.open(database="Nowhere")


def test_a_sql_login_takes_its_password_from_the_secret_and_never_shows_it(ops: Ops) -> None:
    source = ops.open(user=ops.server.user, password="ops/password")
    assert _count(source) == ROWS
    source.close()
    wrong = "hunter2-canary"
    folder = Path(os.environ["DATAKIT_SECRETS"], "ops")
    (folder / "wrong").write_text(wrong)
    with pytest.raises(LoginRefused) as caught:
        ops.open(user=ops.server.user, password="ops/wrong")
    assert wrong not in str(caught.value)
    assert wrong not in repr(caught.value.__context__)


def test_a_server_that_is_down_is_named_with_its_port(ops: Ops) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(SourceUnavailable, match=f"nc -vz 127.0.0.1 {port}"):
        ops.open(host="127.0.0.1", port=port, user="sa", password="ops/password")


def test_a_certificate_that_nobody_signed_is_refused(ops: Ops) -> None:
    with pytest.raises(ConfigurationError, match="certificate"):
        ops.open(trust_server_certificate=False)


def test_a_connection_that_drops_before_the_first_row_is_tried_again(ops: Ops) -> None:
    source = ops.open()
    contract = source.describe("ops.t", EVENTS)
    ops.server.fault("drop after 0 matching ROWCOUNT_BIG")
    stream = source.read(EVENTS, contract, None, Slice())
    assert sum(batch.num_rows for batch in stream) == ROWS
    source.close()


def test_a_connection_that_drops_in_the_middle_is_an_error_and_not_a_shorter_table(
    ops: Ops, source: SqlServerSource, table: Table
) -> None:
    name = table("id int NOT NULL PRIMARY KEY, v nchar(2000) NOT NULL")
    ops.run(f"INSERT INTO {name} SELECT value, N'x' FROM GENERATE_SERIES(1, 5000)")
    ops.server.fault("drop after 3000 matching ROWCOUNT_BIG")
    seen: list[int] = []
    contract = source.describe("ops.t", Dataset(table=name))
    stream = source.read(Dataset(table=name), contract, None, Slice())
    with pytest.raises(SourceUnavailable):
        seen.extend(batch.num_rows for batch in stream)
    stream.close()
    assert 0 < sum(seen) <= 3000
    assert stream.server_count is None


@pytest.mark.parametrize("number", [1205, 10928, 40613])
def test_a_busy_server_is_tried_again_and_then_named(ops: Ops, source: SqlServerSource, number: int) -> None:
    contract = source.describe("ops.t", EVENTS)
    ops.server.fault(f"error {number} always matching ROWCOUNT_BIG")
    stream = source.read(EVENTS, contract, None, Slice())
    with pytest.raises(SourceUnavailable):
        list(stream)
    stream.close()
    ops.server.fault("clear")
    assert _count(source) == ROWS


def test_a_stalled_read_ends_when_another_thread_closes_it(ops: Ops, source: SqlServerSource) -> None:
    contract = source.describe("ops.t", EVENTS)
    ops.server.fault("stall 120 after 100 matching ROWCOUNT_BIG")
    stream = source.read(EVENTS, contract, None, Slice())
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            list(stream)
        except DatakitError as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    time.sleep(1.0)
    stream.close()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(outcome[0], SourceUnavailable)


def test_snapshot_where_the_database_forbids_it_says_how_to_allow_it(ops: Ops) -> None:
    ops.run("ALTER DATABASE Ops SET ALLOW_SNAPSHOT_ISOLATION OFF")
    try:
        source = ops.open(Isolation.SNAPSHOT)
        with pytest.raises(ConfigurationError, match="ALLOW_SNAPSHOT_ISOLATION ON"):
            _count(source)
        source.close()
        automatic = ops.open()
        assert _count(automatic) == ROWS
        automatic.close()
    finally:
        ops.run("ALTER DATABASE Ops SET ALLOW_SNAPSHOT_ISOLATION ON")


def test_a_column_of_the_contract_that_is_gone_is_named(source: SqlServerSource) -> None:
    contract = Contract(dataset="ops.t", columns=(Column(name="gone", type=DataType("int32")),))
    with pytest.raises(ContractMismatch, match="'gone'"):
        source.read(EVENTS, contract, None, Slice())


def test_a_value_wider_than_its_contract_is_refused_with_its_row(source: SqlServerSource, table: Table) -> None:
    name = table("id int NOT NULL PRIMARY KEY, v bigint NOT NULL", "(1, 5), (2, 5000000000)")
    live = source.describe("ops.t", Dataset(table=name))
    narrow = Contract(
        dataset="ops.t",
        key=("id",),
        columns=(live.columns[0], Column(name="v", type=DataType("int32"), nullable=False)),
    )
    stream = source.read(Dataset(table=name), narrow, None, Slice())
    with pytest.raises(DatakitError, match=r"column 'v'.*row id=2"):
        list(stream)
    stream.close()


@pytest.mark.parametrize(("column", "message"), [("maybe", "NULLs"), ("name", "no order"), ("gone", "does not exist")])
def test_a_column_that_cannot_be_a_cursor_is_refused(source: SqlServerSource, column: str, message: str) -> None:
    dataset = Dataset(table="dbo.Events", cursor=Cursor(column=column))
    with pytest.raises(InvalidCursor, match=message):
        _plan(source, dataset, LoadMode.MERGE)


def test_a_nullable_column_cannot_cut_slices(source: SqlServerSource) -> None:
    with pytest.raises(InvalidKey, match="would be in no slice"):
        _plan(source, Dataset(table="dbo.Events", slices=SlicePlan(column="maybe", rows=10)), LoadMode.REPLACE)


def test_a_row_from_the_future_does_not_become_the_cursor_of_a_merge(source: SqlServerSource, table: Table) -> None:
    name = table("id int NOT NULL PRIMARY KEY, at datetime2(0) NOT NULL", "(1, '2024-01-01'), (2, '9999-12-31')")
    dataset = Dataset(table=name, cursor=Cursor(column="at"))
    window = _plan(source, dataset, LoadMode.MERGE).window
    assert window is not None
    assert "2024-01-01" < (window.until or "") < "9999"
    again = source.plan(
        dataset, source.describe("ops.t", dataset), mode=LoadMode.MERGE, since=window.until, slices=None
    )
    stream = source.read(dataset, source.describe("ops.t", dataset), again.window, Slice())
    assert [2] == [value for batch in stream for value in batch.column("id").to_pylist()]
    stream.close()


def test_an_append_leaves_what_may_still_be_joined_by_a_late_commit(source: SqlServerSource, table: Table) -> None:
    name = table(
        "id int NOT NULL PRIMARY KEY, at datetime2(7) NOT NULL",
        "(1, DATEADD(hour, -3, SYSUTCDATETIME())), (2, DATEADD(minute, -1, SYSUTCDATETIME()))",
    )
    dataset = Dataset(table=name, cursor=Cursor(column="at", lag="30m"), sub_microsecond="truncate")
    plan = _plan(source, dataset, LoadMode.APPEND)
    contract = source.describe("ops.t", dataset)
    stream = source.read(dataset, contract, plan.window, Slice())
    assert [value for batch in stream for value in batch.column("id").to_pylist()] == [1]
    stream.close()


def test_an_expired_ticket_is_told_before_connecting(ops: Ops) -> None:
    kdc = ops.tickets.kdc
    kdc.kinit(ops.tickets.principal, ops.tickets.keytab, ops.tickets.ccache, life=timedelta(seconds=2))
    time.sleep(3.5)
    with pytest.raises(TicketExpired, match="UTC"):
        ops.open()
