"""A source system in memory, for tests: tables are Arrow tables that a test may change, and faults happen on request.

It keeps every law of :class:`datakit.sources.Source`, so that what passes against it is about the code under test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import InvalidCursor, InvalidKey, LoginRefused, SourceUnavailable, UnsupportedType
from datakit.model.contract import Column, Contract
from datakit.model.load import ReadPlan, Slice, Window
from datakit.model.manifest import Dataset, LoadMode
from datakit.model.types import DataType
from datakit.sources.notation import can_slice, cut, from_ordinal, lag_ordinal, to_ordinal, to_value

__all__ = ["ArrowSource", "Fault"]

_EPOCH_TICKS: Final = to_ordinal("1970-01-01", DataType("timestamp"))
_EPOCH_DAYS: Final = to_ordinal("1970-01-01", DataType("date"))


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    :ivar error: raised; in :meth:`ArrowSource.read` after ``after_rows`` rows were yielded.
    :ivar stalls: stop instead after ``after_rows`` rows until the stream is closed, which ends it as a dropped
        connection.
    :ivar loses: leave that many rows out silently, at the end of the slice; ``server_count`` still counts them.
    :ivar slice_index: only in this slice.
    :ivar times: how often it happens before all is well again; None for ever.
    """

    error: BaseException | None = None
    at: Literal["describe", "plan", "read"] = "read"
    after_rows: int = 0
    stalls: bool = False
    loses: int = 0
    slice_index: int | None = None
    times: int | None = 1


class ArrowSource:
    """A :class:`datakit.sources.Source` over Arrow tables.

    :param tables: by the name that a dataset's ``table`` (or ``sql``) has. Arrow types must be those of a contract
        (:meth:`datakit.model.types.DataType.arrow`); a field that is not nullable is NOT NULL. Assign to
        :attr:`tables` to change one; open streams keep the rows that they began with.
    :param keys: the declared key of each table; a dataset's own ``key`` wins.
    :param now: the source's clock, for the ``lag`` of appends.
    :param batch_rows: rows in a batch, at most.
    :param counts: whether ``server_count`` is known.
    :ivar on_batch: called with the dataset's table and the batch just before each batch is yielded.
    :ivar reads: each read so far, as (table, slice).
    """

    def __init__(
        self,
        tables: Mapping[str, pa.Table],
        *,
        keys: Mapping[str, Sequence[str]] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        batch_rows: int = 1024,
        counts: bool = True,
    ) -> None:
        self.tables: dict[str, pa.Table] = dict(tables)
        self.keys = {name: tuple(key) for name, key in (keys or {}).items()}
        self.now = now
        self.batch_rows = batch_rows
        self.counts = counts
        self.on_batch: Callable[[str, pa.RecordBatch], None] | None = None
        self.reads: list[tuple[str, Slice]] = []
        self._faults: dict[str, list[Fault]] = {}
        self._streams: set[_ArrowStream] = set()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def open_streams(self) -> int:
        """How many streams are not closed yet; 0 after a run, or somebody leaks connections."""
        with self._lock:
            return len(self._streams)

    def inject(self, table: str, fault: Fault) -> None:
        """Let something go wrong with a table; faults happen in the order in which they were injected."""
        with self._lock:
            self._faults.setdefault(table, []).append(fault)

    def describe(self, name: str, dataset: Dataset) -> Contract:
        """Implement :meth:`datakit.sources.Source.describe`."""
        self._raise_fault(dataset, "describe")
        table = self._table(dataset)
        key = dataset.key or self.keys.get(_name(dataset), ())
        columns = [_column(field, where=_name(dataset)) for field in table.schema]
        _check_key(key, columns, where=_name(dataset))
        return Contract(dataset=name, key=key, columns=tuple(columns))

    def plan(
        self, dataset: Dataset, contract: Contract, *, mode: LoadMode, since: str | None, slices: int | None
    ) -> ReadPlan:
        """Implement :meth:`datakit.sources.Source.plan`."""
        self._raise_fault(dataset, "plan")
        table = self._table(dataset)
        window, empty = None, False
        if dataset.cursor is not None:
            window, empty = self._window(dataset, contract, table, mode, since)
        rows = table.num_rows if window is None else _select(table, contract, window, Slice()).num_rows
        cuts: tuple[Slice, ...] = (Slice(),)
        if dataset.slices is not None and not empty:
            wanted = slices if slices is not None else -(-rows // dataset.slices.rows)
            cuts = _cut(table, contract, dataset.slices.column, max(1, wanted))
        return ReadPlan(window, cuts, estimated_rows=rows, empty=empty)

    def read(self, dataset: Dataset, contract: Contract, window: Window | None, slice_: Slice) -> _ArrowStream:
        """Implement :meth:`datakit.sources.Source.read`."""
        table = _select(self._table(dataset), contract, window, slice_)
        stream = _ArrowStream(self, _name(dataset), table, self._take_fault(dataset, "read", slice_))
        with self._lock:
            self.reads.append((_name(dataset), slice_))
            self._streams.add(stream)
        return stream

    def close(self) -> None:
        """Implement :meth:`datakit.sources.Source.close`."""
        self._closed = True
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()

    def _table(self, dataset: Dataset) -> pa.Table:
        if self._closed:
            raise SourceUnavailable("the source is closed", subject=_name(dataset))
        try:
            return self.tables[_name(dataset)]
        except KeyError:
            raise LoginRefused("there is no such table", subject=_name(dataset)) from None

    def _take_fault(self, dataset: Dataset, at: str, slice_: Slice | None = None) -> Fault | None:
        with self._lock:
            faults = self._faults.get(_name(dataset), [])
            for place, fault in enumerate(faults):
                if fault.at != at or (slice_ and fault.slice_index not in {None, slice_.index}):
                    continue
                if fault.times is not None:
                    faults[place : place + 1] = [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
                return fault
        return None

    def _raise_fault(self, dataset: Dataset, at: str) -> None:
        fault = self._take_fault(dataset, at)
        if fault is not None and fault.error is not None:
            raise fault.error

    def _window(
        self, dataset: Dataset, contract: Contract, table: pa.Table, mode: LoadMode, since: str | None
    ) -> tuple[Window, bool]:
        if dataset.cursor is None:
            raise AssertionError("called only for a dataset with a cursor")
        column = contract.column(dataset.cursor.column)
        where = f"{_name(dataset)}.{dataset.cursor.column}"
        if column is None or not column.type.is_ordered:
            raise InvalidCursor("the cursor is no column that has an order", subject=where)
        values = table[column.name]
        if values.null_count:
            raise InvalidCursor("the cursor column has NULLs", subject=where)
        if mode is LoadMode.REPLACE:
            since = None
        if not table.num_rows:
            return Window(column.name, since, since), since is not None
        highest = max(_text(values, "min", column.type), _text(values, "max", column.type), key=_order(column.type))
        top = to_ordinal(highest, column.type)
        if since is not None and top < to_ordinal(since, column.type):
            raise InvalidCursor(
                f"the source's highest value is {highest}, below {since}, which was loaded before",
                subject=where,
                cause="the source was restored from an older backup",
                fix="load everything again: --full",
            )
        lag = lag_ordinal(dataset.cursor.lag, column.type)
        now = to_ordinal(self.now().astimezone(UTC).isoformat(), DataType("timestamptz"))
        limit = now // 864_000_000_000 + 1 if column.type.name == "date" else now
        if mode is not LoadMode.APPEND:
            start = None if since is None else from_ordinal(to_ordinal(since, column.type) - lag, column.type)
            is_time = column.type.name in {"date", "timestamp", "timestamptz"}
            after = from_ordinal(limit - lag - 1, column.type) if is_time else highest
            return Window(column.name, start, highest, since_inclusive=True, changed_after=after), False
        if lag:
            top = min(top, limit - lag)
        until = from_ordinal(top, column.type)
        if since is not None and top <= to_ordinal(since, column.type):
            return Window(column.name, since, since, bounded=True), True
        return Window(column.name, since, until, bounded=True), False


class _ArrowStream:
    """One slice of an :class:`ArrowSource`."""

    def __init__(self, source: ArrowSource, name: str, table: pa.Table, fault: Fault | None) -> None:
        self._source = source
        self._name = name
        self._table = table
        self._fault = fault
        self._done = False
        self._closed = threading.Event()

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    @property
    def server_count(self) -> int | None:
        return self._table.num_rows if self._done and self._source.counts else None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        fault = self._fault or Fault()
        interrupts = fault.error is not None or fault.stalls
        end = fault.after_rows if interrupts else self._table.num_rows - fault.loses
        for batch in self._table.slice(0, max(0, end)).to_batches(max_chunksize=self._source.batch_rows):
            if self._closed.is_set():
                raise SourceUnavailable("the stream was closed while it was read", subject=self._name)
            if self._source.on_batch is not None:
                self._source.on_batch(self._name, batch)
            yield batch
        if fault.stalls:
            self._closed.wait()
            raise SourceUnavailable("the stream was closed while it was read", subject=self._name)
        if fault.error is not None:
            raise fault.error
        self._done = True

    def close(self) -> None:
        self._closed.set()
        with self._source._lock:
            self._source._streams.discard(self)


def _name(dataset: Dataset) -> str:
    return dataset.table or dataset.sql or ""


def _column(field: pa.Field, *, where: str) -> Column:
    for name in ("boolean", "int16", "int32", "int64", "float32", "float64", "string", "binary", "date", "time"):
        if field.type == (type_ := DataType.parse(name)).arrow():
            return Column(name=field.name, type=type_, nullable=field.nullable, source_type=str(field.type))
    if pa.types.is_decimal128(field.type):
        type_ = DataType("decimal", field.type.precision, field.type.scale)
    elif pa.types.is_timestamp(field.type) and field.type.unit == "us" and field.type.tz in {None, "UTC"}:
        type_ = DataType("timestamptz" if field.type.tz else "timestamp")
    else:
        raise UnsupportedType(f"the type {field.type} is no type of a contract", subject=f"{where}.{field.name}")
    return Column(name=field.name, type=type_, nullable=field.nullable, source_type=str(field.type))


def _check_key(key: Sequence[str], columns: Sequence[Column], *, where: str) -> None:
    known = {column.name: column for column in columns}
    for name in key:
        if name not in known:
            raise InvalidKey(f"the key names {name!r}, which is not a column", subject=where)
        if known[name].nullable:
            raise InvalidKey(f"the key column {name!r} is nullable", subject=where)


def _scalar(text: str, type_: DataType) -> pa.Scalar:
    return pa.scalar(to_value(text, type_), type_.arrow())


def _text(values: pa.ChunkedArray, function: Literal["min", "max"], type_: DataType) -> str:
    value = pc.min_max(values)[function]
    match type_.name:
        case "binary":
            return f"0x{value.as_py().hex().upper()}"
        case "date":
            return from_ordinal(value.cast(pa.int32()).as_py() + _EPOCH_DAYS, type_)
        case "timestamp" | "timestamptz":
            return from_ordinal(value.cast(pa.int64()).as_py() * 10 + _EPOCH_TICKS, type_)
    return str(value.as_py())


def _order(type_: DataType) -> Callable[[str], int]:
    return lambda text: to_ordinal(text, type_)


def _cut(table: pa.Table, contract: Contract, name: str, count: int) -> tuple[Slice, ...]:
    column = contract.column(name)
    if column is None or not can_slice(column.type):
        raise InvalidKey(f"{name!r} is no integer or time column to cut into slices", subject=contract.dataset)
    if not table.num_rows or count == 1:
        return (Slice(),)
    values = table[name]
    return cut(name, column.type, _text(values, "min", column.type), _text(values, "max", column.type), count)


def _select(table: pa.Table, contract: Contract, window: Window | None, slice_: Slice) -> pa.Table:
    conditions = []
    if window is not None:
        type_ = _type(contract, window.column)
        if window.since is not None:
            compare = pc.greater_equal if window.since_inclusive else pc.greater
            conditions.append(compare(table[window.column], _scalar(window.since, type_)))
        if window.bounded and window.until is not None:
            conditions.append(pc.less_equal(table[window.column], _scalar(window.until, type_)))
    if slice_.column is not None:
        type_ = _type(contract, slice_.column)
        if slice_.lower is not None:
            conditions.append(pc.greater_equal(table[slice_.column], _scalar(slice_.lower, type_)))
        if slice_.upper is not None:
            conditions.append(pc.less(table[slice_.column], _scalar(slice_.upper, type_)))
    for condition in conditions[1:]:
        conditions[0] = pc.and_(conditions[0], condition)
    if conditions:
        table = table.filter(conditions[0])
    return table.select([column.name for column in contract.columns]).cast(contract.arrow_schema())


def _type(contract: Contract, name: str) -> DataType:
    column = contract.column(name)
    if column is None:
        raise InvalidCursor(f"{name!r} is not a column of the contract", subject=contract.dataset)
    return column.type
