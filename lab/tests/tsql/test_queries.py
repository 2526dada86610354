"""What SELECT answers, with which types."""

from __future__ import annotations

import struct
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from datakit_lab.sqlserver.backend import Parameter, ResultSet, SqlError, SqlType
from datakit_lab.sqlserver.tsql import DuckSession

from .conftest import ask


def types(session: DuckSession, sql: str) -> list[str]:
    from datakit_lab.sqlserver.tsql._types import type_text

    return [type_text(column.type) for column in session.describe(sql)]


@pytest.mark.parametrize(
    ("expression", "value", "type_"),
    [
        ("1", 1, "int"),
        ("7 / 2", 3, "int"),
        ("-7 / 2", -3, "int"),
        ("7 % 3", 1, "int"),
        ("1.5 + 1", Decimal("2.5"), "decimal(12,1)"),
        ("CAST(1 AS decimal(5,2)) * CAST(2 AS decimal(5,2))", Decimal("2.0000"), "decimal(11,4)"),
        ("N'a' + 'b'", "ab", "nvarchar(2)"),
        ("CAST('ab' AS char(4))", "ab  ", "char(4)"),
        ("CAST(N'abcdef' AS nvarchar(3))", "abc", "nvarchar(3)"),
        ("0x00FF", b"\x00\xff", "varbinary(2)"),
        ("CAST(258 AS binary(4))", b"\x00\x00\x01\x02", "binary(4)"),
        ("CONVERT(varchar(10), 0x0A, 1)", "0x0A", "varchar(10)"),
        ("CAST('2013-01-31' AS date)", date(2013, 1, 31), "date"),
        ("CAST('2013-01-01T10:00:00.0049' AS datetime2(3))", datetime(2013, 1, 1, 10, 0, 0, 5000), "datetime2(3)"),
        ("CAST('2013-01-01T10:00:00.005' AS datetime)", datetime(2013, 1, 1, 10, 0, 0, 7000), "datetime"),
        ("CONVERT(varchar(33), CAST('9999-12-31 23:59:59.9999999' AS datetime2), 126)", "9999-12-31T23:59:59.9999999",
        "varchar(33)"),
        ("CAST('0001-01-01' AS datetime2(7))", 0, "datetime2(7)"),
        ("DATEPART(nanosecond, CAST('2013-01-01T00:00:00.1234567' AS datetime2(7)))", 123456700, "int"),
        ("DATEPART(tzoffset, CAST('2013-01-01T00:00:00 -05:30' AS datetimeoffset))", -330, "int"),
        ("CONVERT(varchar(34), SWITCHOFFSET(CAST('2013-01-01T00:00:00.1234567 -05:30' AS datetimeoffset), '+02:00'))",
        "2013-01-01 07:30:00.1234567 +02:00", "varchar(34)"),
        ("CONVERT(varchar(19), SWITCHOFFSET(CAST('2013-01-01T00:00:00 +01:00' AS datetimeoffset(0)), -60), 126)",
        "2012-12-31T22:00:00", "varchar(19)"),
        ("DATEDIFF(day, '2013-01-01T23:59:59', '2013-01-02')", 1, "int"),
        ("DATEDIFF_BIG(millisecond, '0001-01-01', '9999-12-31')", 315537811200000, "bigint"),
        ("DATEADD(month, 1, CAST('2013-01-31' AS date))", date(2013, 2, 28), "date"),
        ("ISNULL(NULL, N'x')", "x", "nvarchar(1)"),
        ("LEN(N'🛫 ')", 2, "int"),
        ("DATALENGTH(N'🛫')", 4, "int"),
        ("CASE WHEN 1 = 1 THEN 1 ELSE 2.50 END", Decimal("1.00"), "numeric(12,2)"),
        ("CAST(1 AS bit)", True, "bit"),
        ("TRY_CAST('x' AS int)", None, "int"),
        ("HASHBYTES('MD5', '')", bytes.fromhex("d41d8cd98f00b204e9800998ecf8427e"), "varbinary(8000)"),
        ("CAST('/1/2/' AS hierarchyid)", b"\x5b\x40", "hierarchyid"),
        ("DB_NAME()", "Shop", "nvarchar(128)"),
    ],
)  # fmt: skip
def test_an_expression_has_its_value_and_its_t_sql_type(
    session: DuckSession, expression: str, value: Any, type_: str
) -> None:
    sql = f"SELECT {expression}"

    assert (ask(session, sql), types(session, sql)) == ([(value,)], [type_.replace("numeric(12,2)", "decimal(12,2)")])


@pytest.mark.parametrize(
    ("sql", "number"),
    [
        ("SELEC 1", 102),
        ("SELECT FROM", 102),
        ("SELECT 'open", 105),
        ("SELECT nothing", 207),
        ("SELECT a FROM dbo.Nowhere", 208),
        ("SELECT x.a FROM (SELECT 1 AS a) AS b", 4104),
        ("SELECT CAST('x' AS int)", 245),
        ("SELECT CAST('2013-02-30' AS date)", 241),
        ("SELECT CAST(300 AS tinyint)", 8115),
        ("SELECT 2147483647 + 1", 8115),
        ("SELECT 1 / 0", 8134),
        ("SELECT nofunction(1)", 195),
        ("SELECT @missing", 137),
        ("EXEC dbo.nothing", 2812),
        ("USE Nowhere", 911),
        ("SELECT DATEPART(nothing, '2013-01-01')", 155),
        ("SELECT CAST(CAST(1 AS int) AS date)", 529),
    ],
)
def test_a_mistake_has_sql_servers_number(session: DuckSession, sql: str, number: int) -> None:
    with pytest.raises(SqlError) as raised:
        ask(session, sql)

    assert raised.value.number == number


def test_a_point_has_its_well_known_binary_and_its_reference(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (g geography, m geometry); INSERT t VALUES ('POINT (1 2)', 'POINT (1 2)')")

    point = b"\x01\x01\x00\x00\x00" + struct.pack("<dd", 1, 2)
    assert ask(session, "SELECT g.AsBinaryZM(), x.m.STAsBinary() FROM t AS x") == [(point, point)]
    assert ask(session, "SELECT g.STSrid, x.m.STSrid FROM t AS x WHERE g.STSrid <> 0") == [(4326, 0)]


def test_a_variant_keeps_its_type_and_converts_back(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (v sql_variant)")
    ask(session, "INSERT t VALUES (CAST('2013-01-01T00:00:00.1234567' AS datetime2(7)))")
    ask(session, "INSERT t VALUES (CAST(7 AS int)), (0x00FF), (CAST('2013-01-01' AS date)), (NULL)")
    ask(session, "INSERT t VALUES (CAST('2013-01-01T00:00:00.1234567 -05:30' AS datetimeoffset))")

    sql = """SELECT SQL_VARIANT_PROPERTY(v, 'BaseType'), CASE WHEN SQL_VARIANT_PROPERTY(v, 'BaseType') = 'datetime2'
             THEN CONVERT(nvarchar(40), CAST(v AS datetime2(7)), 126)
             WHEN SQL_VARIANT_PROPERTY(v, 'BaseType') = 'varbinary'
             THEN CONVERT(nvarchar(40), CAST(v AS varbinary(9)), 1)
             WHEN SQL_VARIANT_PROPERTY(v, 'BaseType') = 'date' THEN CONVERT(nvarchar(40), CAST(v AS date), 112)
             WHEN SQL_VARIANT_PROPERTY(v, 'BaseType') = 'datetimeoffset'
             THEN CONVERT(nvarchar(40), CAST(v AS datetimeoffset), 126) ELSE CAST(v AS nvarchar(40)) END FROM t"""
    assert ask(session, sql) == [
        ("datetime2", "2013-01-01T00:00:00.1234567"),
        ("int", "7"),
        ("varbinary", "0x00FF"),
        ("date", "20130101"),
        (None, None),
        ("datetimeoffset", "2013-01-01T00:00:00.1234567-05:30"),
    ]


def test_names_are_found_whatever_their_case(session: DuckSession) -> None:
    ask(session, "CREATE TABLE dbo.[Two Words] (Id int, [Select] nvarchar(5)); INSERT [TWO WORDS] VALUES (1, N'é')")

    assert ask(session, "SELECT ID, [SELECT] FROM DBO.[two words] WITH (NOLOCK)") == [(1, "é")]


def test_text_compares_without_case_and_trailing_blanks_do_not_count(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (a varchar(5), b char(5)); INSERT t VALUES ('AbC', 'AbC')")

    assert ask(session, "SELECT COUNT(*) FROM t WHERE a = 'abc' AND b = 'aBc  ' AND b IN ('abc')") == [(1,)]


def test_null_sorts_first_and_an_alias_can_be_sorted_by(session: DuckSession) -> None:
    rows = ask(session, "SELECT v.a AS z FROM (VALUES (2), (NULL), (1)) AS v(a) ORDER BY z")

    assert rows == [(None,), (1,), (2,)]


def test_pages_joins_and_common_table_expressions_work(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (a int, b nvarchar(3)); INSERT t VALUES (1, N'x'), (2, N'y'), (3, NULL)")

    sql = """WITH big AS (SELECT a, b FROM t WHERE a > 1)
             SELECT t.a, big.b, x.c FROM t LEFT JOIN big ON big.a = t.a CROSS APPLY (SELECT t.a * 2 AS c) AS x
             ORDER BY t.a OFFSET 1 ROWS FETCH NEXT 2 ROWS ONLY"""

    assert ask(session, sql) == [(2, "y", 4), (3, None, 6)]


def test_the_row_count_is_that_of_the_statement_before_even_if_nobody_read_it(session: DuckSession) -> None:
    sql = "SET NOCOUNT ON; SELECT value FROM GENERATE_SERIES(1, 200000); SELECT ROWCOUNT_BIG(), @@ROWCOUNT"
    sets = (answer for answer in session.execute(sql) if isinstance(answer, ResultSet))
    next(sets)

    assert [tuple(column[0].as_py() for column in batch.columns) for batch in next(sets).batches] == [(200000, 200000)]


def test_a_big_result_comes_in_batches(session: DuckSession) -> None:
    answer = next(iter(session.execute("SELECT value FROM GENERATE_SERIES(1, 1000000)")))

    assert isinstance(answer, ResultSet)
    assert next(answer.batches).num_rows < 200_000


def test_parameters_keep_the_last_digit(session: DuckSession) -> None:
    ask(session, "CREATE TABLE t (a datetime2(7)); INSERT t VALUES ('2013-01-01T00:00:00.0000001')")
    at = Parameter("@at", SqlType("datetime2", scale=7), "2013-01-01 00:00:00.0000001")

    assert ask(session, "SELECT COUNT(*) FROM t WHERE a >= @at AND a <= @at", at) == [(1,)]


def test_variables_and_branches_of_a_batch(session: DuckSession) -> None:
    sql = "DECLARE @a int = 2, @b nvarchar(5); SET @b = N'x'; SELECT @a = @a + 1; IF @a = 3 SELECT @b ELSE SELECT N'no'"

    assert ask(session, sql) == [("x",)]


def test_sp_executesql_in_a_batch_has_its_own_variables(session: DuckSession) -> None:
    assert ask(session, "EXEC sp_executesql N'SELECT @x + 1', N'@x int', @x = 41") == [(42,)]


def test_statements_need_no_semicolons(session: DuckSession) -> None:
    sql = "SET NOCOUNT ON\nCREATE TABLE t (a int)\nINSERT INTO t SELECT 1 UNION ALL SELECT 2\n"
    sql += "UPDATE t SET a = 3 WHERE a = 2\nSELECT SUM(a) FROM t"

    assert ask(session, sql) == [(4,)]


def test_what_the_double_does_not_know_is_refused_by_name(session: DuckSession) -> None:
    with pytest.raises(SqlError, match="does not support") as raised:
        ask(session, "SELECT 1 AS a FOR JSON PATH")

    assert raised.value.number == 40517


def test_a_cancelled_query_stops(session: DuckSession) -> None:
    answer = next(iter(session.execute("SELECT value FROM GENERATE_SERIES(1, 5000000)")))
    assert isinstance(answer, ResultSet)
    next(answer.batches)

    session.cancel()

    with pytest.raises(SqlError, match="cancelled"):
        list(answer.batches)
    assert ask(session, "SELECT 1") == [(1,)]
