"""From the driver's Arrow batches to the contract's: casts that lose nothing, and the row's key where one would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datakit.errors import ContractMismatch, SourceUnavailable, ValueRefused
from datakit.sources.sqlserver.type_table import LOB_WIDTH, Field, Guard

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGET_BYTES: Final = 3 * 512 * 1024
"""Bytes of one batch, about. Larger ones take memory, several times for each connection, and were not faster."""

_MOST_ROWS: Final = 65_536
_GROWTH: Final = 8
_PIECE: Final = 1 << 20
"""Bytes that are copied at a time to be searched, so that a value of a gigabyte is not there twice."""

_SURROGATE: Final = "\N{REPLACEMENT CHARACTER}"


class BatchSizer:
    """Says how many rows to fetch next, so that a batch has about :data:`TARGET_BYTES`.

    Where every column has a declared width, the driver sets aside that width for every value, so it alone counts.
    Columns without a limit begin with one row, and grow with what the rows turn out to hold.
    """

    def __init__(self, widths: Iterable[int]) -> None:
        widths = list(widths)
        self._declared = sum(width for width in widths if width != LOB_WIDTH) + len(widths)
        self._most = max(1, min(_MOST_ROWS, TARGET_BYTES // self._declared))
        self._adapts = LOB_WIDTH in widths
        self.rows = 1 if self._adapts else self._most

    def learn(self, batch: pa.RecordBatch) -> None:
        """Take the size of a batch into account."""
        if self._adapts and batch.num_rows:
            fitting = TARGET_BYTES * batch.num_rows // max(1, batch.nbytes)
            self.rows = max(1, min(self._most, fitting, self.rows * _GROWTH))


@dataclass(frozen=True, slots=True)
class Converter:
    """Turns batches of the driver into batches of the contract.

    :ivar fields: in the order of the SELECT, which is the contract's; after them the driver's batches have one more
        column where there are ``guards``: 1-based, which guard a row breaks, or NULL.
    :ivar key: the contract's key, to say which row it is.
    """

    fields: tuple[Field, ...]
    guards: tuple[Guard, ...]
    key: tuple[str, ...]
    schema: pa.Schema
    subject: str

    def convert(self, batch: pa.RecordBatch, rows_before: int) -> pa.RecordBatch:
        """Convert one batch.

        :param rows_before: rows of earlier batches, to say which row it is where there is no key.
        :raises ValueRefused: a value cannot be kept; names the column and the row.
        :raises ContractMismatch: the column is now of another type.
        """
        if self.guards:
            self._obey_guards(batch, rows_before)
        arrays = [self._column(batch, index, rows_before) for index in range(len(self.fields))]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def suspects(self, batch: pa.RecordBatch) -> list[Field]:
        """Return the columns in which the driver may have replaced half a surrogate pair by U+FFFD."""
        found = []
        for index, field in enumerate(self.fields):
            if field.is_utf16 and _holds_replacement(batch.column(index)):
                found.append(field)
        return found

    def describe_row(self, batch: pa.RecordBatch, row: int, rows_before: int) -> str:
        """Name a row by its key, or by its place where there is none."""
        names = [field.column.name for field in self.fields]
        if self.key and all(name in names for name in self.key):
            return ", ".join(f"{name}={_shown(batch.column(names.index(name))[row].as_py())}" for name in self.key)
        return f"number {rows_before + row + 1} of its slice (the dataset has no key)"

    def _obey_guards(self, batch: pa.RecordBatch, rows_before: int) -> None:
        broken = batch.column(len(self.fields))
        if broken.null_count == len(broken):
            return
        row = pc.index(pc.is_valid(broken), True).as_py()
        guard = self.guards[broken[row].as_py() - 1]
        kind = SourceUnavailable if guard.passes else ValueRefused
        raise kind(
            f"column {guard.column!r} {guard.complaint}; row {self.describe_row(batch, row, rows_before)}",
            subject=self.subject,
            fix=guard.fix,
        )

    def _column(self, batch: pa.RecordBatch, index: int, rows_before: int) -> pa.Array:
        field, array = self.fields[index], batch.column(index)
        target = self.schema.field(index)
        if field.lowers:
            array = pc.ascii_lower(array)
        if array.type != target.type:
            try:
                # time(7) arrives in nanoseconds; where its last digit may not be lost, a guard has seen to it
                array = array.cast(options=pc.CastOptions(target.type, allow_time_truncate=True))
            except pa.ArrowNotImplementedError:
                raise ContractMismatch(
                    f"column {field.column.name!r} arrives as {array.type}, and the contract says {field.column.type}",
                    subject=self.subject,
                    cause="its type was changed after the contract was written",
                    fix="see what drifted: datakit contract check",
                ) from None
            except pa.ArrowInvalid as error:
                row = _first_refused(array, target.type)
                raise ValueRefused(
                    f"column {field.column.name!r} holds a value that {field.column.type} does not: {error}; row "
                    f"{self.describe_row(batch, row, rows_before)}",
                    subject=self.subject,
                    cause="the column was widened after the contract was written",
                    fix="see what drifted: datakit contract check",
                ) from None
        if not target.nullable and array.null_count:
            row = pc.index(pc.is_null(array), True).as_py()
            raise ContractMismatch(
                f"column {field.column.name!r} holds NULL, and the contract says not null; row "
                f"{self.describe_row(batch, row, rows_before)}",
                subject=self.subject,
                fix="see what drifted: datakit contract check",
            )
        return array


def _holds_replacement(array: pa.Array) -> bool:
    # The bytes of a string array lie in its last buffer; one search of it costs less than a look at every value.
    data = array.buffers()[-1]
    if data is None:
        return False
    needle = _SURROGATE.encode()
    overlap = len(needle) - 1  # what is looked for may lie across two pieces
    return any(
        needle in data.slice(at, min(_PIECE + overlap, data.size - at)).to_pybytes()
        for at in range(0, data.size, _PIECE)
    )


def _first_refused(array: pa.Array, target: pa.DataType) -> int:
    """Find the row by halving, since Arrow does not say which one it was."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            array.slice(low, middle - low).cast(target)
        except pa.ArrowInvalid:
            high = middle
        else:
            low = middle
    return low


def _shown(value: Any) -> str:
    return f"0x{value.hex().upper()}" if isinstance(value, bytes) else repr(value)


def guard_expression(guards: Sequence[Guard]) -> str:
    """Write the one extra column that says which guard a row breaks. One, so that it costs a byte for each row."""
    whens = " ".join(f"WHEN {guard.condition} THEN {number}" for number, guard in enumerate(guards, 1))
    return f"CONVERT(smallint, CASE {whens} END)"
