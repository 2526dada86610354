"""Batches, calls, transactions, counts, cancelling: what a connection does after its login."""

from __future__ import annotations

import threading
import time

import pyarrow as pa
import pytest
from datakit_lab.sqlserver.backend import Parameter, SqlType

from .conftest import Clients


def test_a_batch_of_several_results_arrives_in_order_with_its_counts(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT several")
        assert [(1,), (2,), (3,)] == [tuple(row) for row in cursor.fetchall()]
        assert cursor.nextset()
        assert cursor.nextset()
        assert [(17,)] == [tuple(row) for row in cursor.fetchall()]
        assert not cursor.nextset()


def test_the_rows_a_statement_changed_are_counted(clients: Clients) -> None:
    for connect in (clients.odbc, clients.freetds):
        with connect() as connection:
            cursor = connection.cursor()
            cursor.execute("UPDATE seventeen")
            assert 17 == cursor.rowcount


def test_print_reaches_freetds_as_a_message(clients: Clients) -> None:
    with clients.freetds() as connection:
        heard: list[str] = []
        connection._conn.set_msghandler(
            lambda state, severity, server, procedure, line, text: heard.append(text.decode())
        )
        cursor = connection.cursor()
        cursor.execute("SELECT several")
        cursor.fetchall()
    assert "hello from PRINT" in heard


def test_an_error_carries_sql_servers_number(clients: Clients) -> None:
    import pymssql

    with clients.freetds() as connection, pytest.raises(pymssql.Error) as caught:
        connection.cursor().execute("SELECT what is not there")
    assert 208 == caught.value.args[0]


def test_an_error_after_a_result_leaves_the_result(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT fails late")
        assert 1 == cursor.fetchone()[0]
        with pytest.raises(Exception, match="Divide by zero"):
            cursor.nextset()
        cursor.execute("SELECT several")
        assert 3 == len(cursor.fetchall())


def test_an_error_of_severity_21_ends_the_connection(clients: Clients) -> None:
    with clients.freetds() as connection:
        cursor = connection.cursor()
        with pytest.raises(Exception, match=r"kill state"):
            cursor.execute("SELECT fatal")
        with pytest.raises(Exception, match=r".+"):
            cursor.execute("SELECT several")


def test_use_changes_the_database(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("USE other")
        cursor.execute("SELECT state")
        assert "other" == cursor.fetchone()[0].split("|")[1]


def test_the_odbc_driver_manages_transactions(clients: Clients) -> None:
    with clients.odbc(autocommit=False) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT state")
        cursor.fetchall()
        connection.commit()
        cursor.execute("SELECT state")
        cursor.fetchall()
        connection.rollback()
        cursor.execute("SELECT state")
        done = cursor.fetchone()[0].split("|")[0]
    assert ["begin 0", "commit", "begin 0", "rollback", "begin 0"] == done.split(",")


def test_a_statement_prepared_once_runs_many_times(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        for number in (1, 2, 3):
            cursor.execute("SELECT parameters ?, ?", (number, "text"))
            assert (number, "text") == tuple(cursor.fetchone())


def test_an_output_parameter_comes_back(clients: Clients) -> None:
    import pymssql

    with clients.freetds() as connection:
        cursor = connection.cursor()
        assert 42 == cursor.callproc("plus_one", (pymssql.output(int),))[0]


def test_a_new_statement_replaces_one_whose_rows_are_still_coming(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT endless")
        assert 1000 == len(cursor.fetchmany(1000))
        cursor.close()
        again = connection.cursor()
        again.execute("SELECT several")
        assert 3 == len(again.fetchall())


def test_freetds_cancels_an_endless_result(clients: Clients) -> None:
    with clients.freetds() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT endless")
        assert 0 == cursor.fetchone()[0]
        connection._conn.cancel()
        cursor = connection.cursor()
        cursor.execute("SELECT several")
        assert 3 == len(cursor.fetchall())


def test_a_statement_that_waits_is_cancelled_from_another_thread(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        started = time.monotonic()
        canceller = threading.Timer(0.5, lambda: cursor.hstmt._cancel() if hasattr(cursor.hstmt, "_cancel") else None)
        if not hasattr(cursor.hstmt, "_cancel"):
            connection.timeout = 1
            cursor = connection.cursor()
        canceller.start()
        with pytest.raises(Exception, match=r"(?i)cancel|timeout"):
            cursor.execute("WAIT")
        canceller.join()
        assert time.monotonic() - started < 25  # WAIT itself takes 30 seconds
        again = connection.cursor()
        again.execute("SELECT several")
        assert 3 == len(again.fetchall())


def test_a_reader_that_stops_reading_stops_the_server(clients: Clients) -> None:
    with clients.odbc() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT endless")
        cursor.fetchmany(10)
        with clients.odbc() as other:  # the endless one must not keep others from being served
            again = other.cursor()
            again.execute("SELECT counted")
            assert 100_000 == again.arrow().num_rows


def test_packets_of_the_largest_and_smallest_size_carry_the_same_rows(clients: Clients) -> None:
    tables: list[pa.Table] = []
    for size in (512, 4096, 32767):
        with clients.odbc(f"Encrypt=no;PacketSize={size};") as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT counted")
            tables.append(cursor.arrow())
    assert 100_000 == tables[0].num_rows
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_a_described_statement_names_its_columns(clients: Clients) -> None:
    with clients.freetds(as_dict=True) as connection:
        cursor = connection.cursor()
        cursor.callproc("sp_describe_first_result_set", ("SELECT counted",))
        rows = cursor.fetchall()
    assert [("n", "bigint", False), ("text", "nvarchar(20)", True)] == [
        (row["name"], row["system_type_name"], row["is_nullable"]) for row in rows
    ]


def test_parameters_keep_their_declared_names() -> None:
    from datakit_lab.sqlserver.rpc import declared_names, named

    declared = declared_names("@a int, @b decimal(10, 2) OUTPUT,@c nvarchar(max)")
    assert ("@a", "@b", "@c") == declared
    given = [Parameter("", SqlType("int"), 1), Parameter("@z", SqlType("int"), 2)]
    assert ["@a", "@z"] == [parameter.name for parameter in named(given, declared)]
