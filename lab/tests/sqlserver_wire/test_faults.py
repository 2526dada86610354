"""Faults on request, live, and what drivers make of them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from datakit_lab.sqlserver.child import SqlServerProcess
from datakit_lab.sqlserver.faults import Fault, Faults, parse_fault

from .conftest import Clients, rows_until_the_connection_drops


def read_until_it_breaks(connection: Any, sql: str) -> tuple[int, Exception | None]:
    """Return how many rows arrived, and what ended them."""
    rows = 0
    try:
        cursor = connection.cursor()
        cursor.execute(sql)
        while batch := cursor.fetchmany(500):
            rows += len(batch)
    except Exception as reason:  # noqa: BLE001 - each driver has its own errors
        return rows, reason
    return rows, None


def test_a_drop_after_5000_rows_lets_exactly_these_arrive(server: SqlServerProcess, clients: Clients) -> None:
    server.fault("drop after 5000 matching counted")
    with clients.freetds() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT counted")
        read = sum(1 for _ in rows_until_the_connection_drops(cursor))
    assert 5000 == read


def test_a_result_that_was_dropped_has_no_trailing_count(server: SqlServerProcess, clients: Clients) -> None:
    """mssql-python 1.16 takes a connection that closes within a result for the end of it, without an error; only
    what should have followed tells."""
    server.fault("drop after 2 matching several")
    with clients.odbc() as connection:
        rows, reason = read_until_it_breaks(connection, "SELECT several")
        assert reason is not None or rows <= 2
        cursor = connection.cursor()
        with pytest.raises(Exception, match=r".+"):
            cursor.execute("SELECT several")


def test_a_fault_applies_as_often_as_asked_and_then_no_more(server: SqlServerProcess, clients: Clients) -> None:
    server.fault("error 1205 matching counted times 2")
    outcomes = []
    for _ in range(3):
        with clients.freetds() as connection:
            outcomes.append(read_until_it_breaks(connection, "SELECT counted"))
    assert ["deadlock" in str(reason) for _, reason in outcomes] == [True, True, False]
    assert 100_000 == outcomes[2][0]


def test_a_deadlock_after_some_rows_leaves_the_connection_usable(server: SqlServerProcess, clients: Clients) -> None:
    server.fault("error 1205 after 20000 matching counted")
    with clients.odbc() as connection:
        rows, reason = read_until_it_breaks(connection, "SELECT counted")
        assert rows <= 20_000
        assert "deadlock victim" in str(reason)
        assert (100_000, None) == read_until_it_breaks(connection, "SELECT counted")


def test_a_deadlock_rolls_the_transaction_back(server: SqlServerProcess, clients: Clients) -> None:
    with clients.odbc(autocommit=False) as connection:
        server.fault("error 1205 matching counted")
        _, reason = read_until_it_breaks(connection, "SELECT counted")
        assert "deadlock victim" in str(reason)
        connection.rollback()
        cursor = connection.cursor()
        cursor.execute("SELECT state")
        assert "begin 0,rollback" in cursor.fetchone()[0]


@pytest.mark.parametrize(
    ("number", "words"),
    [(4060, 'Cannot open database "db"'), (18456, "Login failed for user 'sa'"), (10928, "request limit")],
)
def test_an_error_at_login_is_what_the_client_reads(
    server: SqlServerProcess, clients: Clients, number: int, words: str
) -> None:
    server.fault(f"error {number} at login")
    with pytest.raises(Exception, match=words), clients.odbc():
        pass
    with clients.odbc():
        pass


def test_error_10928_in_a_query_ends_the_connection(server: SqlServerProcess, clients: Clients) -> None:
    server.fault("error 10928 matching counted")
    with clients.odbc() as connection:
        _, reason = read_until_it_breaks(connection, "SELECT counted")
        assert "request limit" in str(reason)
        _, after = read_until_it_breaks(connection, "SELECT counted")
        assert after is not None


def test_a_stall_delays_the_rows_and_loses_none(server: SqlServerProcess, clients: Clients) -> None:
    server.fault("stall 1.5 after 10 matching counted")
    started = time.monotonic()
    with clients.odbc() as connection:
        assert (100_000, None) == read_until_it_breaks(connection, "SELECT counted")
    assert time.monotonic() - started >= 1.5


def test_a_fault_beyond_the_last_row_waits_for_a_longer_result(server: SqlServerProcess, clients: Clients) -> None:
    server.fault("drop after 50")
    with clients.freetds() as connection:
        assert (1, None) == read_until_it_breaks(connection, "SELECT auth")
        assert read_until_it_breaks(connection, "SELECT counted")[1] is not None


def test_any_client_can_ask_for_a_fault_with_a_batch(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("EXEC lab_fault 'error 1205 matching several'")
        assert "deadlock" in str(read_until_it_breaks(connection, "SELECT several")[1])
        with pytest.raises(Exception, match="is no fault"):
            cursor.execute("EXEC lab_fault 'explode'")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop after 5000", Fault(action="drop", after_rows=5000)),
        ("stall 2.5 at login always", Fault(action="stall", seconds=2.5, where="login", times=None)),
        (
            "error 1205 after 10 rows matching l_order times 3",
            Fault(action="error", number=1205, after_rows=10, matching="l_order", times=3),
        ),
        ("ERROR 4060", Fault(action="error", number=4060, where="login")),
    ],
)
def test_a_fault_reads_as_it_is_written(text: str, fault: Fault) -> None:
    assert fault == parse_fault(text)


def test_a_text_that_is_no_fault_is_refused_with_the_grammar(server: SqlServerProcess) -> None:
    with pytest.raises(ValueError, match=r"drop | stall SECONDS"):
        server.fault("drop everything")


def test_faults_of_one_batch_strike_in_the_order_of_their_rows() -> None:
    faults = Faults(Fault(action="drop", after_rows=9), Fault(action="stall", after_rows=3))
    assert [3, 9] == [fault.after_rows for fault in faults.take("query", "anything")]
    assert () == faults.take("query", "anything")
