"""Tables: what they keep, what the server fills in, and what the catalog says about them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from datakit_lab.sqlserver.backend import Login, SqlError
from datakit_lab.sqlserver.tsql import DuckBackend, DuckSession, Principal

from .conftest import ask

KINDS = """CREATE TABLE dbo.Kinds (
    ID bigint IDENTITY(10, 5) NOT NULL PRIMARY KEY, Code char(3) NOT NULL, Amount decimal(10,2) NOT NULL DEFAULT 1.50,
    Twice AS (Amount * 2), Note nvarchar(max) SPARSE NULL, Tag varchar(20) COLLATE Cyrillic_General_CI_AS,
    At datetime2(3), Version rowversion,
    ValidFrom datetime2(7) GENERATED ALWAYS AS ROW START HIDDEN NOT NULL,
    ValidTo datetime2(7) GENERATED ALWAYS AS ROW END HIDDEN NOT NULL)"""


@pytest.fixture
def kinds(session: DuckSession) -> DuckSession:
    ask(session, KINDS)
    return session


def refused(session: DuckSession, sql: str) -> int:
    with pytest.raises(SqlError) as raised:
        ask(session, sql)
    return raised.value.number


def test_the_catalog_knows_the_declared_types(kinds: DuckSession) -> None:
    rows = ask(
        kinds,
        """SELECT c.name, t.name, c.max_length, c.precision, c.scale, c.is_nullable, c.is_identity, c.is_computed,
        c.is_sparse,
        c.is_hidden, c.collation_name FROM sys.columns AS c JOIN sys.types AS t ON t.user_type_id = c.user_type_id
        WHERE c.object_id = OBJECT_ID(N'dbo.kinds') ORDER BY c.column_id""",
    )

    latin, cyrillic = "SQL_Latin1_General_CP1_CI_AS", "Cyrillic_General_CI_AS"
    assert rows == [
        ("ID", "bigint", 8, 19, 0, False, True, False, False, False, None),
        ("Code", "char", 3, 0, 0, False, False, False, False, False, latin),
        ("Amount", "decimal", 9, 10, 2, False, False, False, False, False, None),
        ("Twice", "decimal", 13, 21, 2, True, False, True, False, False, None),
        ("Note", "nvarchar", -1, 0, 0, True, False, False, True, False, latin),
        ("Tag", "varchar", 20, 0, 0, True, False, False, False, False, cyrillic),
        ("At", "datetime2", 7, 23, 3, True, False, False, False, False, None),
        ("Version", "timestamp", 8, 0, 0, False, False, False, False, False, None),
        ("ValidFrom", "datetime2", 8, 27, 7, False, False, False, False, True, None),
        ("ValidTo", "datetime2", 8, 27, 7, False, False, False, False, True, None),
    ]


def test_the_server_fills_in_identity_default_rowversion_and_computed_values(kinds: DuckSession) -> None:
    ask(kinds, "INSERT dbo.Kinds (Code) VALUES ('a'), ('bcd')")

    rows = ask(kinds, "SELECT ID, Code, Amount, Twice, CAST(Version AS bigint) FROM dbo.Kinds ORDER BY ID")
    assert [(key, code, str(amount), str(twice)) for key, code, amount, twice, _ in rows] == [
        (10, "a  ", "1.50", "3.00"),
        (15, "bcd", "1.50", "3.00"),
    ]
    assert rows[0][4] < rows[1][4]
    assert ask(kinds, "SELECT CAST(SCOPE_IDENTITY() AS int)") == [(15,)]


def test_hidden_columns_come_only_by_name(kinds: DuckSession) -> None:
    ask(kinds, "INSERT dbo.Kinds (Code) VALUES ('a')")

    assert len(ask(kinds, "SELECT * FROM dbo.Kinds")[0]) == 8
    assert ask(kinds, "SELECT CONVERT(varchar(33), ValidTo, 126) FROM dbo.Kinds") == [("9999-12-31T23:59:59.9999999",)]


def test_an_update_moves_the_rowversion(kinds: DuckSession) -> None:
    ask(kinds, "INSERT dbo.Kinds (Code) VALUES ('a')")
    before = ask(kinds, "SELECT Version FROM dbo.Kinds")[0][0]

    ask(kinds, "UPDATE k SET Amount = 2 FROM dbo.Kinds AS k WHERE k.ID = 10")

    assert ask(kinds, "SELECT Version FROM dbo.Kinds")[0][0] > before


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("INSERT dbo.Kinds (ID, Code) VALUES (1, 'a')", 544),
        ("INSERT dbo.Kinds (Code, Version) VALUES ('a', 0x00)", 273),
        ("INSERT dbo.Kinds (Code, Twice) VALUES ('a', 1)", 271),
        ("INSERT dbo.Kinds (Code) VALUES (NULL)", 515),
        ("INSERT dbo.Kinds (Code) VALUES ('abcd')", 2628),
        ("INSERT dbo.Kinds (Code) VALUES ('a', 'b')", 110),
        ("INSERT dbo.Kinds (Nothing) VALUES (1)", 207),
        ("UPDATE dbo.Kinds SET ID = 1", 8102),
        ("SET IDENTITY_INSERT dbo.Kinds ON; INSERT dbo.Kinds (ID, Code) VALUES (1, 'a'), (1, 'b')", 2627),
        ("CREATE TABLE dbo.Kinds (a int)", 2714),
        ("CREATE TABLE nowhere.T (a int)", 2760),
        ("ALTER TABLE dbo.Kinds DROP COLUMN ID", 5074),
        ("ALTER TABLE dbo.Kinds ADD Code int", 2705),
    ],
)
def test_a_wrong_change_has_sql_servers_number_and_changes_nothing(kinds: DuckSession, sql: str, number: int) -> None:
    assert refused(kinds, sql) == number
    assert ask(kinds, "SELECT COUNT(*) FROM dbo.Kinds") == [(0,)]


def test_a_table_can_change_its_columns(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (a int NOT NULL PRIMARY KEY, b varchar(5), c int); INSERT t VALUES (1, 'x', 2)")

    ask(
        session,
        "ALTER TABLE t ADD d nvarchar(10) NULL, e int NOT NULL DEFAULT 7; ALTER TABLE t ALTER COLUMN b nvarchar(50)",
    )
    ask(session, "ALTER TABLE t DROP COLUMN c; EXEC sp_rename 't.b', 'renamed', 'COLUMN'; EXEC sp_rename 't', 'u'")

    assert ask(session, "SELECT * FROM u") == [(1, "x", None, 7)]
    assert ask(session, "SELECT name FROM sys.columns WHERE object_id = OBJECT_ID('u') ORDER BY column_id") == [
        ("a",),
        ("renamed",),
        ("d",),
        ("e",),
    ]
    assert ask(
        session,
        "SELECT DATA_TYPE, CHARACTER_MAXIMUM_LENGTH FROM INFORMATION_SCHEMA.COLUMNS WHERE COLUMN_NAME = 'renamed'",
    ) == [("nvarchar", 50)]


def test_key_and_row_count_stand_in_the_catalog(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (a int NOT NULL, b int NOT NULL, c int, CONSTRAINT PK_t PRIMARY KEY CLUSTERED (b, a))")
    ask(session, "INSERT t VALUES (1, 1, 1), (2, 1, 1)")

    key = """SELECT c.name FROM sys.indexes AS i JOIN sys.index_columns AS ic
        ON ic.object_id = i.object_id AND ic.index_id = i.index_id
        JOIN sys.columns AS c ON c.object_id = ic.object_id AND c.column_id = ic.column_id
        WHERE i.object_id = OBJECT_ID('t') AND i.is_primary_key = 1 ORDER BY ic.key_ordinal"""
    assert ask(session, key) == [("b",), ("a",)]
    assert ask(
        session, "SELECT SUM(rows) FROM sys.partitions WHERE object_id = OBJECT_ID('dbo.t') AND index_id IN (0, 1)"
    ) == [(2,)]


def test_a_view_is_a_query_with_types(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (a int, b nvarchar(5)); INSERT t VALUES (1, N'x')")
    ask(session, "CREATE VIEW v AS SELECT a + 1 AS more, b FROM t")

    assert ask(session, "SELECT * FROM dbo.v") == [(2, "x")]
    assert ask(
        session, "SELECT name, system_type_name FROM sys.dm_exec_describe_first_result_set(N'SELECT * FROM v', NULL, 0)"
    ) == [
        ("more", "int"),
        ("b", "nvarchar(5)"),
    ]


def test_temporary_tables_belong_to_their_session(session: DuckSession, connect: Callable[..., DuckSession]) -> None:
    ask(session, "SELECT 1 AS a, N'x' AS b INTO #t")

    assert ask(session, "SELECT * FROM #t") == [(1, "x")]
    assert refused(connect(), "SELECT * FROM #t") == 208


def test_databases_survive_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("server")
    login = Login(None, "sa", "right", "Kept", "tests", "laptop", "127.0.0.1")
    people = {"sa": Principal(password="right")}
    with DuckBackend(folder, logins=people) as server:
        server.create_database("Kept", snapshot=True)
        session = server.open_session(login)
        ask(session, KINDS)
        ask(session, "INSERT dbo.Kinds (Code) VALUES ('a')")

    with DuckBackend(folder, logins=people) as server:
        session = server.open_session(login)
        ask(session, "INSERT dbo.Kinds (Code) VALUES ('b')")

        assert ask(session, "SELECT ID, Code FROM dbo.Kinds ORDER BY ID") == [(10, "a  "), (15, "b  ")]
        assert server.allows_snapshot("Kept")
