"""The T-SQL type table: how each type of SQL Server becomes a type of a contract, lossless or refused.

``docs/types.md`` shows it to people; a test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from datakit.errors import UnsupportedType
from datakit.model.contract import Column
from datakit.model.manifest import SubMicrosecond
from datakit.model.types import DataType
from datakit.sources.sqlserver.names import quote

LOB_WIDTH: Final = -1
"""Width of a value without a declared limit."""


@dataclass(frozen=True, slots=True)
class LiveColumn:
    """A column as the catalog has it.

    :ivar type_name: the system type, lower case; for a CLR type its own name.
    :ivar max_length: bytes, -1 for (max).
    :ivar is_clr: the type is made by an assembly of the company's own.
    """

    name: str
    type_name: str
    max_length: int = 0
    precision: int = 0
    scale: int = 0
    nullable: bool = True
    computed: bool = False
    hidden: bool = False
    is_clr: bool = False

    @property
    def declared(self) -> str:
        """The type as one writes it: ``nvarchar(50)``, ``decimal(19,4)``, ``datetime2(7)``."""
        match self.type_name:
            case "nvarchar" | "nchar":
                return f"{self.type_name}({'max' if self.max_length < 0 else self.max_length // 2})"
            case "varchar" | "char" | "varbinary" | "binary":
                return f"{self.type_name}({'max' if self.max_length < 0 else self.max_length})"
            case "decimal" | "numeric":
                return f"{self.type_name}({self.precision},{self.scale})"
            case "datetime2" | "time" | "datetimeoffset":
                return f"{self.type_name}({self.scale})"
            case "timestamp":
                return "rowversion"
        return self.type_name


@dataclass(frozen=True, slots=True)
class Guard:
    """A value that would be lost: ``condition`` finds it on the server, ``complaint`` says why it is refused.

    :ivar passes: it may be gone at the next try.
    """

    condition: str
    column: str
    complaint: str
    fix: str
    passes: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """One column of the contract, and how to select it.

    :ivar width: bytes that the driver sets aside for one value, :data:`LOB_WIDTH` without a declared limit.
    :ivar is_utf16: the driver transcodes it from UTF-16, where half a surrogate pair is possible.
    """

    column: Column
    expression: str
    width: int
    guards: tuple[Guard, ...] = ()
    lowers: bool = False
    is_utf16: bool = False
    bounded_type: str | None = None

    @property
    def can_narrow(self) -> bool:
        """Whether the type has a bounded sister that holds the same values, if they are short."""
        return self.bounded_type is not None

    def narrowed(self, longest: int) -> Field:
        """Return the field with a bounded type for values of at most ``longest`` bytes; itself if they are too long.

        A guard notices a value that grew since ``longest`` was measured.
        """
        if self.bounded_type is None or longest > _LONGEST_BOUNDED:
            return self
        room = max(16, 1 << (longest - 1).bit_length()) if longest else 16
        room = min(_LONGEST_BOUNDED, room)
        length = room // 2 if self.bounded_type == "nvarchar" else room
        grown = Guard(
            f"DATALENGTH({self.expression}) > {room}",
            self.column.name,
            f"grew beyond {room} bytes while it was read",
            "run again",
            passes=True,
        )
        width = 2 * room if self.bounded_type == "varchar" else room
        return replace(
            self,
            expression=f"CONVERT({self.bounded_type}({length}), {self.expression})",
            width=width,
            guards=(*self.guards, grown),
            bounded_type=None,
        )


@dataclass(frozen=True, slots=True)
class TypeRule:
    """One line of the table.

    :ivar contract: the type in the contract; ``p`` and ``s`` stand for the column's precision and scale.
    :ivar width: bytes for one value on the client; None where the column's length says it.
    :ivar select: SQL around the column, ``{}``.
    """

    contract: str
    note: str
    width: int | None = None
    select: str = "{}"
    lowers: bool = False
    is_utf16: bool = False


_SENTINEL: Final = "9999-12-31 23:59:59.9999999 lands as the last microsecond of that day"
_HUNDRED_NS: Final = "sub_microsecond decides about the 100 ns digit of scale 7"

# The base type decides how the value is written, because CAST alone would round floats to 6 digits, money to 2,
# and drop the seconds of a datetime.
_VARIANT: Final = """CASE CONVERT(nvarchar(128), SQL_VARIANT_PROPERTY({0}, 'BaseType'))
 WHEN 'float' THEN CONVERT(nvarchar(max), CONVERT(float, {0}), 3)
 WHEN 'real' THEN CONVERT(nvarchar(max), CONVERT(real, {0}), 3)
 WHEN 'money' THEN CONVERT(nvarchar(max), CONVERT(money, {0}), 2)
 WHEN 'smallmoney' THEN CONVERT(nvarchar(max), CONVERT(smallmoney, {0}), 2)
 WHEN 'date' THEN CONVERT(nvarchar(max), CONVERT(date, {0}), 23)
 WHEN 'time' THEN CONVERT(nvarchar(max), CONVERT(time(7), {0}), 121)
 WHEN 'datetime' THEN CONVERT(nvarchar(max), CONVERT(datetime, {0}), 126)
 WHEN 'smalldatetime' THEN CONVERT(nvarchar(max), CONVERT(smalldatetime, {0}), 126)
 WHEN 'datetime2' THEN CONVERT(nvarchar(max), CONVERT(datetime2(7), {0}), 126)
 WHEN 'datetimeoffset' THEN CONVERT(nvarchar(max), CONVERT(datetimeoffset(7), {0}), 126)
 WHEN 'binary' THEN CONVERT(nvarchar(max), CONVERT(varbinary(8000), {0}), 1)
 WHEN 'varbinary' THEN CONVERT(nvarchar(max), CONVERT(varbinary(8000), {0}), 1)
 WHEN 'char' THEN CONVERT(nvarchar(max), CONVERT(varchar(8000), {0}))
 WHEN 'varchar' THEN CONVERT(nvarchar(max), CONVERT(varchar(8000), {0}))
 ELSE CONVERT(nvarchar(max), CONVERT(nvarchar(4000), {0})) END"""

TYPE_TABLE: Final[dict[str, TypeRule]] = {
    "bit": TypeRule("boolean", "", 1),
    "tinyint": TypeRule("int16", "0 to 255", 2),
    "smallint": TypeRule("int16", "", 2),
    "int": TypeRule("int32", "", 4),
    "bigint": TypeRule("int64", "", 8),
    "decimal": TypeRule("decimal(p,s)", "all 38 digits", 24),
    "numeric": TypeRule("decimal(p,s)", "all 38 digits", 24),
    "money": TypeRule("decimal(19,4)", "", 24),
    "smallmoney": TypeRule("decimal(10,4)", "", 24),
    "real": TypeRule("float32", "", 4),
    "float": TypeRule("float64", "float(1) to float(24) are real in the catalog, hence float32", 8),
    "date": TypeRule("date", "", 8),
    "time": TypeRule("time", _HUNDRED_NS, 16),
    "smalldatetime": TypeRule("timestamp", "whole minutes", 16),
    "datetime": TypeRule("timestamp", "ticks of 1/300 s, as the server writes them: .000, .003 or .007", 16),
    "datetime2": TypeRule("timestamp", f"{_HUNDRED_NS}; {_SENTINEL}", 16),
    "datetimeoffset": TypeRule(
        "timestamptz", f"the instant, in UTC; keep_offset adds NAME_offset; {_HUNDRED_NS}; {_SENTINEL}", 24
    ),
    "char": TypeRule("string", "any collation; padded as stored"),
    "varchar": TypeRule("string", "any collation, (max) at full length"),
    "text": TypeRule("string", "", LOB_WIDTH),
    "nchar": TypeRule("string", "padded as stored; half a surrogate pair is refused", is_utf16=True),
    "nvarchar": TypeRule("string", "(max) at full length; half a surrogate pair is refused", is_utf16=True),
    "ntext": TypeRule("string", "half a surrogate pair is refused", LOB_WIDTH, is_utf16=True),
    "binary": TypeRule("binary", "padded as stored"),
    "varbinary": TypeRule("binary", "(max) at full length"),
    "image": TypeRule("binary", "", LOB_WIDTH),
    "timestamp": TypeRule("binary", "rowversion: 8 bytes, and the best cursor there is", 8),
    "uniqueidentifier": TypeRule("string", "36 characters, lower case", 80, lowers=True),
    "xml": TypeRule(
        "string", "as the server serialises it, without declaration", LOB_WIDTH, "CONVERT(nvarchar(max), {})"
    ),
    "json": TypeRule("string", "as the server serialises it", LOB_WIDTH, "CONVERT(nvarchar(max), {})"),
    "sql_variant": TypeRule(
        "string", "the value as text without loss; not its base type", LOB_WIDTH, _VARIANT, is_utf16=True
    ),
    "hierarchyid": TypeRule("string", "the path, /1/2/", 8000, "{}.ToString()"),
    "geography": TypeRule(
        "binary", "well-known binary with Z and M; any SRID but 4326 is refused", LOB_WIDTH, "{}.AsBinaryZM()"
    ),
    "geometry": TypeRule(
        "binary", "well-known binary with Z and M; any SRID but 0 is refused", LOB_WIDTH, "{}.AsBinaryZM()"
    ),
}
"""By system type name. What is not here (vector, CLR types of the company, table types) is refused."""

_LONGEST_BOUNDED: Final = 8000
_BOUNDED: Final = {
    "varchar": "varchar",
    "text": "varchar",
    "nvarchar": "nvarchar",
    "ntext": "nvarchar",
    "varbinary": "varbinary",
    "image": "varbinary",
}
_HUNDRED_NS_TYPES: Final = frozenset({"datetime2", "datetimeoffset", "time"})
_SRID: Final = {"geography": 4326, "geometry": 0}


def fields_of(column: LiveColumn, *, sub_microsecond: SubMicrosecond, keep_offset: bool, where: str) -> Iterator[Field]:
    """Map a column: to itself, and to the second columns that the manifest asks for.

    :param where: the dataset's table, for errors.
    :raises UnsupportedType: its type has no lossless mapping.
    """
    rule = None if column.is_clr else TYPE_TABLE.get(column.type_name)
    if rule is None:
        raise UnsupportedType(
            f"column {column.name!r} has the type {column.type_name}, which has no lossless mapping",
            subject=where,
            cause="a CLR type of the company's own" if column.is_clr else "the type is not in the type table",
            fix="read the table with sql: and convert the column there, or leave it out; docs/types.md has the table",
        )
    quoted = quote(column.name)
    digit = sub_microsecond if column.scale == 7 and column.type_name in _HUNDRED_NS_TYPES else None
    guards = []
    if digit is SubMicrosecond.REFUSE:
        guards.append(_guard_digit(column, quoted))
    if column.type_name in _SRID:
        guards.append(_guard_srid(column, quoted, _SRID[column.type_name]))
    yield Field(
        Column(
            name=column.name,
            type=_contract_type(rule, column),
            nullable=column.nullable,
            source_type=column.declared,
        ),
        rule.select.format(quoted),
        _width(rule, column),
        tuple(guards),
        rule.lowers,
        rule.is_utf16,
        _BOUNDED.get(column.type_name) if _width(rule, column) == LOB_WIDTH else None,
    )
    if keep_offset and column.type_name == "datetimeoffset":
        yield _second(column, "_offset", f"CONVERT(smallint, DATEPART(tzoffset, {quoted}))")
    if digit is SubMicrosecond.COLUMN:
        yield _second(column, "_ns", f"CONVERT(smallint, DATEPART(nanosecond, {quoted}) % 1000)")


def _contract_type(rule: TypeRule, column: LiveColumn) -> DataType:
    if rule.contract == "decimal(p,s)":
        return DataType("decimal", column.precision, column.scale)
    return DataType.parse(rule.contract)


def _width(rule: TypeRule, column: LiveColumn) -> int:
    if rule.width is not None:
        return rule.width
    if column.max_length < 0:
        return LOB_WIDTH
    # The driver asks for characters as UTF-16, also where the column holds one byte for each.
    return 2 * column.max_length if column.type_name in {"char", "varchar"} else column.max_length


def _second(column: LiveColumn, suffix: str, expression: str) -> Field:
    return Field(
        Column(
            name=column.name + suffix,
            type=DataType("int16"),
            nullable=column.nullable,
            source_type=f"{column.declared}, its {'offset' if suffix == '_offset' else '100 ns digit'}",
        ),
        expression,
        2,
    )


def _guard_digit(column: LiveColumn, quoted: str) -> Guard:
    condition = f"DATEPART(nanosecond, {quoted}) % 1000 <> 0"
    if column.type_name == "datetime2":
        condition += f" AND {quoted} < CONVERT(datetime2(7), '9999-12-31T23:59:59.9999999', 126)"
    elif column.type_name == "datetimeoffset":
        condition += f" AND {quoted} < CONVERT(datetimeoffset(7), '9999-12-31T23:59:59.9999999Z', 127)"
    return Guard(
        condition,
        column.name,
        f"has a digit below the microsecond, which {column.declared} holds and Arrow's microseconds do not",
        "set sub_microsecond: truncate, or column to keep the digit in a second column",
    )


def _guard_srid(column: LiveColumn, quoted: str, srid: int) -> Guard:
    return Guard(
        f"{quoted}.STSrid <> {srid}",
        column.name,
        f"has another spatial reference system than {srid}, which well-known binary does not carry",
        "read the table with sql: and select .STSrid as its own column",
    )


def render_type_table() -> str:
    """Write the table as Markdown, for ``docs/types.md``."""
    lines = ["| SQL Server | contract | remarks |", "|---|---|---|"]
    for name, rule in TYPE_TABLE.items():
        lines.append(f"| `{'rowversion' if name == 'timestamp' else name}` | `{rule.contract}` | {rule.note} |")
    lines.append("| any other: `vector`, CLR types … | refused | `UnsupportedType` names the column |")
    return "\n".join(lines) + "\n"
