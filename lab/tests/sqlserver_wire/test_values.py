"""Every type and its edges, as clients that others wrote read them."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pyarrow as pa
import pytest

from .cases import CASES, Case, mixed
from .conftest import Clients

NUMBERED = [pytest.param(i, case, id=case.name) for i, case in enumerate(CASES)]


def rows_of(connection: Any, sql: str) -> list[Any]:
    cursor = connection.cursor()
    cursor.execute(sql)
    return [row[0] for row in cursor.fetchall()]


@pytest.mark.parametrize(("number", "case"), NUMBERED)
def test_the_odbc_driver_reads_every_value_by_row(clients: Clients, number: int, case: Case) -> None:
    with clients.odbc() as connection:
        assert case.expected == rows_of(connection, f"SELECT case {number}")


@pytest.mark.parametrize(("number", "case"), NUMBERED)
def test_the_odbc_driver_reads_every_value_as_arrow(clients: Clients, number: int, case: Case) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT case {number}")
        column = cursor.arrow().column(0)
    expected = case.expected
    if case.type.name == "uniqueidentifier":
        expected = [None if value is None else str(value).upper() for value in expected]
    assert expected == column.to_pylist()


@pytest.mark.parametrize(("number", "case"), NUMBERED)
def test_freetds_reads_every_value(clients: Clients, number: int, case: Case) -> None:
    with clients.freetds() as connection:
        read = rows_of(connection, f"SELECT case {number}")
    assert (case.expected if case.freetds is None else case.freetds) == read


def test_a_value_longer_than_its_column_is_an_error_that_names_the_column(clients: Clients) -> None:
    with clients.odbc() as connection, pytest.raises(Exception, match=r"\[short\].*truncated"):
        rows_of(connection, "SELECT too long")


def test_1024_columns_with_awkward_names_arrive(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT wide")
        assert [f"column {i} ]é" for i in range(1024)] == [column[0] for column in cursor.description]
        assert [tuple(range(1024)), (None,) * 1024] == [tuple(row) for row in cursor.fetchall()]


def test_zero_rows_still_have_their_columns(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT nothing")
        table = cursor.arrow()
    assert [case.name for case in CASES] == table.column_names
    assert 0 == table.num_rows


def test_each_sql_variant_brings_its_own_type(clients: Clients) -> None:
    with clients.odbc() as connection:
        read = rows_of(connection, "SELECT variants")
    assert [7, "text é", "12.50", dt.date(2020, 2, 29), b"\x01\x02", None, 1.5] == [
        str(value) if type(value).__name__ == "Decimal" else value for value in read
    ]


def test_rows_with_scattered_nulls_and_a_few_long_values_arrive_whole(clients: Clients) -> None:
    expected = pa.Table.from_batches(list(mixed(20_000).batches()))
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT mixed")
        odbc = cursor.arrow()
    for name in expected.column_names:
        assert expected.column(name).to_pylist() == odbc.column(name).to_pylist(), name
    with clients.freetds() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT mixed")
        assert [tuple(row.values()) for row in expected.to_pylist()] == cursor.fetchall()


def test_parameters_of_every_common_type_arrive_and_return(clients: Clients) -> None:
    sent = [
        True,
        -5,
        2**62,
        1.25,
        "é😀" * 10,
        "x" * 5000,
        b"\x00\xff",
        dt.date(9999, 12, 31),
        dt.time(23, 59, 59),
        dt.datetime(1900, 1, 2, 3, 4, 5, 678_000),
        uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
        None,
    ]
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute(f"SELECT parameters {', '.join('?' * len(sent))}", sent)
        assert sent == list(cursor.fetchone())
