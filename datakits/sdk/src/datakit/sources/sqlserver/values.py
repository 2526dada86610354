"""Values of cursor and slice columns in T-SQL: the literal to compare with, and how to read the highest as text.

A literal has the column's own type. Comparing a ``datetime`` with a ``datetime2`` would compare 1/300 s ticks with
exact time, and lose or repeat the row at the boundary; comparing a ``bigint`` with a number without a type would give
up the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from datakit.errors import InvalidCursor
from datakit.model.types import DataType
from datakit.sources.notation import TICKS_PER_SECOND, from_ordinal, to_ordinal
from datakit.sources.sqlserver.names import quote
from datakit.sources.sqlserver.type_table import TYPE_TABLE, LiveColumn

_TIMES: Final = frozenset({"datetime", "smalldatetime", "datetime2", "datetimeoffset"})
_INTEGERS: Final = frozenset({"tinyint", "smallint", "int", "bigint"})
_EARLIEST: Final = {"datetime": "1753-01-01", "smalldatetime": "1900-01-01"}
_RANGES: Final = {
    "tinyint": (0, 255),
    "smallint": (-(2**15), 2**15 - 1),
    "int": (-(2**31), 2**31 - 1),
    "bigint": (-(2**63), 2**63 - 1),
}


@dataclass(frozen=True, slots=True)
class OrderedColumn:
    """A column whose values can be compared, as a cursor or for slices."""

    column: LiveColumn
    type: DataType

    @classmethod
    def of(cls, column: LiveColumn, *, where: str) -> OrderedColumn:
        """Take a column that serves as a cursor.

        :raises InvalidCursor: its values have no order that means "later".
        """
        name = column.type_name
        if name in {"decimal", "numeric"}:
            type_ = DataType("decimal", column.precision, column.scale)
        elif name in _TIMES | _INTEGERS | {"date", "money", "smallmoney", "timestamp"}:
            type_ = DataType.parse(TYPE_TABLE[name].contract)
        else:
            raise InvalidCursor(
                f"a {column.declared} column has no order that means later",
                subject=f"{where}.{column.name}",
                fix="choose a modified-at time, an identity or a rowversion",
            )
        return cls(column, type_)

    @property
    def is_rowversion(self) -> bool:
        """Whether the server counts it up at every change, over all tables of the database."""
        return self.column.type_name == "timestamp"

    @property
    def is_time(self) -> bool:
        """Whether it tells the time, so that a lag means something."""
        return self.column.type_name in _TIMES or self.column.type_name == "date"

    def as_text(self, expression: str) -> str:
        """Return SQL that writes ``expression``, a value of this column, as text without loss."""
        match self.column.type_name:
            case "date":
                return f"CONVERT(varchar(10), {expression}, 23)"
            case "datetime" | "smalldatetime" | "datetime2":
                return f"CONVERT(varchar(27), {expression}, 126)"
            case "datetimeoffset":
                utc = f"CONVERT(datetime2(7), SWITCHOFFSET({expression}, '+00:00'))"
                return f"CONVERT(varchar(27), {utc}, 126)"
            case "money" | "smallmoney":
                return f"CONVERT(varchar(40), {expression}, 2)"
            case "timestamp":
                return f"CONVERT(varchar(18), CONVERT(binary(8), {expression}), 1)"
        return f"CONVERT(varchar(40), {expression})"

    def normal(self, text: str) -> str:
        """Return the text as a Window or Slice holds it."""
        return from_ordinal(to_ordinal(text, self.type), self.type)

    def literal(self, text: str) -> str:
        """Return SQL for a value, in the column's own type.

        :raises InvalidCursor: the text is no such value.
        """
        name = self.column.type_name
        try:
            ordinal = self.on_grid(to_ordinal(text, self.type))
        except ValueError as error:
            raise InvalidCursor(
                f"{text!r} is no value of a {self.column.declared} column: {error}", subject=self.column.name
            ) from None
        if name in _RANGES:
            lowest, highest = _RANGES[name]
            # A bound beyond the type's own range compares the same in the widest type.
            return f"CONVERT({name if lowest <= ordinal <= highest else 'decimal(38,0)'}, {ordinal})"
        if name == "timestamp":
            return f"0x{ordinal:016X}"
        value = from_ordinal(ordinal, self.type)
        match name:
            case "date":
                return f"CONVERT(date, '{value}', 23)"
            case "datetime" | "smalldatetime":
                return f"CONVERT({name}, '{value[:23]}', 126)"
            case "datetime2":
                return f"CONVERT(datetime2(7), '{value}', 126)"
            case "datetimeoffset":
                return f"CONVERT(datetimeoffset(7), '{value}', 127)"
        return f"CONVERT({self.column.declared}, {value})"

    def on_grid(self, ordinal: int) -> int:
        """Round a time down to what the column can hold, so that a bound means one value and not two."""
        name = self.column.type_name
        if name not in _TIMES:
            return ordinal
        if name in _EARLIEST:
            ordinal = max(ordinal, to_ordinal(_EARLIEST[name], self.type))
        step = {"datetime": TICKS_PER_SECOND // 1000, "smalldatetime": 60 * TICKS_PER_SECOND}.get(name)
        step = step or 10 ** (7 - self.column.scale)
        return max(0, ordinal) // step * step

    @property
    def quoted(self) -> str:
        """The column's name as SQL."""
        return quote(self.column.name)
