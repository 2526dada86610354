"""Logins, rights, transactions and what sessions see of each other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from datakit_lab.sqlserver.backend import DatabaseChanged, Login, SqlError
from datakit_lab.sqlserver.tsql import DuckBackend, DuckSession

from .conftest import ask, login

Connect = Callable[..., DuckSession]


@pytest.mark.parametrize(
    ("wrong", "number"),
    [
        (Login(None, "nobody", "right", "Shop", "", "", ""), 18456),
        (Login(None, "sa", "wrong", "Shop", "", "", ""), 18456),
        (Login(None, "sa", None, "Shop", "", "", ""), 18456),
        (Login("nobody@LAB.TEST", None, None, "Shop", "", "", ""), 18456),
        (Login("svc@OTHER.TEST", None, None, "Shop", "", "", ""), 18456),
        (Login(None, "sa", "right", "Nowhere", "", "", ""), 4060),
        (Login("svc@LAB.TEST", None, None, "Closed", "", "", ""), 4060),
    ],
)
def test_a_wrong_login_is_refused_by_number(backend: DuckBackend, wrong: Login, number: int) -> None:
    with pytest.raises(SqlError) as raised:
        backend.open_session(wrong)

    assert raised.value.number == number
    assert "wrong" not in raised.value.text


def test_no_principal_enters_by_an_empty_name(backend: DuckBackend) -> None:
    backend.run("SELECT 1")

    with pytest.raises(SqlError, match="Login failed"):
        backend.open_session(login(None, principal=""))


def test_rights_end_where_they_were_given(connect: Connect) -> None:
    ask(connect(), "CREATE TABLE dbo.Salaries (a int); CREATE TABLE dbo.Prices (a int)")
    service = connect(None, principal="svc@LAB.TEST")

    assert ask(service, "SELECT COUNT(*) FROM dbo.Prices") == [(0,)]
    for sql, number in (
        ("SELECT * FROM dbo.Salaries", 229),
        ("USE Closed", 916),
        ("SELECT * FROM Closed.sys.tables", 916),
        ("SELECT * FROM sys.dm_exec_connections", 300),
    ):
        with pytest.raises(SqlError) as raised:
            ask(service, sql)
        assert raised.value.number == number


def test_a_reader_changes_nothing(connect: Connect) -> None:
    ask(connect(), "CREATE TABLE t (a int)")
    for sql, number in (("INSERT t VALUES (1)", 229), ("DROP TABLE t", 262)):
        with pytest.raises(SqlError) as raised:
            ask(connect("reader"), sql)
        assert raised.value.number == number


def test_the_server_knows_how_one_came_in(connect: Connect, backend: DuckBackend) -> None:
    scheme = "SELECT auth_scheme FROM sys.dm_exec_connections WHERE session_id = @@SPID"

    assert ask(connect(), scheme) == [("SQL",)]
    assert ask(connect(None, principal="svc@LAB.TEST"), "SELECT CONNECTIONPROPERTY('auth_scheme'), SUSER_SNAME()") == [
        ("KERBEROS", "LAB\\svc")
    ]
    assert len(backend.sessions()) == 2


def test_use_changes_the_database_and_says_so(session: DuckSession) -> None:
    assert DatabaseChanged("Shop", "Closed") in list(session.execute("USE closed"))
    assert ask(session, "SELECT DB_NAME()") == [("Closed",)]


def test_a_rollback_undoes_table_and_catalog(session: DuckSession) -> None:
    ask(session, "BEGIN TRAN; CREATE TABLE t (a int); INSERT t VALUES (1)")
    ask(session, "ROLLBACK")

    assert ask(session, "SELECT COUNT(*) FROM sys.tables") == [(0,)]


def test_nobody_sees_what_is_not_committed(session: DuckSession, connect: Connect) -> None:
    ask(session, "CREATE TABLE t (a int)")
    session.begin(0)
    ask(session, "INSERT t VALUES (1)")
    other = connect()

    assert ask(other, "SELECT COUNT(*) FROM t") == [(0,)]
    session.commit()
    assert ask(other, "SELECT COUNT(*) FROM t") == [(1,)]


def test_read_committed_sees_each_commit_and_snapshot_sees_none(session: DuckSession, connect: Connect) -> None:
    ask(session, "CREATE TABLE t (a int)")
    committed, snapshot = connect(), connect()
    ask(committed, "BEGIN TRAN; SELECT COUNT(*) FROM t")
    ask(snapshot, "SET TRANSACTION ISOLATION LEVEL SNAPSHOT; BEGIN TRAN; SELECT COUNT(*) FROM t")

    ask(session, "INSERT t VALUES (1)")

    assert ask(committed, "SELECT COUNT(*) FROM t") == [(1,)]
    assert ask(snapshot, "SELECT COUNT(*) FROM t") == [(0,)]


def test_snapshot_needs_the_databases_leave(connect: Connect) -> None:
    closed = connect(database="Closed")
    ask(closed, "CREATE TABLE t (a int); SET TRANSACTION ISOLATION LEVEL SNAPSHOT")
    with pytest.raises(SqlError) as raised:
        ask(closed, "SELECT * FROM t")
    assert raised.value.number == 3952

    ask(closed, "ALTER DATABASE Closed SET ALLOW_SNAPSHOT_ISOLATION ON")

    assert ask(closed, "SELECT COUNT(*) FROM t") == [(0,)]
    assert ask(closed, "SELECT snapshot_isolation_state FROM sys.databases WHERE name = DB_NAME()") == [(1,)]


def test_min_active_rowversion_stays_below_what_is_not_committed(session: DuckSession, connect: Connect) -> None:
    ask(session, "CREATE TABLE t (a int, v rowversion); INSERT t (a) VALUES (1)")
    late = connect()
    ask(late, "BEGIN TRAN; INSERT t (a) VALUES (2)")
    ask(session, "INSERT t (a) VALUES (3)")

    active = ask(session, "SELECT MIN_ACTIVE_ROWVERSION()")[0][0]
    assert ask(session, "SELECT a FROM t WHERE v < MIN_ACTIVE_ROWVERSION()") == [(1,)]

    ask(late, "COMMIT")
    assert sorted(ask(session, "SELECT a FROM t WHERE v < MIN_ACTIVE_ROWVERSION()")) == [(1,), (2,), (3,)]
    assert ask(session, "SELECT v FROM t WHERE a = 2")[0][0] >= active


def test_a_closed_connection_leaves_nothing_behind(session: DuckSession, connect: Connect) -> None:
    ask(session, "CREATE TABLE t (a int, v rowversion)")
    gone = connect()
    ask(gone, "BEGIN TRAN; INSERT t (a) VALUES (1)")

    gone.close()

    assert ask(session, "SELECT COUNT(*) FROM t WHERE v < MIN_ACTIVE_ROWVERSION()") == [(0,)]
    ask(session, "INSERT t (a) VALUES (2)")
    assert ask(session, "SELECT COUNT(*) FROM t WHERE v < MIN_ACTIVE_ROWVERSION()") == [(1,)]


def test_a_commit_without_a_transaction_is_refused(session: DuckSession) -> None:
    with pytest.raises(SqlError) as raised:
        session.commit()

    assert raised.value.number == 3902
