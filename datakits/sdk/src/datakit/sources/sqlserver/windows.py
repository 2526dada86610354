"""Deciding what an incremental load reads: the window on the cursor column.

``merge`` reads from the stored value minus the lag, inclusive, without an end. ``append`` must read each row once, so
it starts after the stored value and stays the lag behind the present: a row that commits late, with an older value, is
still ahead of the cursor. A rowversion is stored up to the oldest transaction that is still open, and no further.
"""

from __future__ import annotations

from typing import Final

from datakit.errors import InvalidCursor
from datakit.model.load import Window
from datakit.model.manifest import Cursor, LoadMode
from datakit.model.types import DataType
from datakit.sources.notation import TICKS_PER_SECOND, from_ordinal, lag_ordinal, to_ordinal
from datakit.sources.sqlserver.catalog import LiveRelation
from datakit.sources.sqlserver.driver import Connection
from datakit.sources.sqlserver.values import OrderedColumn

_DAY: Final = 86_400 * TICKS_PER_SECOND
_ZONE_STEP: Final = 15 * 60 * TICKS_PER_SECOND
_INSTANT: Final = DataType("timestamp")


def plan_window(
    connection: Connection, relation: LiveRelation, cursor: Cursor, mode: LoadMode, since: str | None, *, where: str
) -> tuple[Window, bool]:
    """Return the window, and whether the source knows that it holds no row.

    :raises InvalidCursor: the column cannot serve, or its highest value lies before ``since``.
    """
    live = relation.column(cursor.column)
    subject = f"{where}.{cursor.column}"
    if live is None:
        raise InvalidCursor(
            "the cursor column does not exist", subject=subject, fix="compare with: datakit contract pull"
        )
    column = OrderedColumn.of(live, where=where)
    if live.nullable:
        _refuse_nulls(connection, relation, column, subject)
    if mode is LoadMode.REPLACE:
        since = None
    if column.is_rowversion:
        return _rowversion_window(connection, column, mode, since, subject)
    highest = connection.rows(relation.relation.select([column.as_text(f"MAX({column.quoted})")]), subject=where)[0][0]
    if highest is None:
        return Window(live.name, since, since), since is not None
    top = to_ordinal(highest, column.type)
    stored = None if since is None else _stored(since, column, subject)
    if stored is not None and top < stored:
        raise _runs_backwards(from_ordinal(top, column.type), str(since), subject)
    lag = lag_ordinal(cursor.lag, column.type)
    if mode is not LoadMode.APPEND:
        changed_after = top
        if column.is_time:
            present = _present(connection, column, top)
            changed_after = column.on_grid(present - lag) - 1  # a change is stamped with the lag at most before now
            # A row from the future (a clock that is ahead, another time zone) must not become the cursor: the changes
            # made until then would lie before it. Below the present it is read again in each run, which harms nothing.
            top = column.on_grid(min(top, present))
        start = None if stored is None else from_ordinal(stored - lag, column.type)
        until, after = from_ordinal(top, column.type), from_ordinal(changed_after, column.type)
        return Window(live.name, start, until, since_inclusive=True, changed_after=after), False
    if column.type.name == "date":
        lag = max(1, lag)  # rows of today go on arriving until midnight
    if column.is_time and lag:
        top = column.on_grid(min(top, _present(connection, column, top) - lag))
    if stored is not None and top <= stored:
        return Window(live.name, since, since, bounded=True), True
    return Window(live.name, since, from_ordinal(top, column.type), bounded=True), False


def conditions(window: Window, column: OrderedColumn) -> list[str]:
    """Write a window as SQL."""
    found = []
    if window.since is not None:
        found.append(f"{column.quoted} {'>=' if window.since_inclusive else '>'} {column.literal(window.since)}")
    if window.bounded and window.until is not None:
        found.append(f"{column.quoted} <= {column.literal(window.until)}")
    return found


def _stored(since: str, column: OrderedColumn, subject: str) -> int:
    try:
        return to_ordinal(since, column.type)
    except ValueError as error:
        raise InvalidCursor(
            f"the stored cursor {since!r} is no value of a {column.column.declared} column: {error}",
            subject=subject,
            cause="the cursor column or its type was changed after the last load",
            fix="load everything again: --full",
        ) from None


def _runs_backwards(highest: str, since: str, subject: str) -> InvalidCursor:
    return InvalidCursor(
        f"the source's highest value is {highest}, below {since}, which was loaded before",
        subject=subject,
        cause="the source was restored from an older backup, or its newest rows were deleted",
        fix="load everything again: --full",
    )


def _refuse_nulls(connection: Connection, relation: LiveRelation, column: OrderedColumn, subject: str) -> None:
    if connection.rows(relation.relation.select(["1 AS [found]"], [f"{column.quoted} IS NULL"], top=1)):
        raise InvalidCursor(
            "the cursor column holds NULLs, and a row without a value would never be read",
            subject=subject,
            fix="choose a NOT NULL column, or read with sql: and COALESCE it there",
        )


def _rowversion_window(
    connection: Connection, column: OrderedColumn, mode: LoadMode, since: str | None, subject: str
) -> tuple[Window, bool]:
    active = connection.rows("SELECT CONVERT(varchar(18), MIN_ACTIVE_ROWVERSION(), 1)", subject=subject)[0][0]
    top = to_ordinal(active, column.type) - 1
    until = from_ordinal(top, column.type)
    stored = None if since is None else _stored(since, column, subject)
    if stored is not None and top < stored:
        raise _runs_backwards(until, str(since), subject)
    bounded = mode is LoadMode.APPEND
    window = Window(column.column.name, since, until, bounded=bounded, changed_after=None if bounded else until)
    return window, bounded and stored == top


def _present(connection: Connection, column: OrderedColumn, top: int) -> int:
    """Return the present, in the clock that the column is written with.

    A column without offset may hold UTC or local time. Only if its newest value is later than the earlier of both
    clocks, by more than clocks differ by mistake, can it be written with the later one. Guessing the earlier one is
    safe: rows are then read later, never lost.
    """
    earlier, later = _clocks(connection)
    if column.type.name == "date":
        return earlier // _DAY + 1
    if column.type.name == "timestamptz":
        utc = connection.rows("SELECT CONVERT(varchar(27), SYSUTCDATETIME(), 126)")[0][0]
        return to_ordinal(utc, _INSTANT)
    return later if top > earlier + _ZONE_STEP - TICKS_PER_SECOND * 60 else earlier


def _clocks(connection: Connection) -> tuple[int, int]:
    row = connection.rows(
        "SELECT CONVERT(varchar(27), SYSUTCDATETIME(), 126), CONVERT(varchar(27), SYSDATETIME(), 126)"
    )[0]
    earlier, later = sorted(to_ordinal(text, _INSTANT) for text in row)
    return earlier, later
