"""Values of every type arrive without loss, or are refused with the column and the row's key."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from datakit.errors import InvalidKey, LoginRefused, ValueRefused
from datakit.model.load import Slice
from datakit.model.manifest import Dataset, SubMicrosecond
from datakit.sources.sqlserver import SqlServerSource

from .conftest import Ops, Table


def _read(source: SqlServerSource, dataset: Dataset) -> pa.Table:
    contract = source.describe("ops.t", dataset)
    stream = source.read(dataset, contract, None, Slice())
    try:
        table = pa.Table.from_batches(list(stream), stream.schema)
        assert stream.server_count == table.num_rows
        return table.sort_by("id") if "id" in table.column_names else table
    finally:
        stream.close()


VALUES: dict[str, tuple[str, str, list[Any]]] = {
    "bit": ("0", "1", [False, True]),
    "tinyint": ("0", "255", [0, 255]),
    "smallint": ("-32768", "32767", [-32768, 32767]),
    "int": ("-2147483648", "2147483647", [-(2**31), 2**31 - 1]),
    "bigint": ("-9223372036854775808", "9223372036854775807", [-(2**63), 2**63 - 1]),
    "decimal(38,10)": (
        "1234567890123456789012345678.0123456789",
        "-0.0000000001",
        [Decimal("1234567890123456789012345678.0123456789"), Decimal("-0.0000000001")],
    ),
    "money": (
        "922337203685477.5807",
        "-922337203685477.5808",
        [Decimal("922337203685477.5807"), Decimal("-922337203685477.5808")],
    ),
    "smallmoney": ("214748.3647", "-1", [Decimal("214748.3647"), Decimal("-1.0000")]),
    "real": ("1.5", "-0.25", [1.5, -0.25]),
    "float": ("1.1", "1.7e308", [1.1, 1.7e308]),
    "date": ("'0001-01-01'", "'9999-12-31'", [date(1, 1, 1), date(9999, 12, 31)]),
    "time(6)": ("'00:00:00'", "'23:59:59.999999'", [time(0), time(23, 59, 59, 999999)]),
    "smalldatetime": ("'1900-01-01'", "'2079-06-06 23:59'", [datetime(1900, 1, 1), datetime(2079, 6, 6, 23, 59)]),
    "datetime": (
        "'1753-01-01'",
        "'9999-12-31 23:59:59.997'",
        [datetime(1753, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 997000)],
    ),
    "datetime2(7)": (
        "'0001-01-01'",
        "'9999-12-31 23:59:59.9999999'",
        [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)],
    ),
    "datetimeoffset(3)": (
        "'2024-01-01 00:00:00.123 +02:00'",
        "'2024-01-01 00:00:00 -05:00'",
        [datetime(2023, 12, 31, 22, 0, 0, 123000, UTC), datetime(2024, 1, 1, 5, tzinfo=UTC)],
    ),
    "char(5)": ("'ab'", "''", ["ab   ", "     "]),
    "varchar(20)": ("''", "'é'", ["", "é"]),
    "varchar(max)": ("''", "REPLICATE(CONVERT(varchar(max), 'é'), 20000)", ["", "é" * 20000]),
    "nchar(4)": ("N'ab'", "N'é'", ["ab  ", "é   "]),
    "nvarchar(20)": ("N''", "N'Привет 😀'", ["", "Привет 😀"]),
    "nvarchar(max)": ("N''", "REPLICATE(CONVERT(nvarchar(max), N'é'), 20000)", ["", "é" * 20000]),
    "binary(4)": ("0x00010203", "0xFF", [b"\0\1\2\3", b"\xff\0\0\0"]),
    "varbinary(20)": ("0x", "0x00", [b"", b"\0"]),
    "varbinary(max)": ("0x", "0xDEADBEEF", [b"", b"\xde\xad\xbe\xef"]),
    "uniqueidentifier": (
        "'6F9619FF-8B86-D011-B42D-00C04FC964FF'",
        "'00000000-0000-0000-0000-000000000001'",
        ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "00000000-0000-0000-0000-000000000001"],
    ),
    "xml": ("'<a/>'", "'<b>é</b>'", ["<a/>", "<b>é</b>"]),
}


@pytest.mark.parametrize("declared", VALUES)
def test_the_edges_of_every_type_and_null_arrive(source: SqlServerSource, table: Table, declared: str) -> None:
    first, second, expected = VALUES[declared]
    name = table(f"id int NOT NULL PRIMARY KEY, v {declared} NULL", f"(1, {first}), (2, {second}), (3, NULL)")
    read = _read(source, Dataset(table=name))
    assert [*expected, None] == read["v"].to_pylist()


def test_short_and_long_values_of_one_max_column_are_the_same_values(
    source: SqlServerSource, ops: Ops, table: Table
) -> None:
    name = table(
        "id int NOT NULL PRIMARY KEY, v nvarchar(max) NULL, w varbinary(max) NULL", "(1, N'a', 0x01), (2, NULL, NULL)"
    )
    assert _read(source, Dataset(table=name))["v"].to_pylist() == ["a", None]
    ops.run(f"INSERT INTO {name} VALUES (3, REPLICATE(CONVERT(nvarchar(max), N'x'), 300000), 0x)")
    read = _read(source, Dataset(table=name))
    assert read["v"].to_pylist() == ["a", None, "x" * 300000]
    assert read["w"].to_pylist() == [b"\1", None, b""]


def test_zero_rows_have_the_contracts_columns(source: SqlServerSource, table: Table) -> None:
    read = _read(source, Dataset(table=table("id int NOT NULL PRIMARY KEY, v nvarchar(max)")))
    assert read.num_rows == 0
    assert read.schema.names == ["id", "v"]


HUNDRED_NS = (
    "(1, '2024-01-01 00:00:00.1234560'), (42, '2024-01-01 00:00:00.1234567'), (43, '9999-12-31 23:59:59.9999999')"
)


def test_a_digit_below_the_microsecond_is_refused_with_column_and_key(source: SqlServerSource, table: Table) -> None:
    name = table("id int NOT NULL PRIMARY KEY, [a at] datetime2(7) NULL", HUNDRED_NS)
    with pytest.raises(ValueRefused, match=r"column 'a at' .*row id=42") as caught:
        _read(source, Dataset(table=name))
    assert "sub_microsecond" in str(caught.value)


def test_the_digit_can_be_dropped_or_kept_in_a_second_column(source: SqlServerSource, table: Table) -> None:
    name = table("id int NOT NULL PRIMARY KEY, at datetime2(7) NULL", HUNDRED_NS)
    dropped = _read(source, Dataset(table=name, sub_microsecond=SubMicrosecond.TRUNCATE))
    assert dropped["at"].to_pylist()[1] == datetime(2024, 1, 1, 0, 0, 0, 123456)
    kept = _read(source, Dataset(table=name, sub_microsecond=SubMicrosecond.COLUMN))
    assert kept["at_ns"].to_pylist() == [0, 700, 900]
    assert kept["at"].to_pylist() == dropped["at"].to_pylist()


def test_the_offset_can_be_kept_in_a_second_column(source: SqlServerSource, table: Table) -> None:
    name = table(
        "id int NOT NULL PRIMARY KEY, at datetimeoffset(3) NULL", "(1, '2024-01-01 00:00:00 +05:30'), (2, NULL)"
    )
    read = _read(source, Dataset(table=name, keep_offset=True))
    assert read["at"].to_pylist() == [datetime(2023, 12, 31, 18, 30, tzinfo=UTC), None]
    assert read["at_offset"].to_pylist() == [330, None]


def test_half_a_surrogate_pair_is_refused_with_column_and_key(ops: Ops) -> None:
    ops.server.load("nasty")
    source = ops.open(database="Nasty")
    try:
        with pytest.raises(ValueRefused, match=r"column 'Name' holds half a surrogate pair.*row ID=2"):
            _read(source, Dataset(table="dbo.LoneSurrogates"))
    finally:
        source.close()


def test_a_stored_replacement_character_is_kept(source: SqlServerSource, table: Table) -> None:
    name = table("id int NOT NULL PRIMARY KEY, v nvarchar(20) NULL", "(1, N'a\N{REPLACEMENT CHARACTER}b')")
    assert _read(source, Dataset(table=name))["v"].to_pylist() == ["a\N{REPLACEMENT CHARACTER}b"]


def test_names_with_brackets_quotes_dots_and_128_characters_arrive(source: SqlServerSource, ops: Ops) -> None:
    long = "ü" * 128
    ops.run(
        f"CREATE TABLE [my.schema].[a]].b'c] ([x]]y] int NOT NULL PRIMARY KEY, [{long}] int NULL, [sp ace.'q] int NULL)"
    )
    try:
        ops.run("INSERT INTO [my.schema].[a]].b'c] VALUES (1, 2, 3)")
        read = _read(source, Dataset(table="[my.schema].[a]].b'c]"))
    finally:
        ops.run("DROP TABLE [my.schema].[a]].b'c]")
    assert read.to_pylist() == [{"x]y": 1, long: 2, "sp ace.'q": 3}]


def test_1024_columns_arrive(source: SqlServerSource, table: Table) -> None:
    columns = ", ".join(f"c{number} int NULL" for number in range(1023))
    name = table(f"id int NOT NULL PRIMARY KEY, {columns}", f"({', '.join(map(str, range(1024)))})")
    assert list(_read(source, Dataset(table=name)).to_pylist()[0].values()) == list(range(1024))


def test_a_key_must_exist_and_not_be_null(source: SqlServerSource, table: Table) -> None:
    name = table("id int NOT NULL PRIMARY KEY, v int NULL")
    assert source.describe("ops.t", Dataset(table=name)).key == ("id",)
    with pytest.raises(InvalidKey, match="'v' may be NULL"):
        source.describe("ops.t", Dataset(table=name, key=("v",)))
    with pytest.raises(InvalidKey, match="'w', which is not a column"):
        source.describe("ops.t", Dataset(table=name, key=("w",)))


def test_a_table_that_is_not_there_suggests_the_nearest(source: SqlServerSource) -> None:
    with pytest.raises(LoginRefused, match=r"did you mean dbo\.Events"):
        source.describe("ops.t", Dataset(table="dbo.Event"))


def test_a_query_is_described_without_running_and_its_types_are_the_tables(source: SqlServerSource, ops: Ops) -> None:
    (ops.base / "q.sql").write_text("SELECT id, amount, name AS [the name], at FROM dbo.Events")
    contract = source.describe("ops.q", Dataset(sql="q.sql", key=("id",)))
    assert [(column.name, str(column.type)) for column in contract.columns] == [
        ("id", "int32"),
        ("amount", "decimal(12,2)"),
        ("the name", "string"),
        ("at", "timestamp"),
    ]
