"""Values of cursor and slice columns as text, and as whole numbers that can be compared, shifted and cut.

A :class:`~datakit.model.load.Window` and a :class:`~datakit.model.load.Slice` hold text, because it survives a load
log, a JSON document and a command line unchanged. Arithmetic (a lag, equal ranges) happens on ordinals: whole numbers
in the order of the values. Times count 100 ns, the finest that SQL Server stores, and not microseconds, since a
cursor rounded down by one digit would read its last row for ever, and one rounded up would skip rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from itertools import pairwise
from typing import Final

from datakit.model.load import Slice
from datakit.model.types import DataType

__all__ = ["TICKS_PER_SECOND", "can_slice", "cut", "from_ordinal", "lag_ordinal", "to_ordinal", "to_value"]

TICKS_PER_SECOND: Final = 10_000_000
"""Ordinals of ``timestamp`` and ``timestamptz`` count 100 ns since 0001-01-01."""

_SLICEABLE: Final = frozenset({"int16", "int32", "int64", "date", "timestamp", "timestamptz"})
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d)(?:\.(\d{1,7}))?)?\s*(Z|[+-]\d\d:\d\d)?")


_DIGITS: Final = Context(prec=76)
"""Twice the 38 digits of the longest decimal; Python's default of 28 would round it."""


def can_slice(type_: DataType) -> bool:
    """Whether a column of this type has a range that can be cut into equal parts."""
    return type_.name in _SLICEABLE


def to_ordinal(text: str, type_: DataType) -> int:
    """Read a value's text.

    :raises ValueError: the text is no value of that type, or the type has no order.
    """
    match type_.name:
        case "int16" | "int32" | "int64":
            return int(text)
        case "decimal":
            return int(_DIGITS.scaleb(Decimal(text), type_.scale or 0))
        case "date":
            return date.fromisoformat(text).toordinal()
        case "binary":
            if not text.startswith("0x"):
                raise ValueError(f"{text!r} is not 0x and hexadecimal digits")
            return int(text[2:] or "0", 16)
        case "timestamp" | "timestamptz":
            return _ticks(text)
    raise ValueError(f"a {type_} column has no order")


def _ticks(text: str) -> int:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an ISO 8601 time with at most 7 fractional digits")
    moment = datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00:00'}")
    since_zero = moment - datetime.min
    ticks = (since_zero.days * 86400 + since_zero.seconds) * TICKS_PER_SECOND + int((match[3] or "0").ljust(7, "0"))
    if match[4] and match[4] != "Z":
        hours, minutes = match[4][1:].split(":")
        offset = (int(hours) * 60 + int(minutes)) * 60 * TICKS_PER_SECOND
        ticks += offset if match[4][0] == "-" else -offset
    return ticks


def from_ordinal(ordinal: int, type_: DataType, *, width: int = 8) -> str:
    """Write a value's text; times have only the fractional digits that they need, and ``timestamptz`` ends in Z.

    :param width: bytes of a ``binary`` value.
    """
    match type_.name:
        case "decimal":
            return f"{_DIGITS.scaleb(Decimal(ordinal), -(type_.scale or 0)):f}"
        case "date":
            return date.fromordinal(max(1, ordinal)).isoformat()
        case "binary":
            return f"0x{max(0, ordinal):0{2 * width}X}"
        case "timestamp" | "timestamptz":
            seconds, fraction = divmod(max(0, ordinal), TICKS_PER_SECOND)
            text = (datetime.min + timedelta(seconds=seconds)).isoformat()
            if fraction:
                text += f".{fraction:07d}".rstrip("0")
            return text + ("Z" if type_.name == "timestamptz" else "")
    return str(ordinal)


def to_value(text: str, type_: DataType) -> int | Decimal | bytes | date | datetime:
    """Read a value's text as Python has it; times rounded down to the microsecond, ``timestamptz`` in UTC.

    :raises ValueError: as :func:`to_ordinal`.
    """
    ordinal = to_ordinal(text, type_)
    match type_.name:
        case "decimal":
            return Decimal(text)
        case "binary":
            return bytes.fromhex(text[2:])
        case "date":
            return date.fromordinal(ordinal)
        case "timestamp" | "timestamptz":
            moment = datetime.min + timedelta(microseconds=ordinal // 10)
            return moment.replace(tzinfo=UTC) if type_.name == "timestamptz" else moment
    return ordinal


def lag_ordinal(lag: timedelta, type_: DataType) -> int:
    """Return a lag in the ordinals of a type: whole days for dates, rounded up; 0 for types that count no time."""
    match type_.name:
        case "date":
            return -(-lag // timedelta(days=1))
        case "timestamp" | "timestamptz":
            return lag // timedelta(microseconds=1) * 10
    return 0


def cut(column: str, type_: DataType, lowest: str, highest: str, count: int) -> tuple[Slice, ...]:
    """Cut [``lowest``, ``highest``] into at most ``count`` slices of equal range; the outer bounds stay open.

    There are fewer where the range has fewer values. Equal ranges hold unequal numbers of rows where the values are
    skewed; the slices still cover every row exactly once.
    """
    first, last = to_ordinal(lowest, type_), to_ordinal(highest, type_)
    inner = sorted({first + (last + 1 - first) * part // count for part in range(1, count)} - {first})
    bounds: Sequence[str | None] = [None, *(from_ordinal(bound, type_) for bound in inner), None]
    total = len(bounds) - 1
    return tuple(
        Slice(index, total, column if total > 1 else None, lower, upper)
        for index, (lower, upper) in enumerate(pairwise(bounds), 1)
    )
