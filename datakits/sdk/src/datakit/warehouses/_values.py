"""Values that Arrow holds and a warehouse does not: found in whole columns at a time, named by column and key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datakit.errors import ValueRefused
from datakit.model.load import LoadRequest

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Limits:
    """What a warehouse can hold.

    :ivar ranges: contract type → lowest and highest value, in the units of its Arrow type (days, microseconds).
    :ivar nul: whether text may hold U+0000.
    """

    ranges: Mapping[str, tuple[int, int]]
    nul: bool


def check_values(batch: pa.RecordBatch, request: LoadRequest, limits: Limits) -> None:
    """Check a batch before it leaves this process.

    :raises ValueRefused: a value cannot be kept; names column and row.
    """
    for number, column in enumerate(request.columns):
        if (bounds := limits.ranges.get(column.type.name)) is not None:
            _check_range(batch, number, request, bounds)
        elif column.type.name == "string" and not limits.nul:
            _check_nul(batch, number, request)


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
    if b"\0" in data.slice(start, stop - start).to_pybytes():
        row = pc.index(pc.fill_null(pc.match_substring(values, "\0"), False), True).as_py()
        if row >= 0:
            raise refused(batch, row, number, request, "the text holds U+0000")


def refused(batch: pa.RecordBatch, row: int, number: int, request: LoadRequest, why: str) -> ValueRefused:
    """Build the error for one value of a batch."""
    names = [column.name for column in request.columns]
    at = {name: batch.column(names.index(name))[row] for name in request.key if name in names}
    where = describe_key({name: value.as_py() for name, value in at.items()}) if at else f"row {row + 1} of its batch"
    return ValueRefused(
        f"the column {names[number]!r} has a value that the warehouse cannot keep: {why} ({where})",
        subject=str(request.table),
        fix="correct the row at the source, or convert the column in the dataset's SQL",
    )


def describe_key(key: Mapping[str, Any]) -> str:
    """Write a row's key for a message: ``id = 5, day = '2020-01-01'``; long values are cut."""
    return ", ".join(f"{name} = {_short(value)}" for name, value in key.items())


def _short(value: Any) -> str:
    text = "NULL" if value is None else repr(value) if isinstance(value, (str, bytes)) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
