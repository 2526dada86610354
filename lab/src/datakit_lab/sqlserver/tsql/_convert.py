"""Typed DuckDB expressions, and how T-SQL converts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql import _clr
from datakit_lab.sqlserver.tsql import _temporal as temporal
from datakit_lab.sqlserver.tsql._types import (
    BINARY,
    CHARACTER,
    CLR,
    FLOATING,
    NATIONAL,
    NUMERIC,
    PADDED,
    TEMPORAL,
    storage,
)


@dataclass(frozen=True, slots=True)
class Expr:
    """A DuckDB expression and the T-SQL type of its value.

    :ivar type: None for NULL and for what only DuckDB knows the type of.
    :ivar literal: the value of a character or integer literal, so that it is converted once and not per row.
    :ivar utf16: the value is a BLOB of UTF-16LE although the type is a character type.
    """

    sql: str
    type: SqlType | None = None
    literal: str | int | None = None
    utf16: bool = False
    nullable: bool = True
    identity: bool = False
    computed: bool = False

    @property
    def kind(self) -> str:
        """The type's name, empty if unknown."""
        return self.type.name if self.type else ""


NULL: Final = Expr("NULL")


def quote(name: str) -> str:
    """Quote an identifier for DuckDB."""
    return '"' + name.replace('"', '""') + '"'


def text_literal(value: str) -> str:
    """Write text as a DuckDB literal."""
    return "'" + value.replace("'", "''") + "'"


def blob_literal(value: bytes) -> str:
    """Write bytes as a DuckDB expression."""
    return f"unhex('{value.hex()}')"


def is_ticks(type_: SqlType | None) -> bool:
    """Whether values are BIGINT ticks since 0001-01-01."""
    return type_ is not None and type_.name == "datetime2" and type_.scale == 7


def as_ticks(expr: Expr) -> str:
    """Return UTC ticks since 0001-01-01, for comparisons and differences."""
    if isinstance(expr.literal, str):
        ticks, offset = temporal.parse(expr.literal)
        return str(ticks - offset * 60 * temporal.TICKS_PER_SECOND)
    if expr.kind == "datetimeoffset":
        return f"({expr.sql}).ticks"
    if is_ticks(expr.type):
        return expr.sql
    if expr.kind in CHARACTER:
        return temporal.text_to_ticks(expr.sql)
    if expr.kind == "date" or expr.kind == "time":
        return temporal.timestamp_to_ticks(as_timestamp(expr))
    return temporal.timestamp_to_ticks(expr.sql)


def as_timestamp(expr: Expr) -> str:
    """Return a TIMESTAMP by the clock that the value shows; the tenth of a microsecond is dropped."""
    if isinstance(expr.literal, str):
        return temporal.timestamp_literal(temporal.parse(expr.literal)[0])
    if expr.kind == "datetimeoffset":
        return temporal.ticks_to_timestamp(_local_ticks(expr))
    if is_ticks(expr.type):
        return temporal.ticks_to_timestamp(expr.sql)
    if expr.kind == "time":
        return f"(TIMESTAMP '1900-01-01' + {_as_time(expr)})"
    return f"CAST({expr.sql} AS TIMESTAMP)"


def _local_ticks(expr: Expr) -> str:
    minute = 60 * temporal.TICKS_PER_SECOND
    return f'(({expr.sql}).ticks + CAST(({expr.sql})."offset" AS BIGINT) * {minute})'


def _as_time(expr: Expr) -> str:
    if expr.kind == "time":
        if expr.type is not None and expr.type.scale == 7:
            return f"(TIME '00:00:00' + to_microseconds({expr.sql} // 10))"
        return expr.sql
    return f"CAST({as_timestamp(expr)} AS TIME)"


def as_number(expr: Expr) -> str:
    """Return something that DuckDB can calculate with: a bit becomes an integer, a binary its big-endian value."""
    if expr.kind == "bit":
        return f"CAST({expr.sql} AS TINYINT)"
    if expr.kind in BINARY:
        return f"CAST('0x' || hex({expr.sql}) AS BIGINT)"
    return expr.sql


def as_text(expr: Expr, style: int | None = None) -> str:
    """Return the text that T-SQL shows for a value (CONVERT's default or the given style)."""
    match expr.kind:
        case kind if kind in CHARACTER:
            return f"decode_utf16({expr.sql})" if expr.utf16 else expr.sql
        case "bit":
            return f"CAST(CAST({expr.sql} AS TINYINT) AS VARCHAR)"
        case kind if kind in CLR:
            return f"({expr.sql}).wkt"
        case "sql_variant":
            return f"({expr.sql}).value"
        case "uniqueidentifier":
            return f"upper(CAST({expr.sql} AS VARCHAR))"
        case kind if kind in BINARY:
            return (
                f"('0x' || hex({expr.sql}))"
                if style == 1
                else f"hex({expr.sql})"
                if style == 2
                else f"decode({expr.sql})"
            )
        case "money" | "smallmoney":
            return f"CAST(CAST({expr.sql} AS DECIMAL(38,{4 if style == 2 else 2})) AS VARCHAR)"
        case "date":
            return f"strftime({expr.sql}, '%Y%m%d')" if style == 112 else f"CAST({expr.sql} AS VARCHAR)"
        case "time":
            return _clock_text(expr)
        case kind if kind in TEMPORAL:
            return _temporal_text(expr, style)
        case "float" | "real":
            return (
                f"format('{{:.{17 if style == 3 else 6}g}}', {expr.sql})"
                if style in {None, 0}
                else f"CAST({expr.sql} AS VARCHAR)"
            )
        case _:
            return f"CAST({expr.sql} AS VARCHAR)"


def _fraction(expr: Expr) -> tuple[int, str]:
    """Return the scale and the ticks within the second."""
    scale = {"datetime": 3, "smalldatetime": 0}.get(
        expr.kind, expr.type.scale if expr.type and expr.type.scale is not None else 7
    )
    if expr.kind == "datetimeoffset":
        return scale, f"(({expr.sql}).ticks % {temporal.TICKS_PER_SECOND})"
    if is_ticks(expr.type) or (expr.kind == "time" and scale == 7):
        return scale, f"({expr.sql} % {temporal.TICKS_PER_SECOND})"
    return scale, f"((epoch_us({expr.sql}) + 62135596800000000) % 1000000 * 10)"


def _digits(expr: Expr) -> str:
    scale, ticks = _fraction(expr)
    return f"'.' || left(lpad(CAST({ticks} AS VARCHAR), 7, '0'), {scale})" if scale else "''"


def _clock_text(expr: Expr) -> str:
    return f"(left(CAST({_as_time(expr)} AS VARCHAR), 8) || {_digits(expr)})"


def _temporal_text(expr: Expr, style: int | None) -> str:
    stamp = as_timestamp(expr)
    if style == 112:
        return f"strftime({stamp}, '%Y%m%d')"
    if style in {23, 102, 111}:
        separator = {23: "-", 102: ".", 111: "/"}[style]
        return f"replace(left(CAST({stamp} AS VARCHAR), 10), '-', '{separator}')"
    if style == 108:
        return f"substr(CAST({stamp} AS VARCHAR), 12, 8)"
    if expr.kind in {"datetime", "smalldatetime"} and style in {None, 0, 100}:
        return f"strftime({stamp}, '%b %d %Y %I:%M%p')"
    digits = _digits(expr)
    if style in {20, 120}:
        digits = "''"
    separator = "T" if style in {126, 127} else " "
    text = f"(replace(left(CAST({stamp} AS VARCHAR), 19), ' ', '{separator}') || {digits}"
    if expr.kind == "datetimeoffset":
        offset = f'({expr.sql})."offset"'
        text += (
            f" || {text_literal('' if separator == 'T' else ' ')} || CASE WHEN {offset} < 0 THEN '-' ELSE '+' END"
            f" || format('{{:02d}}:{{:02d}}', abs({offset}) // 60, abs({offset}) % 60)"
        )
    return text + ")"


def convert(expr: Expr, target: SqlType, *, style: int | None = None, safe: bool = False) -> Expr:
    """Convert as CAST and CONVERT do; ``safe`` gives NULL where they fail (TRY_CAST).

    :raises SqlError: a literal has no value of the target type, or the two types never convert.
    """
    try:
        sql, utf16 = _convert_sql(expr, target, style, "TRY_CAST" if safe else "CAST")
    except SqlError:
        if not safe:
            raise
        sql, utf16 = f"CAST(NULL AS {storage(target)})", False
    return Expr(sql, target, utf16=utf16, nullable=expr.nullable or safe)


def _convert_sql(expr: Expr, target: SqlType, style: int | None, cast: str) -> tuple[str, bool]:  # noqa: C901 - one branch for each kind
    if expr.type is None and expr.sql == "NULL":
        return f"CAST(NULL AS {storage(target)})", False
    if expr.type == target and not (target.name in CHARACTER and expr.literal is not None):
        return expr.sql, expr.utf16
    name = target.name
    if expr.kind == "sql_variant":
        style = 1 if name in BINARY else style
        # without substr, DuckDB 2.0 moves the cast of a struct's field out of CASE and into the scan, where it fails
        # for rows of another base type
        expr = Expr(f"substr(({expr.sql}).value, 1)", SqlType("nvarchar", length=-1))
    if name in CHARACTER:
        return _to_character(expr, target, style)
    if name in BINARY:
        return _to_binary(expr, target, style), False
    if name in NUMERIC:
        return _to_number(expr, target, cast), False
    if name in TEMPORAL:
        return _to_temporal(expr, target), False
    if name == "time":
        return _to_time(expr, target), False
    if name == "uniqueidentifier":
        if expr.kind in BINARY:
            return f"guid_from_bytes({expr.sql})", False
        return f"{cast}({as_text(expr)} AS UUID)", False
    if name == "xml":
        return as_text(expr), False
    if name == "sql_variant":
        base = text_literal(expr.kind or "nvarchar")
        return f"{{'base': {base}, 'value': {as_text(expr, 1 if expr.kind in BINARY else 121)}}}", False
    if name in CLR and expr.kind == name:
        return expr.sql, False
    if name in CLR and isinstance(expr.literal, str):
        raw = blob_literal(_clr.serialise(name, expr.literal))
        return f"{{'wkt': {text_literal(expr.literal)}, 'bytes': {raw}}}", False
    raise SqlError(529, f"Explicit conversion from data type {expr.kind or 'NULL'} to {name} is not allowed.")


def _to_character(expr: Expr, target: SqlType, style: int | None) -> tuple[str, bool]:
    length = target.length if target.name not in {"text", "ntext"} else -1
    if expr.utf16:
        return (expr.sql if length in {None, -1} else f"blob_left({expr.sql}, {2 * (length or 0)})"), True
    if isinstance(expr.literal, str) and expr.kind in CHARACTER:
        value = expr.literal if length in {None, -1} else expr.literal[:length]
        return text_literal(value.ljust(length or 0) if target.name in PADDED else value), False
    text = as_text(expr, style)
    if length in {None, -1}:
        return text, False
    shown = _shown_length(expr)
    if shown is None or (length or 0) < shown:
        text = f"left({text}, {length})"
    if target.name in PADDED and not (expr.kind in PADDED and shown == length):
        text = f"rpad({text}, {length}, ' ')"
    return text, False


def _shown_length(expr: Expr) -> int | None:
    """How many characters a value of the type shows at most; None where it is unknown or unbounded."""
    if expr.kind in CHARACTER:
        length = expr.type.length if expr.type else None
        return None if length == -1 else length
    sizes = {"bit": 1, "tinyint": 3, "smallint": 6, "int": 11, "bigint": 20, "date": 10, "uniqueidentifier": 36}
    return sizes.get(expr.kind)


def _to_binary(expr: Expr, target: SqlType, style: int | None) -> str:
    length = {"timestamp": 8, "image": -1}.get(target.name, target.length)
    if expr.kind in BINARY:
        sql = expr.sql
    elif expr.kind in CLR:
        sql = f"({expr.sql}).bytes"
    elif expr.kind == "uniqueidentifier":
        sql = f"guid_bytes({expr.sql})"
    elif expr.kind in NATIONAL:
        if style in {1, 2}:
            sql = f"unhex(replace({expr.sql}, '0x', ''))"
        else:
            sql = expr.sql if expr.utf16 else f"encode_utf16({expr.sql})"
    elif expr.kind in CHARACTER:
        sql = f"unhex(replace({expr.sql}, '0x', ''))" if style in {1, 2} else f"encode({expr.sql})"
    else:
        width = {"bit": 1, "tinyint": 1, "smallint": 2, "int": 4}.get(expr.kind, 8)
        digits = length if length and length > width else width
        sql = f"unhex(right(repeat('0', 40) || printf('%X', CAST({as_number(expr)} AS BIGINT)), {2 * digits}))"
    if length in {None, -1}:
        return sql
    source_length = expr.type.length if expr.type and expr.kind in BINARY else None
    if expr.kind == "timestamp":
        source_length = 8
    if (
        source_length != -1
        and source_length is not None
        and source_length <= (length or 0)
        and target.name == "varbinary"
    ):
        return sql
    cut = f"blob_left({sql}, {length})"
    return f"blob_pad({cut}, {length})" if target.name in {"binary", "timestamp"} else cut


def _to_number(expr: Expr, target: SqlType, cast: str) -> str:
    sql = as_number(expr)
    if expr.kind in TEMPORAL | {"time"} or expr.kind in CLR:
        raise SqlError(529, f"Explicit conversion from data type {expr.kind} to {target.name} is not allowed.")
    if expr.utf16:
        sql = as_text(expr)
    if target.name == "bit":
        number = f"{cast}({sql} AS DOUBLE)" if expr.kind in CHARACTER else sql
        return sql if expr.kind == "bit" else f"(({number}) <> 0)"
    if target.name in {"tinyint", "smallint", "int", "bigint"} and expr.kind in FLOATING | {"decimal", "numeric"}:
        sql = f"trunc({sql})"
    if expr.kind in CHARACTER:
        sql = f"trim({sql})"
    return f"{cast}({sql} AS {storage(target)})"


def _to_temporal(expr: Expr, target: SqlType) -> str:
    name, scale = target.name, 7 if target.scale is None else target.scale
    if isinstance(expr.literal, str):
        return literal_temporal(expr.literal, target)
    if expr.kind in NUMERIC and name not in {"datetime", "smalldatetime"}:
        raise SqlError(529, f"Explicit conversion from data type {expr.kind} to {name} is not allowed.")
    if expr.kind in NUMERIC:
        return f"(TIMESTAMP '1900-01-01' + to_microseconds(CAST({as_number(expr)} * 86400000000 AS BIGINT)))"
    if name == "date":
        return f"CAST({as_timestamp(expr)} AS DATE)" if expr.kind != "date" else expr.sql
    if name == "datetime":
        return temporal.datetime_sql(as_timestamp(expr))
    if name == "smalldatetime":
        return f"date_trunc('minute', {as_timestamp(expr)} + to_seconds(30))"
    if name == "datetime2":
        if scale == 7 or expr.kind in CHARACTER | {"datetimeoffset"} or is_ticks(expr.type):
            ticks = _local_ticks(expr) if expr.kind == "datetimeoffset" else as_ticks(expr)
            rounded = temporal.round_ticks_sql(ticks, scale)
            return rounded if scale == 7 else temporal.ticks_to_timestamp(rounded)
        known = {"date": 0, "smalldatetime": 0, "datetime": 3}.get(expr.kind, expr.type.scale if expr.type else None)
        stamp = as_timestamp(expr)
        return stamp if known is not None and known <= scale else temporal.round_timestamp_sql(stamp, scale)
    if expr.kind == "datetimeoffset":
        ticks = temporal.round_ticks_sql(as_ticks(expr), scale)
        return f'struct_pack(ticks := {ticks}, "offset" := ({expr.sql})."offset")'
    if expr.kind in CHARACTER:
        zoneless = f"regexp_replace({expr.sql}, '\\s*([+-]\\d\\d:\\d\\d|Z)$', '')"
        ticks = temporal.round_ticks_sql(temporal.text_to_ticks(zoneless), scale)
        minutes = f"offset_minutes({expr.sql})"
        return f'struct_pack(ticks := {ticks} - {minutes} * 600000000::BIGINT, "offset" := {minutes}::SMALLINT)'
    return f'struct_pack(ticks := {temporal.round_ticks_sql(as_ticks(expr), scale)}, "offset" := 0::SMALLINT)'


def literal_temporal(text: str, target: SqlType) -> str:
    """Write a literal as a constant of a temporal type.

    :raises SqlError: 241 if the text is no date or time.
    """
    ticks, offset = temporal.parse(text)
    scale = 7 if target.scale is None else target.scale
    match target.name:
        case "date":
            return f"CAST({temporal.timestamp_literal(ticks)} AS DATE)"
        case "datetime":
            return temporal.datetime_sql(temporal.timestamp_literal(ticks))
        case "smalldatetime":
            return f"date_trunc('minute', {temporal.timestamp_literal(ticks + 30 * temporal.TICKS_PER_SECOND)})"
        case "time":
            rounded = temporal.round_ticks(ticks % temporal.TICKS_PER_DAY, scale) % temporal.TICKS_PER_DAY
            return f"{rounded}::BIGINT" if scale == 7 else f"(TIME '00:00:00' + to_microseconds({rounded // 10}))"
        case "datetimeoffset":
            utc = temporal.round_ticks(ticks, scale) - offset * 60 * temporal.TICKS_PER_SECOND
            return f'struct_pack(ticks := {utc}::BIGINT, "offset" := {offset}::SMALLINT)'
    rounded = temporal.round_ticks(ticks, scale)
    return f"{rounded}::BIGINT" if scale == 7 else temporal.timestamp_literal(rounded)


def _to_time(expr: Expr, target: SqlType) -> str:
    scale = 7 if target.scale is None else target.scale
    if isinstance(expr.literal, str):
        return literal_temporal(expr.literal, target)
    if is_ticks(expr.type) or expr.kind == "datetimeoffset":
        ticks = expr.sql if is_ticks(expr.type) else _local_ticks(expr)
    elif expr.kind == "time" and expr.type is not None and expr.type.scale == 7:
        ticks = expr.sql
    else:
        ticks = f"(epoch_us({_as_time(expr)}) * 10)"
    rounded = temporal.round_ticks_sql(f"({ticks} % {temporal.TICKS_PER_DAY})", scale)
    return rounded if scale == 7 else f"(TIME '00:00:00' + to_microseconds({rounded} // 10))"
