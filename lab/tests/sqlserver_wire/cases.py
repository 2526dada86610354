"""Every type with its edges: what the server holds and what any client must read."""

from __future__ import annotations

import datetime as dt
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datakit_lab.sqlserver.backend import (
    Answer,
    DatabaseChanged,
    Info,
    ResultColumn,
    ReturnValue,
    RowsAffected,
    SqlError,
    SqlType,
)
from datakit_lab.sqlserver.prepared import PreparedResult, PreparedResults

# this file is also the factory of the server's process, where it has no package
sys.path.insert(0, str(Path(__file__).parent))
if TYPE_CHECKING:
    from .tables_backend import Table, TablesBackend, TableSession, endless, one
else:
    from tables_backend import Table, TablesBackend, TableSession, endless, one

TICKS_PER_DAY = 864_000_000_000
LAST_TICK = 3_652_059 * TICKS_PER_DAY - 1
MEGABYTE = "ß€😀x" * (1 << 18)


@dataclass(frozen=True)
class Case:
    """``expected`` is what a client reads; ``freetds`` where FreeTDS or pymssql shows a type in its own way."""

    name: str
    type: SqlType
    array: pa.Array
    expected: list[Any]
    freetds: list[Any] | None = None

    def __str__(self) -> str:
        return self.name


def _same(name: str, kind: SqlType, arrow: pa.DataType, values: list[Any], **other: Any) -> Case:
    return Case(name, kind, pa.array(values, arrow), values, **other)


def _ticks(*values: int | None) -> pa.Array:
    return pa.array(values, pa.int64())


_GUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
_OFFSET = pa.struct([("ticks", pa.int64()), ("offset", pa.int16())])
_NOON_2020 = (dt.date(2020, 5, 17).toordinal() - 1) * TICKS_PER_DAY + TICKS_PER_DAY // 2
_D = Decimal


def _moment(*fields: int, minutes: int = 0) -> dt.datetime:
    return dt.datetime(*fields, tzinfo=dt.timezone(dt.timedelta(minutes=minutes)))  # type: ignore[misc, arg-type]


CASES: tuple[Case, ...] = (
    _same("bit", SqlType("bit"), pa.bool_(), [True, False, None]),
    _same("tinyint", SqlType("tinyint"), pa.uint8(), [0, 255, None]),
    _same("smallint", SqlType("smallint"), pa.int16(), [-32768, 32767, None]),
    _same("int", SqlType("int"), pa.int32(), [-(2**31), 2**31 - 1, None, 0]),
    _same("bigint", SqlType("bigint"), pa.int64(), [-(2**63), 2**63 - 1, None, 0]),
    _same("int from int64", SqlType("int"), pa.int64(), [7, None]),
    _same("real", SqlType("real"), pa.float32(), [0.0, -1.5, 3.4028234663852886e38, None]),
    _same("float", SqlType("float"), pa.float64(), [0.1, -1.7976931348623157e308, 5e-324, None]),
    _same("decimal 9", SqlType("decimal", precision=9, scale=2), pa.decimal128(9, 2), [_D("-9999999.99"), None]),
    _same("decimal 19", SqlType("decimal", precision=19, scale=0), pa.decimal128(19, 0), [_D(10**19 - 1), _D(0)]),
    _same("numeric 28", SqlType("numeric", precision=28, scale=28), pa.decimal128(28, 28), [_D(-1).scaleb(-28), None]),
    _same(
        "decimal 38",
        SqlType("decimal", precision=38, scale=10),
        pa.decimal128(38, 10),
        [_D("9" * 28 + "." + "9" * 10), _D("-" + "9" * 28 + "." + "9" * 10), _D("0E-10"), None],
    ),
    _same("decimal 38 0", SqlType("decimal", precision=38, scale=0), pa.decimal128(38, 0), [_D("9" * 38), _D(-1)]),
    _same(
        "money",
        SqlType("money"),
        pa.decimal128(19, 4),
        [_D("922337203685477.5807"), _D("-922337203685477.5808"), _D("-0.0001"), None],
    ),
    _same("smallmoney", SqlType("smallmoney"), pa.decimal128(10, 4), [_D("214748.3647"), _D("-214748.3648"), None]),
    _same("date", SqlType("date"), pa.date32(), [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(1970, 1, 1), None]),
    *(
        _same(f"time {scale}", SqlType("time", scale=scale), pa.time64("us"), [dt.time(0), value, None])
        for scale, value in enumerate(
            [
                dt.time(23, 59, 59),
                dt.time(23, 59, 59, 900_000),
                dt.time(23, 59, 59, 990_000),
                dt.time(23, 59, 59, 999_000),
                dt.time(23, 59, 59, 999_900),
                dt.time(23, 59, 59, 999_990),
                dt.time(23, 59, 59, 999_999),
                dt.time(12, 34, 56, 789_012),
            ]
        )
    ),
    *(
        _same(
            f"datetime2 {scale}",
            SqlType("datetime2", scale=scale),
            pa.timestamp("us"),
            [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, part), None, dt.datetime(1969, 12, 31, 23)],
        )
        for scale, part in enumerate([0, 900_000, 990_000, 999_000, 999_900, 999_990, 999_999, 999_999])
    ),
    Case(
        "datetime2 ticks",
        SqlType("datetime2", scale=7),
        _ticks(0, LAST_TICK, None),
        [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999_999), None],
    ),
    Case(
        "datetimeoffset",
        SqlType("datetimeoffset", scale=7),
        pa.array(
            [
                {"ticks": _NOON_2020, "offset": 330},
                {"ticks": _NOON_2020, "offset": -840},
                None,
                {"ticks": 0, "offset": 0},
            ],
            _OFFSET,
        ),
        [
            _moment(2020, 5, 17, 17, 30, minutes=330),
            _moment(2020, 5, 16, 22, minutes=-840),
            None,
            _moment(1, 1, 1),
        ],
    ),
    Case(
        "datetimeoffset from timestamps",
        SqlType("datetimeoffset", scale=3),
        pa.array([dt.datetime(2020, 5, 17, 12, 0, 0, 123_000), None], pa.timestamp("us", "UTC")),
        [_moment(2020, 5, 17, 12, 0, 0, 123_000), None],
    ),
    _same(
        "datetime",
        SqlType("datetime"),
        pa.timestamp("us"),
        [
            dt.datetime(1753, 1, 1),
            dt.datetime(9999, 12, 31, 23, 59, 59, 997_000),
            dt.datetime(2020, 1, 1, 1, 2, 3),
            None,
        ],
    ),
    _same(
        "smalldatetime",
        SqlType("smalldatetime"),
        pa.timestamp("s"),
        [dt.datetime(1900, 1, 1), dt.datetime(2079, 6, 6, 23, 59), None],
    ),
    _same("char", SqlType("char", 5), pa.string(), ["ab   ", "     ", None]),
    Case("char padded", SqlType("char", 5), pa.array(["ab", "", None]), ["ab   ", "     ", None]),
    Case("nchar padded", SqlType("nchar", 3), pa.array(["é", None]), ["é  ", None]),
    _same("varchar", SqlType("varchar", 8000), pa.string(), ["", "plain", "ÄÖÜ€", None, "x" * 8000]),
    _same(
        "varchar cyrillic",
        SqlType("varchar", 20, collation="Cyrillic_General_CI_AS"),
        pa.string(),
        ["Привет", "", None, "a"],
    ),
    _same("varchar japanese", SqlType("varchar", 20, collation="Japanese_CI_AS"), pa.string(), ["日本ｱ", "", None]),
    _same("varchar chinese", SqlType("varchar", 20, collation="Chinese_PRC_CI_AS"), pa.string(), ["中文", None]),
    _same(
        "varchar utf8",
        SqlType("varchar", 40, collation="Latin1_General_100_CI_AS_SC_UTF8"),
        pa.string(),
        ["Привет 😀", "", None],
    ),
    _same("varchar large", SqlType("varchar", 20), pa.large_string(), ["a", None]),
    _same("varchar view", SqlType("varchar", 40), pa.string_view(), ["a", None, "a text longer than twelve"]),
    Case("varchar dictionary", SqlType("varchar", 9), pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    _same("nvarchar", SqlType("nvarchar", 4000), pa.string(), ["", "é", "😀👩‍👩‍👧", None, "日" * 4000, "\n\t'"]),
    _same("nvarchar(max)", SqlType("nvarchar", -1), pa.string(), ["", None, "short", MEGABYTE, "z"]),
    _same("varchar(max)", SqlType("varchar", -1), pa.string(), ["", None, "short", "é" * (1 << 20)]),
    _same("binary", SqlType("binary", 4), pa.binary(), [b"\x00\x01\x02\xff", None]),
    _same("varbinary", SqlType("varbinary", 8000), pa.binary(), [b"", b"\x00", None, b"\xff" * 8000]),
    _same("varbinary(max)", SqlType("varbinary", -1), pa.binary(), [b"", None, b"\x00" * (1 << 20), b"\x01"]),
    Case("uniqueidentifier bytes", SqlType("uniqueidentifier"), pa.array([_GUID.bytes_le, None]), [_GUID, None]),
    Case("uniqueidentifier text", SqlType("uniqueidentifier"), pa.array([str(_GUID), None]), [_GUID, None]),
    _same("xml", SqlType("xml"), pa.string(), ["<a>é😀</a>", None, ""]),
    _same("rowversion", SqlType("rowversion"), pa.binary(), [b"\x00\x00\x00\x00\x00\x00\x07\xd1", None]),
    _same("hierarchyid", SqlType("hierarchyid"), pa.binary(), [b"\x58", None]),
    _same("geography", SqlType("geography"), pa.binary(), [b"\xe6\x10\x00\x00\x01\x0c" + b"\x01" * 16, None]),
    _same("text", SqlType("text"), pa.string(), ["ä", None, "x" * 100_000]),
    _same("ntext", SqlType("ntext"), pa.string(), ["ä😀", None, "日" * 100_000]),
    _same("image", SqlType("image"), pa.binary(), [b"\x00\x01", None, b"\x07" * 100_000]),
    Case("all NULL without a type", SqlType("nvarchar", 10), pa.nulls(3), [None, None, None]),
    Case("decimal NULLs without a type", SqlType("decimal", precision=9, scale=2), pa.nulls(2), [None, None]),
)


def backend() -> TablesBackend:
    """The factory for the server's process: ``SELECT case <n>`` and the other results of these tests."""
    tables = {f"SELECT case {i}": Table.of({"v": (case.type, case.array)}) for i, case in enumerate(CASES)}
    tables["SELECT wide"] = Table.of(
        {f"column {i} ]é": (SqlType("int"), pa.array([i, None], pa.int32())) for i in range(1024)}
    )
    tables["SELECT nothing"] = Table.of({case.name: (case.type, case.array.slice(0, 0)) for case in CASES})
    tables["SELECT counted"] = counted(100_000)
    tables["SELECT endless"] = endless()
    tables["SELECT variants"] = Table.of({"v": (SqlType("sql_variant"), VARIANTS)})
    tables["SELECT too long"] = Table.of({"short": (SqlType("varchar", 3), pa.array(["four"]))})
    tables["SELECT mixed"] = mixed(20_000)
    return TablesBackend(tables=tables, answers=ANSWERS)


def counted(rows: int) -> Table:
    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, 10_000):
            numbers = pa.array(range(start, min(start + 10_000, rows)), pa.int64())
            yield pa.RecordBatch.from_arrays([numbers, numbers.cast(pa.string())], names=["n", "text"])

    columns = (ResultColumn("n", SqlType("bigint"), nullable=False), ResultColumn("text", SqlType("nvarchar", 20)))
    return Table(columns, batches)


def mixed(rows: int) -> Table:
    """Rows whose NULLs and lengths vary, with long values among short ones: the encoder's hard case."""
    return Table.of(
        {
            "a": (SqlType("int"), pa.array([None if i % 3 else i for i in range(rows)], pa.int32())),
            "b": (SqlType("nvarchar", -1), pa.array(["é" * (50_000 if i % 4999 == 7 else i % 9) for i in range(rows)])),
            "c": (SqlType("varchar", 30), pa.array([None if i % 7 == 0 else "x" * (i % 30) for i in range(rows)])),
            "d": (
                SqlType("decimal", precision=20, scale=3),
                pa.array([_D(i) / 8 for i in range(rows)], pa.decimal128(20, 3)),
            ),
            "e": (SqlType("datetime2", scale=6), pa.array([i * 10**12 for i in range(rows)], pa.timestamp("us"))),
            "f": (SqlType("varbinary", -1), pa.array([None if i % 2 else b"\x00" * (i % 5) for i in range(rows)])),
        }
    )


VARIANTS = pa.UnionArray.from_dense(
    pa.array([0, 1, 2, 3, 4, 0, 5], pa.int8()),
    pa.array([0, 0, 0, 0, 0, 1, 0], pa.int32()),
    [
        pa.array([7, None], pa.int64()),
        pa.array(["text é"]),
        pa.array([_D("12.50")], pa.decimal128(5, 2)),
        pa.array([dt.date(2020, 2, 29)]),
        pa.array([b"\x01\x02"]),
        pa.array([1.5]),
    ],
)


def _several(session: TableSession) -> Iterator[Answer]:
    yield Info(0, "hello from PRINT")
    yield one(SqlType("int"), pa.array([1, 2, 3], pa.int32()))
    yield RowsAffected(17)
    yield one(SqlType("bigint"), pa.array([session.row_count], pa.int64()))


def _use(session: TableSession) -> Iterator[Answer]:
    before, session.database = session.database, "other"
    yield DatabaseChanged(before, "other")
    yield RowsAffected(None)


def _fails_late(session: TableSession) -> Iterator[Answer]:
    yield one(SqlType("int"), pa.array([1], pa.int32()))
    raise SqlError(8134, "Divide by zero error encountered.")


def _fatal(session: TableSession) -> Iterator[Answer]:
    yield RowsAffected(1)
    raise SqlError(596, "Cannot continue the execution because the session is in the kill state.", severity=21)


def _state(session: TableSession) -> Iterator[Answer]:
    text = ",".join(session.transactions) + f"|{session.database}|{session.login.application}"
    yield one(SqlType("nvarchar", 4000), pa.array([text]))


def _output(session: TableSession) -> Iterator[Answer]:
    (parameter,) = session.parameters[-1]
    yield ReturnValue(parameter.name, parameter.type, (parameter.value or 41) + 1)
    yield RowsAffected(None)


ANSWERS = {
    "SELECT several": _several,
    "USE other": _use,
    "SELECT fails late": _fails_late,
    "SELECT fatal": _fatal,
    "SELECT state": _state,
    "EXEC plus_one @P1 OUTPUT": _output,
    "UPDATE seventeen": lambda session: iter([RowsAffected(17)]),
}


def prepared(folder: str | None = None) -> tuple[TablesBackend, PreparedResults]:
    """The factory of the server's process."""
    results = PreparedResults()
    rows = sorted(i // 3 for i in range(200_000))
    columns = (ResultColumn("id", SqlType("bigint"), nullable=False), ResultColumn("text", SqlType("varchar", 20)))
    batches = pa.table({"id": pa.array(rows, pa.int64()), "text": [f"row {i}" for i in range(len(rows))]}).to_batches()
    result = PreparedResult.encode(columns, batches, slice_column="id", folder=Path(folder) if folder else None)
    results.add("SELECT id, text FROM big", result)
    results.add(lambda sql: sql.startswith("SELECT id, text FROM big WHERE"), result)
    return TablesBackend(), results
