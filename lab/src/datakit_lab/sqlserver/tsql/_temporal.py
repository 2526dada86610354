"""Dates and times to the 100 ns that SQL Server keeps, in Python and as DuckDB expressions."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

from datakit_lab.sqlserver.backend import SqlError

TICKS_PER_SECOND: Final = 10_000_000
TICKS_PER_DAY: Final = 86_400 * TICKS_PER_SECOND
MAX_TICKS: Final = 3_155_378_975_999_999_999
"""9999-12-31 23:59:59.9999999."""
_EPOCH_MICROSECONDS: Final = 62_135_596_800_000_000
"""From 0001-01-01 to 1970-01-01."""

_LITERAL = re.compile(
    r"""\s*(?:(?P<year>\d{4})(?:-(?P<month>\d{1,2})-(?P<day>\d{1,2})|(?P<compact>\d{4}))(?=[T\s]|$))?
        (?:[T\s]*(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.:](?P<fraction>\d{1,7}))?)?)?
        \s*(?P<zone>Z|[+-]\d{2}:\d{2})?\s*""",
    re.VERBOSE | re.IGNORECASE,
)


def parse(text: str) -> tuple[int, int]:
    """Read a date, time or both from text, as ticks of the local time since 0001-01-01 and the offset in minutes.

    A missing date is 1900-01-01, as in SQL Server.

    :raises SqlError: 241 if the text is no date or time.
    """
    match = _LITERAL.fullmatch(text)
    failed = SqlError(241, "Conversion failed when converting date and/or time from character string.")
    if match is None:
        raise failed
    part = match.groupdict()
    month, day = part["month"], part["day"]
    if part["compact"]:
        month, day = part["compact"][:2], part["compact"][2:]
    try:
        date = dt.date(int(part["year"] or 1900), int(month or 1), int(day or 1))
        time = dt.time(int(part["hour"] or 0), int(part["minute"] or 0), int(part["second"] or 0))
    except ValueError:
        raise failed from None
    ticks = days_ticks(date) + time_ticks(time) + int((part["fraction"] or "0").ljust(7, "0"))
    zone = part["zone"]
    if zone is None or zone in "Zz":
        return ticks, 0
    minutes = int(zone[1:3]) * 60 + int(zone[4:])
    return ticks, -minutes if zone[0] == "-" else minutes


def days_ticks(date: dt.date) -> int:
    """Return ticks from 0001-01-01 to midnight of ``date``."""
    return (date.toordinal() - 1) * TICKS_PER_DAY


def time_ticks(time: dt.time) -> int:
    """Return ticks since midnight."""
    seconds = time.hour * 3600 + time.minute * 60 + time.second
    return seconds * TICKS_PER_SECOND + time.microsecond * 10


def datetime_ticks(value: dt.datetime) -> int:
    """Return ticks since 0001-01-01, by the clock that the value shows."""
    return days_ticks(value.date()) + time_ticks(value.time())


def round_ticks(ticks: int, scale: int) -> int:
    """Round to ``scale`` digits of a second, half up; the last instant of 9999 stays in 9999."""
    unit = int(10 ** (7 - scale))
    rounded = (ticks + unit // 2) // unit * unit
    return rounded if rounded <= MAX_TICKS else ticks // unit * unit


def timestamp_literal(ticks: int) -> str:
    """Write ticks as a DuckDB TIMESTAMP; the tenth of a microsecond is dropped."""
    return f"make_timestamp({ticks // 10 - _EPOCH_MICROSECONDS}::BIGINT)"


def ticks_to_timestamp(sql: str) -> str:
    """Return a TIMESTAMP expression for a BIGINT expression of ticks."""
    return f"make_timestamp((({sql}) // 10) - {_EPOCH_MICROSECONDS})"


def timestamp_to_ticks(sql: str) -> str:
    """Return a BIGINT expression of ticks for a TIMESTAMP expression."""
    return f"((epoch_us({sql}) + {_EPOCH_MICROSECONDS}) * 10)"


def round_ticks_sql(sql: str, scale: int) -> str:
    """Return the rounded ticks of a BIGINT expression."""
    if scale == 7:
        return sql
    unit = 10 ** (7 - scale)
    return f"(least(({sql}) + {unit // 2}, {MAX_TICKS}) // {unit} * {unit})"


def round_timestamp_sql(sql: str, scale: int) -> str:
    """Return a TIMESTAMP expression rounded to ``scale`` (0 to 6) digits of a second."""
    if scale >= 6:
        return sql
    unit = 10 ** (6 - scale)
    rounded = f"least(epoch_us({sql}) + {_EPOCH_MICROSECONDS + unit // 2}, {MAX_TICKS // 10}) // {unit} * {unit}"
    return f"make_timestamp({rounded} - {_EPOCH_MICROSECONDS})"


def datetime_sql(sql: str) -> str:
    """Return a TIMESTAMP expression rounded to the 1/300 s of ``datetime``, as its milliseconds are shown."""
    return (
        f"make_timestamp(epoch_us(date_trunc('second', {sql})) + CAST(round(round((epoch_us({sql}) - "
        f"epoch_us(date_trunc('second', {sql}))) * 3 / 10000.0) * 10 / 3.0) * 1000 AS BIGINT))"
    )


def text_to_ticks(sql: str) -> str:
    """Return a BIGINT expression of ticks for text that is known only at run time (ISO forms)."""
    seventh = f"coalesce(TRY_CAST(substr(regexp_extract({sql}, '[.](\\d{{7}})', 1), 7, 1) AS BIGINT), 0)"
    shorter = f"regexp_replace({sql}, '([.]\\d{{6}})\\d', '\\1')"
    return f"({timestamp_to_ticks(f'CAST({shorter} AS TIMESTAMP)')} + {seventh})"
