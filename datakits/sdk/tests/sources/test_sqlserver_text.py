"""The SQL and the connection strings that the SQL Server source writes, without a server."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from datakit.errors import ConfigurationError, InvalidCursor, UnsupportedType
from datakit.model.environment import SourceSystem
from datakit.model.manifest import SubMicrosecond
from datakit.model.types import DataType
from datakit.sources.notation import cut, from_ordinal, lag_ordinal, to_ordinal
from datakit.sources.sqlserver.connection_string import connection_string, service_name
from datakit.sources.sqlserver.failures import Place, translate
from datakit.sources.sqlserver.names import ObjectName, quote, text
from datakit.sources.sqlserver.query import Relation
from datakit.sources.sqlserver.type_table import TYPE_TABLE, LiveColumn, fields_of
from datakit.sources.sqlserver.values import OrderedColumn
from hypothesis import given
from hypothesis import strategies as st
from mssql_python.connection_string_parser import _ConnectionStringParser

TIMESTAMP = DataType("timestamp")


@given(st.text(min_size=1, max_size=128).filter(lambda name: "\0" not in name))
def test_a_quoted_identifier_ends_only_at_its_end(name: str) -> None:
    quoted = quote(name)
    assert (quoted[0], quoted[-1]) == ("[", "]")
    assert quoted[1:-1].replace("]]", "") == name.replace("]", "")


@pytest.mark.parametrize("name", ["", "x" * 129, "a\0b"])
def test_what_is_no_identifier_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError):
        quote(name)


@given(st.text())
def test_a_quoted_string_ends_only_at_its_end(value: str) -> None:
    assert text(value)[2:-1].replace("''", "'") == value


@pytest.mark.parametrize(
    ("written", "schema", "name"),
    [
        ("Flights", "dbo", "Flights"),
        ("ops.Flights", "ops", "Flights"),
        ("[my.schema].[my]]table]", "my.schema", "my]table"),
        ('"my schema"."my""table"', "my schema", 'my"table'),
        ("Flüge.Übersicht heute", "Flüge", "Übersicht heute"),
    ],
)
def test_a_table_is_named_with_or_without_brackets(written: str, schema: str, name: str) -> None:
    assert ObjectName.parse(written) == ObjectName(schema, name)


@pytest.mark.parametrize("written", ["", ".", "a.", ".b", "a.b.c", "[a", "a]b", "a..b", "[a]b"])
def test_what_names_no_table_is_refused(written: str) -> None:
    with pytest.raises(ConfigurationError, match="no name of a table"):
        ObjectName.parse(written)


@pytest.mark.parametrize("secret", ["p;w}d{", "a=b;Encrypt=No", "}", "plain", " spaces ", "é😀'\"", "x}}y", "{a}"])
def test_the_drivers_own_parser_reads_back_every_value(secret: str) -> None:
    system = SourceSystem(host="sql.corp.example", port=1500, database=secret, user=secret, password="a/b")
    words = _ConnectionStringParser(validate_keywords=True)._parse(connection_string(system, password=secret))
    assert words["pwd"] == secret
    assert words["uid"] == secret
    assert words["database"] == secret
    assert words["server"] == "tcp:sql.corp.example,1500"
    assert words["encrypt"] == "Yes"
    assert "trusted_connection" not in words


def test_kerberos_sends_no_user_and_no_password() -> None:
    system = SourceSystem(
        host="sql.corp.example",
        database="Ops",
        server_spn="MSSQLSvc/listener.corp.example:1433@CORP.EXAMPLE",
        host_name_in_certificate="*.corp.example",
        read_only_intent=True,
    )
    words = _ConnectionStringParser(validate_keywords=True)._parse(connection_string(system))
    assert words["trusted_connection"] == "Yes"
    assert words["serverspn"] == "MSSQLSvc/listener.corp.example:1433@CORP.EXAMPLE"
    assert words["applicationintent"] == "ReadOnly"
    assert words["hostnameincertificate"] == "*.corp.example"
    assert not {"uid", "pwd"} & set(words)
    assert service_name(system) == "MSSQLSvc/listener.corp.example:1433"


def test_a_nul_in_a_password_is_refused_without_showing_it() -> None:
    system = SourceSystem(host="h", database="d", user="u", password="a/b")
    with pytest.raises(ConfigurationError) as caught:
        connection_string(system, password="hun\0ter2")
    assert "ter2" not in str(caught.value)


def test_a_query_may_have_common_table_expressions_comments_and_a_semicolon() -> None:
    sql = "-- why; WHERE\nWITH a AS (SELECT 1 AS x, ')select' AS y), b AS (SELECT * FROM a)\nSELECT x FROM b /* ; */;\n"
    assert Relation.of_query(sql, subject="q").select(["[x]"], ["[x] > 1", "[x] < 3"], top=1) == (
        "-- why; WHERE\nWITH a AS (SELECT 1 AS x, ')select' AS y), b AS (SELECT * FROM a)\n"
        "SELECT TOP (1) [x]\nFROM (\nSELECT x FROM b /* ; */\n) AS [q]\nWHERE [x] > 1\n  AND [x] < 3"
    )


@pytest.mark.parametrize("sql", ["", "-- nothing", "DELETE FROM t", "EXEC p", "SELECT 1; SELECT 2", "DECLARE @x int"])
def test_anything_but_one_select_is_refused(sql: str) -> None:
    with pytest.raises(ConfigurationError):
        Relation.of_query(sql, subject="q.sql")


def _field_types(column: LiveColumn, policy: SubMicrosecond = SubMicrosecond.REFUSE, offset: bool = False) -> list[str]:
    fields = fields_of(column, sub_microsecond=policy, keep_offset=offset, where="dbo.t")
    return [f"{field.column.name} {field.column.type}" for field in fields]


def test_declared_types_are_written_as_sql_server_writes_them() -> None:
    assert LiveColumn("a", "nvarchar", 100).declared == "nvarchar(50)"
    assert LiveColumn("a", "varchar", -1).declared == "varchar(max)"
    assert LiveColumn("a", "decimal", 17, 38, 10).declared == "decimal(38,10)"
    assert LiveColumn("a", "datetime2", 8, 27, 7).declared == "datetime2(7)"


def test_second_columns_come_only_where_they_are_asked_for() -> None:
    column = LiveColumn("at", "datetimeoffset", 10, 34, 7)
    assert _field_types(column) == ["at timestamptz"]
    assert _field_types(column, SubMicrosecond.COLUMN, offset=True) == [
        "at timestamptz",
        "at_offset int16",
        "at_ns int16",
    ]
    coarse = LiveColumn("at", "datetime2", 8, 26, 6)
    assert _field_types(coarse, SubMicrosecond.COLUMN, offset=True) == ["at timestamp"]


@pytest.mark.parametrize(("scale", "policy", "guards"), [(7, "refuse", 1), (6, "refuse", 0), (7, "truncate", 0)])
def test_a_guard_costs_nothing_where_no_digit_can_be_lost(scale: int, policy: str, guards: int) -> None:
    column = LiveColumn("at", "datetime2", 8, 27, scale)
    (field,) = fields_of(column, sub_microsecond=SubMicrosecond(policy), keep_offset=False, where="dbo.t")
    assert len(field.guards) == guards


@pytest.mark.parametrize("column", [LiveColumn("v", "vector"), LiveColumn("v", "geography", is_clr=True)])
def test_a_type_without_lossless_mapping_is_refused_by_name(column: LiveColumn) -> None:
    with pytest.raises(UnsupportedType, match="column 'v'"):
        _field_types(column)


def test_every_type_of_the_table_maps_to_a_type_of_the_contract() -> None:
    for name in TYPE_TABLE:
        assert _field_types(LiveColumn("c", name, 8, 10, 2))


def _ordered(type_name: str, scale: int = 0, precision: int = 0) -> OrderedColumn:
    return OrderedColumn.of(LiveColumn("c", type_name, 8, precision, scale, nullable=False), where="dbo.t")


@pytest.mark.parametrize(
    ("type_name", "value", "literal"),
    [
        ("int", "-5", "CONVERT(int, -5)"),
        ("bigint", "9223372036854775807", "CONVERT(bigint, 9223372036854775807)"),
        ("tinyint", "256", "CONVERT(decimal(38,0), 256)"),
        ("date", "2024-02-29", "CONVERT(date, '2024-02-29', 23)"),
        ("datetime", "2024-01-01T00:00:00.123", "CONVERT(datetime, '2024-01-01T00:00:00.123', 126)"),
        ("datetime", "0001-01-01T00:00:00", "CONVERT(datetime, '1753-01-01T00:00:00', 126)"),
        ("smalldatetime", "2024-01-01T00:00:59.9", "CONVERT(smalldatetime, '2024-01-01T00:00:00', 126)"),
        ("datetimeoffset", "2024-01-01T00:00:00Z", "CONVERT(datetimeoffset(7), '2024-01-01T00:00:00Z', 127)"),
        ("timestamp", "0x7D1", "0x00000000000007D1"),
        ("money", "12.3450", "CONVERT(money, 12.3450)"),
    ],
)
def test_a_literal_has_the_type_of_its_column(type_name: str, value: str, literal: str) -> None:
    assert _ordered(type_name, scale=7).literal(value) == literal


def test_a_datetime2_literal_keeps_the_digits_its_column_has() -> None:
    assert "00:00:00.1234567'" in _ordered("datetime2", 7).literal("2024-01-01T00:00:00.1234567")
    assert "00:00:00.123'" in _ordered("datetime2", 3).literal("2024-01-01T00:00:00.1234567")


@pytest.mark.parametrize("value", ["1); DROP TABLE t --", "", "x", "2024-01-01"])
def test_text_that_is_no_value_never_reaches_the_sql(value: str) -> None:
    with pytest.raises(InvalidCursor):
        _ordered("int").literal(value)


@pytest.mark.parametrize("type_name", ["nvarchar", "float", "uniqueidentifier", "bit", "varbinary", "xml", "time"])
def test_a_type_without_the_order_of_changes_is_no_cursor(type_name: str) -> None:
    with pytest.raises(InvalidCursor, match="no order"):
        _ordered(type_name)


@given(st.integers(0, to_ordinal("9999-12-31T23:59:59.9999999", TIMESTAMP)))
def test_every_tick_of_time_survives_its_text(ticks: int) -> None:
    for type_ in (TIMESTAMP, DataType("timestamptz")):
        assert to_ordinal(from_ordinal(ticks, type_), type_) == ticks


def test_offsets_are_read_as_the_instant_that_they_mean() -> None:
    zoned = DataType("timestamptz")
    assert from_ordinal(to_ordinal("2024-01-01T02:00:00+02:00", zoned), zoned) == "2024-01-01T00:00:00Z"


@given(st.integers(-(10**38) + 1, 10**38 - 1), st.integers(0, 38))
def test_a_decimal_cursor_keeps_every_digit(digits: int, scale: int) -> None:
    type_ = DataType("decimal", 38, scale)
    assert to_ordinal(from_ordinal(digits, type_), type_) == digits


def test_a_lag_counts_in_the_units_of_its_type() -> None:
    assert lag_ordinal(timedelta(minutes=5), TIMESTAMP) == 3_000_000_000
    assert lag_ordinal(timedelta(hours=1), DataType("date")) == 1
    assert lag_ordinal(timedelta(hours=1), DataType("int64")) == 0


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40), st.integers(1, 300))
def test_slices_touch_without_overlap_and_stay_open_outside(low: int, span: int, count: int) -> None:
    slices = cut("id", DataType("int64"), str(low), str(low + span), count)
    assert 1 <= len(slices) <= count
    assert (slices[0].lower, slices[-1].upper) == (None, None)
    for left, right in pairwise(slices):
        assert left.upper == right.lower
    bounds = [int(part.lower) for part in slices if part.lower is not None]
    assert bounds == sorted(set(bounds))
    assert all(low < bound <= low + span for bound in bounds)


@pytest.mark.parametrize(
    ("message", "kind", "holds"),
    [
        ("Login failed for user 'x'.", "LoginRefused", "CREATE LOGIN"),
        ("Login failed. The login is from an untrusted domain and cannot be used", "LoginRefused", "new ticket"),
        ('Cannot open database "Ops" requested by the login. The login failed.', "LoginRefused", "'Ops'"),
        ("The SELECT permission was denied on the object 'Flights'", "LoginRefused", "GRANT SELECT"),
        ("Invalid object name 'ops.Flight'.", "LoginRefused", "sys.objects"),
        ("Invalid column name 'Delay'.", "ContractMismatch", "contract check"),
        ("SSPI Provider: Server MSSQLSvc/h:1 not found in Kerberos database", "AccessDenied", "setspn -Q MSSQLSvc/h:1"),
        ("SSPI Provider: Clock skew too great", "AccessDenied", "5 minutes"),
        ("SSPI Provider: Ticket expired", "TicketExpired", "klist"),
        ("SSPI Provider: No Kerberos credentials available", "TicketMissing", "kinit"),
        ("SSPI Provider: Cannot contact any KDC for realm 'LAB.TEST'", "SourceUnavailable", "kvno MSSQLSvc/h:1"),
        ("SSPI Provider: Cannot find KDC for realm", "ConfigurationError", "[realms]"),
        ("SSL Provider: [error:0A000086:certificate verify failed]", "ConfigurationError", "host_name_in_certificate"),
        ("TCP Provider: Error code 0x6F", "SourceUnavailable", "nc -vz h 1"),
        ("TCP Provider: Error code 0x2746", "SourceUnavailable", "dropped"),
        (
            "Transaction was deadlocked on lock resources; chosen as the deadlock victim",
            "SourceUnavailable",
            "deadlock",
        ),
        (
            "Resource ID : 1. The request limit is 90 and has been reached.",
            "SourceUnavailable",
            "limit",
        ),
        ("Incorrect syntax near 'FORM'.", "ConfigurationError", "Incorrect syntax"),
        ("Invalid column name 'Subject Name'.", "ContractMismatch", "Subject Name"),
        ("Invalid object name 'dbo.Kerberos TLS'.", "LoginRefused", "sys.objects"),
        ("SSL Provider: Error code 0x2746", "SourceUnavailable", "dropped"),
        ("Login failed for user 'x'. Reason: Server is in script upgrade mode.", "SourceUnavailable", "upgrade"),
        ("Cannot open database 'Ops'. It is being recovered.", "SourceUnavailable", "recovered"),
        ("Could not continue scan with NOLOCK due to data movement.", "SourceUnavailable", "data movement"),
        ("There is insufficient system memory in resource pool", "SourceUnavailable", "memory"),
        ("Could not allocate space for object 'x' in database 'tempdb'", "SourceUnavailable", "tempdb"),
        ("Lock request time out period exceeded.", "SourceUnavailable", "Lock request"),
        (
            "Snapshot isolation transaction failed because the object was modified by a DDL statement",
            "SourceUnavailable",
            "DDL",
        ),
        (
            "Snapshot isolation transaction failed accessing database 'Ops' because snapshot isolation is not allowed",
            "ConfigurationError",
            "snapshot",
        ),
        (
            "'Ops' is in an availability group and accessible when the application intent is set to read only.",
            "ConfigurationError",
            "read_only_intent",
        ),
    ],
)
def test_every_complaint_of_driver_and_server_has_a_next_step(message: str, kind: str, holds: str) -> None:
    place = Place(SourceSystem(host="h", port=1, database="Ops", principal="svc@LAB.TEST"), "ops.Flights")
    error = translate(RuntimeError(message), place)
    assert type(error).__name__ == kind
    assert holds in str(error)
    assert error.fix
