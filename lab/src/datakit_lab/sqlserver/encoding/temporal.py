"""Dates and times (MS-TDS 2.2.5.5.1.8-9). The common unit is the tick of 100 ns since 0001-01-01."""

# ruff: noqa: ARG001 - all encoders have one signature, and few need all of it

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit_lab.sqlserver.backend import SqlType
from datakit_lab.sqlserver.encoding.arrays import numbers
from datakit_lab.sqlserver.encoding.numeric import sized
from datakit_lab.sqlserver.encoding.pieces import Bytes, Column, Ints, little_endian

DAYS_TO_1970 = 719_162
DAYS_TO_1900 = 693_595
TICKS_PER_DAY = 864_000_000_000
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_MAX_DAY = 3_652_058


def time_bytes(scale: int) -> int:
    """Return the length of a time of day of a scale."""
    return 3 if scale <= 2 else 4 if scale <= 4 else 5


def _to_ticks(raw: npt.NDArray[Any], unit: str) -> Ints:
    per_second = _PER_SECOND[unit]
    wide = raw.astype(np.int64, copy=False)
    if per_second > 10_000_000:
        if np.any(wide % 100):
            raise ValueError("a time finer than 100 ns has no place in T-SQL")
        return wide // 100
    return wide * (10_000_000 // per_second)


def _instant_ticks(array: pa.Array) -> Ints:
    """Return ticks since 0001-01-01 from timestamps, dates or ready ticks."""
    kind = array.type
    if pa.types.is_timestamp(kind):
        raw = numbers(array.view(pa.int64()), pa.int64(), "<i8")
        ticks = _to_ticks(raw, kind.unit) + DAYS_TO_1970 * TICKS_PER_DAY
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), ticks, 0) if array.null_count else ticks
    if pa.types.is_date(kind):
        days = numbers(array.cast(pa.date32()).view(pa.int32()), pa.int32(), "<i4").astype(np.int64)
        ticks = (days + DAYS_TO_1970) * TICKS_PER_DAY
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), ticks, 0) if array.null_count else ticks
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _instant_ticks(array.cast(pa.timestamp("us")))
    return numbers(array, pa.int64(), "<i8")


def _day_ticks(array: pa.Array) -> Ints:
    """Return ticks since midnight from times, timestamps or ready ticks."""
    kind = array.type
    if pa.types.is_time(kind):
        ready = pa.int32() if kind.bit_width == 32 else pa.int64()
        dtype = "<i4" if kind.bit_width == 32 else "<i8"
        return _to_ticks(numbers(array.view(ready), ready, dtype), kind.unit)
    if pa.types.is_timestamp(kind):
        return _instant_ticks(array) % TICKS_PER_DAY
    return numbers(array, pa.int64(), "<i8")


def _rounded(ticks: Ints, scale: int) -> Ints:
    """Round half up to the scale's unit, staying in ticks; the last instant is cut instead of overflowing."""
    unit = 10 ** (7 - scale)
    if unit == 1:
        return ticks
    rounded = (ticks + unit // 2) // unit * unit
    limit = (_MAX_DAY + 1) * TICKS_PER_DAY
    cut: Ints = np.where(rounded >= limit, limit - unit, rounded)
    return cut


def _check_days(days: Ints) -> None:
    if len(days) and (days.min() < 0 or days.max() > _MAX_DAY):
        raise ValueError("a date outside 0001-01-01 to 9999-12-31 has no place in T-SQL")


def _clock(ticks: Ints, scale: int) -> Bytes:
    return little_endian(ticks // 10 ** (7 - scale), "<i8", time_bytes(scale))


def _calendar(ticks: Ints) -> Bytes:
    days = ticks // TICKS_PER_DAY
    _check_days(days)
    return little_endian(days, "<i4", 3)


def encode_date(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode date: days since 0001-01-01 in three bytes."""
    return sized(_calendar(_instant_ticks(array)), array, nullable=True)


def encode_time(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode time(0-7)."""
    scale = 7 if sql_type.scale is None else sql_type.scale
    ticks = _rounded(_day_ticks(array), scale) % TICKS_PER_DAY
    return sized(_clock(ticks, scale), array, nullable=True)


def encode_datetime2(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode datetime2(0-7)."""
    scale = 7 if sql_type.scale is None else sql_type.scale
    ticks = _rounded(_instant_ticks(array), scale)
    return sized(np.hstack([_clock(ticks % TICKS_PER_DAY, scale), _calendar(ticks)]), array, nullable=True)


def encode_datetimeoffset(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode datetimeoffset(0-7): UTC and the offset in minutes; a plain timestamp has offset 0."""
    scale = 7 if sql_type.scale is None else sql_type.scale
    if pa.types.is_struct(array.type):
        # struct_field, unlike Array.field, applies the parent's validity
        ticks = numbers(pc.struct_field(array, "ticks"), pa.int64(), "<i8")
        offsets = numbers(pc.struct_field(array, "offset"), pa.int16(), "<i2")
    else:
        ticks, offsets = _instant_ticks(array), np.zeros(len(array), "<i2")
    ticks = _rounded(ticks, scale)
    pieces = [_clock(ticks % TICKS_PER_DAY, scale), _calendar(ticks), little_endian(offsets, "<i2")]
    return sized(np.hstack(pieces), array, nullable=True)


def encode_datetime(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode datetime: days since 1900-01-01 and three-hundredths of a second."""
    ticks = _instant_ticks(array)
    days, clock = ticks // TICKS_PER_DAY - DAYS_TO_1900, ticks % TICKS_PER_DAY
    # 300 per second, rounded half up: clock * 300 / 10^7
    thirds = (clock * 3 + 50_000) // 100_000
    days, thirds = days + thirds // 25_920_000, thirds % 25_920_000
    body = np.hstack([little_endian(days, "<i4"), little_endian(thirds, "<u4")])
    return sized(body, array, nullable=nullable)


def encode_smalldatetime(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode smalldatetime: days since 1900-01-01 and minutes, both in two bytes."""
    ticks = _instant_ticks(array)
    minutes = (ticks + 300_000_000) // 600_000_000
    days = minutes // 1440 - DAYS_TO_1900
    if array.null_count:
        days = np.where(array.is_valid().to_numpy(zero_copy_only=False), days, 0)
    if len(days) and (days.min() < 0 or days.max() > 0xFFFF):
        raise ValueError("a date outside 1900-01-01 to 2079-06-06 has no place in smalldatetime")
    body = np.hstack([little_endian(days, "<u2"), little_endian(minutes % 1440, "<u2")])
    return sized(body, array, nullable=nullable)
