"""Values that Arrow holds and a warehouse does not: found in whole columns at a time, named by column and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from datakit.errors import ValueRefused
from datakit.model.load import LoadRequest

if TYPE_CHECKING:
    import pyarrow as pa

_PIECE: Final = 1 << 20
"""Bytes that are copied at a time to be searched, so that a value of a gigabyte is not there twice."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a warehouse can hold.

    :ivar ranges: contract type → lowest and highest value, in the units of its Arrow type (days, microseconds).
    :ivar nul: whether text may hold U+0000.
    :ivar row_bytes: how many bytes the texts and binaries of one row may have, together.
    :ivar larger: what to do about a row that has more.
    """

    ranges: Mapping[str, tuple[int, int]]
    nul: bool
    row_bytes: int
    larger: str


def check_values(batch: pa.RecordBatch, request: LoadRequest, limits: Limits) -> None:
    """Check a batch before it leaves this process.

    :raises ValueRefused: a value cannot be kept; names column and row.
    """
    _check_size(batch, request, limits)
    for number, column in enumerate(request.columns):
        if (bounds := limits.ranges.get(column.type.name)) is not None:
            _check_range(batch, number, request, bounds)
        elif column.type.name == "string" and not limits.nul:
            _check_nul(batch, number, request)


def _check_size(batch: pa.RecordBatch, request: LoadRequest, limits: Limits) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = [number for number, column in enumerate(request.columns) if column.type.name in {"string", "binary"}]
    # how much the values of a column have together, its buffers know; only where that is too much are rows looked at
    if sum(batch.column(number).nbytes for number in numbers) <= limits.row_bytes:
        return
    sizes = {n: pc.fill_null(pc.binary_length(batch.column(n)), 0).cast(pa.int64()) for n in numbers}
    totals = reduce(pc.add, sizes.values())
    row = pc.index(pc.greater(totals, limits.row_bytes), True).as_py()
    if row >= 0:
        largest = max(numbers, key=lambda number: sizes[number][row].as_py())
        why = f"its row has {totals[row].as_py():,} bytes of text and binaries, {limits.row_bytes:,} are the most"
        raise refused(batch, row, largest, request, why, fix=limits.larger)


def _check_range(batch: pa.RecordBatch, number: int, request: LoadRequest, bounds: tuple[int, int]) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    values = batch.column(number)
    values = values.view(pa.int32() if values.type == pa.date32() else pa.int64())
    extremes = pc.min_max(values)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    if low is not None and (low < bounds[0] or high > bounds[1]):
        outside = pc.or_(pc.less(values, bounds[0]), pc.greater(values, bounds[1]))
        row = pc.index(outside, True).as_py()
        raise refused(batch, row, number, request, f"{values[row].as_py()} {batch.column(number).type} is out of range")


def _check_nul(batch: pa.RecordBatch, number: int, request: LoadRequest) -> None:
    import pyarrow.compute as pc

    values = batch.column(number)
    data = values.buffers()[2]
    if not len(values) or data is None:
        return
    # a search in the bytes of the whole column is a hundred times faster than one per value; only what it finds,
    # which may lie under a NULL, is looked at value by value
    offsets = memoryview(values.buffers()[1]).cast("i")
    start, stop = offsets[values.offset], offsets[values.offset + len(values)]
    if any(b"\0" in data.slice(at, min(_PIECE, stop - at)).to_pybytes() for at in range(start, stop, _PIECE)):
        row = pc.index(pc.fill_null(pc.match_substring(values, "\0"), False), True).as_py()
        if row >= 0:
            raise refused(batch, row, number, request, "the text holds U+0000")


def refused(
    batch: pa.RecordBatch,
    row: int,
    number: int,
    request: LoadRequest,
    why: str,
    *,
    fix: str = "correct the row at the source, or convert the column in the dataset's SQL",
) -> ValueRefused:
    """Build the error for one value of a batch."""
    names = [column.name for column in request.columns]
    at = {name: batch.column(names.index(name))[row] for name in request.key if name in names}
    where = describe_key({name: value.as_py() for name, value in at.items()}) if at else f"row {row + 1} of its batch"
    return ValueRefused(
        f"the column {names[number]!r} has a value that the warehouse cannot keep: {why} ({where})",
        subject=str(request.table),
        fix=fix,
    )


def describe_key(key: Mapping[str, Any]) -> str:
    """Write a row's key for a message: ``id = 5, day = '2020-01-01'``; long values are cut."""
    return ", ".join(f"{name} = {_short(value)}" for name, value in key.items())


def _short(value: Any) -> str:
    text = "NULL" if value is None else repr(value) if isinstance(value, (str, bytes)) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
