"""DATEADD, DATEDIFF, DATEPART and their kin, exact to the 100 ns of the types they work on."""

from __future__ import annotations

from typing import Final

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql import _temporal as temporal
from datakit_lab.sqlserver.tsql._convert import Expr, as_ticks, as_timestamp, convert, is_ticks
from datakit_lab.sqlserver.tsql._types import BIGINT, CHARACTER, DATETIME, INT, character

FUNCTIONS: Final = frozenset({"DATEADD", "DATEDIFF", "DATEDIFF_BIG", "DATEPART", "DATENAME", "DATETRUNC"})

_PARTS: Final = {
    "year": "year", "yy": "year", "yyyy": "year", "quarter": "quarter", "qq": "quarter", "q": "quarter",
    "month": "month", "mm": "month", "m": "month", "dayofyear": "dayofyear", "dy": "dayofyear", "y": "dayofyear",
    "day": "day", "dd": "day", "d": "day", "week": "week", "wk": "week", "ww": "week", "weekday": "weekday",
    "dw": "weekday",
    "hour": "hour", "hh": "hour", "minute": "minute", "mi": "minute", "n": "minute", "second": "second", "ss": "second",
    "s": "second", "millisecond": "millisecond", "ms": "millisecond", "microsecond": "microsecond",
    "mcs": "microsecond",
    "nanosecond": "nanosecond", "ns": "nanosecond", "tzoffset": "tzoffset", "tz": "tzoffset",
    "iso_week": "iso_week", "isowk": "iso_week", "isoww": "iso_week",
}  # fmt: skip
_MONTHS: Final = {"month": 1, "quarter": 3, "year": 12}
_TICKS: Final = {
    "week": 7 * temporal.TICKS_PER_DAY,
    "day": temporal.TICKS_PER_DAY,
    "dayofyear": temporal.TICKS_PER_DAY,
    "weekday": temporal.TICKS_PER_DAY,
    "hour": 36_000_000_000,
    "minute": 600_000_000,
    "second": 10_000_000,
    "millisecond": 10_000,
    "microsecond": 10,
}


def call(name: str, part: str, arguments: list[Expr]) -> Expr:
    """Compile one of :data:`FUNCTIONS`.

    :raises SqlError: 155 for an unknown part of a date.
    """
    known = _PARTS.get(part.lower())
    if known is None:
        raise SqlError(155, f"'{part}' is not a recognized {name.lower()} option.", severity=15)
    if len(arguments) != (1 if name in {"DATEPART", "DATENAME", "DATETRUNC"} else 2):
        raise SqlError(
            174, f"The {name.lower()} function requires {'2' if name == 'DATEPART' else '3'} argument(s).", severity=15
        )
    if name == "DATEADD":
        return _add(known, *arguments)
    if name in {"DATEDIFF", "DATEDIFF_BIG"}:
        big = name == "DATEDIFF_BIG"
        return Expr(
            f"CAST({_difference(known, *arguments)} AS {'BIGINT' if big else 'INTEGER'})", BIGINT if big else INT
        )
    if name == "DATETRUNC":
        return convert(
            Expr(f"date_trunc('{known}', {as_timestamp(arguments[0])})", SqlType("datetime2", scale=6)),
            arguments[0].type or DATETIME,
        )
    if name == "DATENAME" and known in {"month", "weekday"}:
        function = "monthname" if known == "month" else "dayname"
        return Expr(f"{function}({as_timestamp(arguments[0])})", character("nvarchar", 30))
    number = _part(known, arguments[0])
    if name == "DATENAME":
        return Expr(f"CAST({number} AS VARCHAR)", character("nvarchar", 30))
    return Expr(f"CAST({number} AS INTEGER)", INT, nullable=arguments[0].nullable)


def switch_offset(arguments: list[Expr]) -> Expr:
    """Compile SWITCHOFFSET: the same instant, by the clock of another offset (text, or minutes)."""
    value, offset = arguments
    if value.kind != "datetimeoffset":
        value = convert(value, SqlType("datetimeoffset", scale=7))
    minutes = f"offset_minutes({offset.sql})" if offset.kind in CHARACTER else offset.sql
    sql = f'struct_pack(ticks := ({value.sql}).ticks, "offset" := CAST({minutes} AS SMALLINT))'
    return Expr(sql, value.type, nullable=value.nullable)


def _add(part: str, amount: Expr, value: Expr) -> Expr:
    if value.kind in CHARACTER or value.type is None:
        value = convert(value, DATETIME)
    assert value.type is not None  # convert() gives a type  # noqa: S101 - for the type checker
    count = f"CAST(trunc({amount.sql}) AS BIGINT)"
    if value.kind == "datetimeoffset":
        local = f'(({value.sql}).ticks + CAST(({value.sql})."offset" AS BIGINT) * 600000000)'
        moved = _add(part, amount, Expr(local, SqlType("datetime2", scale=7))).sql
        offset = f'({value.sql})."offset"'
        return Expr(
            f'struct_pack(ticks := {moved} - CAST({offset} AS BIGINT) * 600000000, "offset" := {offset})', value.type
        )
    if part in _MONTHS:
        months = f"to_months(CAST({count} * {_MONTHS[part]} AS INTEGER))"
        moved = f"({as_timestamp(value)} + {months})"
        if is_ticks(value.type):
            return Expr(f"({temporal.timestamp_to_ticks(moved)} + {value.sql} % 10)", value.type)
    elif is_ticks(value.type) or (value.kind == "time" and value.type.scale == 7):
        step = f"({count} // 100)" if part == "nanosecond" else f"({count} * {_TICKS[part]})"
        sql = f"({value.sql} + {step})"
        return Expr(f"({sql} % {temporal.TICKS_PER_DAY})" if value.kind == "time" else sql, value.type)
    else:
        micros = f"({count} // 1000)" if part == "nanosecond" else f"({count} * {_TICKS[part] // 10})"
        moved = f"({as_timestamp(value)} + to_microseconds({micros}))"
    if value.kind == "time":
        return Expr(f"CAST({moved} AS TIME)", value.type)
    return convert(Expr(moved, SqlType("datetime2", scale=6)), value.type)


def _difference(part: str, start: Expr, end: Expr) -> str:
    if part in _MONTHS:
        return f"date_diff('{part}', {as_timestamp(start)}, {as_timestamp(end)})"
    a, b = as_ticks(start), as_ticks(end)
    if part == "nanosecond":
        return f"(({b} - {a}) * 100)"
    unit = _TICKS[part]
    shift = f" + {temporal.TICKS_PER_DAY}" if part == "week" else ""  # 0001-01-01 was a Monday; weeks begin on Sunday
    return f"(({b}{shift}) // {unit} - ({a}{shift}) // {unit})"


def _part(part: str, value: Expr) -> str:
    if part == "tzoffset":
        return f'({value.sql})."offset"' if value.kind == "datetimeoffset" else "0"
    if part in {"millisecond", "microsecond", "nanosecond"}:
        ticks = (
            f"({value.sql} % {temporal.TICKS_PER_SECOND})"
            if value.kind == "time" and value.type and value.type.scale == 7
            else f"({as_ticks(value)} % {temporal.TICKS_PER_SECOND})"
        )
        return {"millisecond": f"{ticks} // 10000", "microsecond": f"{ticks} // 10", "nanosecond": f"{ticks} * 100"}[
            part
        ]
    stamp = as_timestamp(value)
    if part == "weekday":
        return f"(date_part('dow', {stamp}) + 1)"
    if part == "week":
        return f"((date_part('doy', {stamp}) - 1 + date_part('dow', date_trunc('year', {stamp}))) // 7 + 1)"
    return f"date_part('{ {'dayofyear': 'doy', 'iso_week': 'week'}.get(part, part) }', {stamp})"
