"""T-SQL types: their numbers in ``sys.types``, how DuckDB stores them, and what a DuckDB type means in T-SQL.

Storage keeps every value exactly, and keeps its order, so that comparisons, MIN and ORDER BY are DuckDB's own:

- ``datetime2(7)`` and ``time(7)`` are BIGINT ticks of 100 ns (DuckDB's TIMESTAMP counts microseconds, and its
  TIMESTAMP_NS ends in 2262); coarser ones are TIMESTAMP and TIME;
- ``datetimeoffset`` is a struct of UTC ticks and the offset in minutes;
- the CLR types are a struct of their text and their serialised bytes, ``sql_variant`` of base type and text;
- a column marked ``utf16`` is a BLOB of UTF-16LE, for strings that are no valid Unicode (lone surrogates).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from datakit_lab.sqlserver.backend import SqlError, SqlType

DEFAULT_COLLATION: Final = "SQL_Latin1_General_CP1_CI_AS"
"""The collation of a server installed with US English settings."""


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """A row of ``sys.types``: https://learn.microsoft.com/sql/relational-databases/system-catalog-views/sys-types-transact-sql."""

    system_type_id: int
    user_type_id: int
    max_length: int
    precision: int = 0
    scale: int = 0


TYPES: Final[dict[str, TypeFacts]] = {
    "image": TypeFacts(34, 34, 16),
    "text": TypeFacts(35, 35, 16),
    "uniqueidentifier": TypeFacts(36, 36, 16),
    "date": TypeFacts(40, 40, 3, 10, 0),
    "time": TypeFacts(41, 41, 5, 16, 7),
    "datetime2": TypeFacts(42, 42, 8, 27, 7),
    "datetimeoffset": TypeFacts(43, 43, 10, 34, 7),
    "tinyint": TypeFacts(48, 48, 1, 3, 0),
    "smallint": TypeFacts(52, 52, 2, 5, 0),
    "int": TypeFacts(56, 56, 4, 10, 0),
    "smalldatetime": TypeFacts(58, 58, 4, 16, 0),
    "real": TypeFacts(59, 59, 4, 24, 0),
    "money": TypeFacts(60, 60, 8, 19, 4),
    "datetime": TypeFacts(61, 61, 8, 23, 3),
    "float": TypeFacts(62, 62, 8, 53, 0),
    "sql_variant": TypeFacts(98, 98, 8016),
    "ntext": TypeFacts(99, 99, 16),
    "bit": TypeFacts(104, 104, 1, 1, 0),
    "decimal": TypeFacts(106, 106, 17, 38, 38),
    "numeric": TypeFacts(108, 108, 17, 38, 38),
    "smallmoney": TypeFacts(122, 122, 4, 10, 4),
    "bigint": TypeFacts(127, 127, 8, 19, 0),
    "hierarchyid": TypeFacts(240, 128, 892),
    "geometry": TypeFacts(240, 129, -1),
    "geography": TypeFacts(240, 130, -1),
    "varbinary": TypeFacts(165, 165, 8000),
    "varchar": TypeFacts(167, 167, 8000),
    "binary": TypeFacts(173, 173, 8000),
    "char": TypeFacts(175, 175, 8000),
    "timestamp": TypeFacts(189, 189, 8),
    "nvarchar": TypeFacts(231, 231, 8000),
    "nchar": TypeFacts(239, 239, 8000),
    "xml": TypeFacts(241, 241, -1),
    "sysname": TypeFacts(231, 256, 256),
}

CHARACTER: Final = frozenset({"char", "varchar", "text", "nchar", "nvarchar", "ntext"})
NATIONAL: Final = frozenset({"nchar", "nvarchar", "ntext"})
PADDED: Final = frozenset({"char", "nchar"})
BINARY: Final = frozenset({"binary", "varbinary", "image", "timestamp"})
INTEGER: Final = ("bit", "tinyint", "smallint", "int", "bigint")
EXACT: Final = frozenset({"decimal", "numeric", "money", "smallmoney"})
FLOATING: Final = frozenset({"real", "float"})
NUMERIC: Final = EXACT | FLOATING | frozenset(INTEGER)
CLR: Final = frozenset({"hierarchyid", "geometry", "geography"})
TEMPORAL: Final = frozenset({"date", "datetime", "smalldatetime", "datetime2", "datetimeoffset"})

_SIMPLE_STORAGE: Final = {
    "bit": "BOOLEAN",
    "tinyint": "UTINYINT",
    "smallint": "SMALLINT",
    "int": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "float": "DOUBLE",
    "money": "DECIMAL(19,4)",
    "smallmoney": "DECIMAL(10,4)",
    "date": "DATE",
    "datetime": "TIMESTAMP",
    "smalldatetime": "TIMESTAMP",
    "datetimeoffset": 'STRUCT(ticks BIGINT, "offset" SMALLINT)',
    "uniqueidentifier": "UUID",
    "xml": "VARCHAR",
    "sql_variant": "STRUCT(base VARCHAR, value VARCHAR)",
} | dict.fromkeys(CLR, "STRUCT(wkt VARCHAR, bytes BLOB)")

_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def character(name: str, length: int, collation: str | None = None) -> SqlType:
    """Return a character type; ``length`` in characters, -1 for (max)."""
    return SqlType(name, length=length, collation=collation or DEFAULT_COLLATION)


INT: Final = SqlType("int")
BIGINT: Final = SqlType("bigint")
BIT: Final = SqlType("bit")
FLOAT: Final = SqlType("float")
DATE: Final = SqlType("date")
DATETIME: Final = SqlType("datetime")
DATETIME2: Final = SqlType("datetime2", scale=7)
DATETIMEOFFSET: Final = SqlType("datetimeoffset", scale=7)
SYSNAME: Final = character("nvarchar", 128)


def make_type(name: str, arguments: list[str], *, cast: bool = False, collation: str | None = None) -> SqlType:
    """Build the type that T-SQL means by ``name(arguments)``.

    :param cast: a character type without a length has 30 characters in CAST and 1 in a declaration.
    :raises SqlError: 2715 for an unknown type, 1001 or 2750 for arguments out of range.
    """
    name = _SYNONYMS.get(name.lower(), name.lower())
    if name == "sysname":
        return SYSNAME
    if name not in TYPES:
        raise SqlError(243 if cast else 2715, f"Type {name} is not a defined system type.")
    numbers = [-1 if argument.lower() == "max" else int(argument) for argument in arguments]
    if name in {"text", "ntext", "image"}:
        length = {"text": 2147483647, "ntext": 1073741823, "image": 2147483647}[name]
        return SqlType(name, length=length, collation=(collation or DEFAULT_COLLATION) if name != "image" else None)
    if name in CHARACTER or name in {"binary", "varbinary"}:
        length = numbers[0] if numbers else (30 if cast else 1)
        limit = 4000 if name in NATIONAL else 8000
        if length != -1 and not 1 <= length <= limit:
            raise SqlError(
                131, f"The size ({length}) given to the type '{name}' exceeds the maximum allowed ({limit})."
            )
        return SqlType(name, length=length, collation=(collation or DEFAULT_COLLATION) if name in CHARACTER else None)
    if name in {"decimal", "numeric"}:
        precision = numbers[0] if numbers else 18
        scale = numbers[1] if len(numbers) > 1 else 0
        if not 1 <= precision <= 38:
            raise SqlError(
                2750,
                f"Column or parameter: specified column precision {precision} is greater than the maximum "
                f"precision of 38.",
            )
        if not 0 <= scale <= precision:
            raise SqlError(192, "The scale must be less than or equal to the precision.")
        return SqlType(name, precision=precision, scale=scale)
    if name in {"time", "datetime2", "datetimeoffset"}:
        scale = numbers[0] if numbers else 7
        if not 0 <= scale <= 7:
            raise SqlError(1002, f"Line 1: Specified scale {scale} is invalid.")
        return SqlType(name, scale=scale)
    if name == "float" and numbers and numbers[0] <= 24:
        return SqlType("real")
    return SqlType(name)


_SYNONYMS: Final = {
    "rowversion": "timestamp",
    "integer": "int",
    "dec": "decimal",
    "double": "float",
    "character": "char",
    "utinyint": "tinyint",
    "timestamptz": "datetimeoffset",
    "uuid": "uniqueidentifier",
    "variant": "sql_variant",
}


def storage(type_: SqlType, *, utf16: bool = False) -> str:
    """Return the DuckDB type that holds ``type_``."""
    name = type_.name
    if name in CHARACTER:
        return "BLOB" if utf16 else "VARCHAR"
    if name in BINARY:
        return "BLOB"
    if name in {"decimal", "numeric"}:
        return f"DECIMAL({type_.precision},{type_.scale})"
    if name == "datetime2":
        return "BIGINT" if type_.scale == 7 else "TIMESTAMP"
    if name == "time":
        return "BIGINT" if type_.scale == 7 else "TIME"
    return _SIMPLE_STORAGE[name]


def from_duckdb(duckdb_type: str) -> SqlType:
    """Return the T-SQL type for an expression of which only DuckDB knows the type."""
    if match := _DECIMAL.fullmatch(duckdb_type):
        return SqlType("decimal", precision=int(match[1]), scale=int(match[2]))
    if duckdb_type in {"HUGEINT", "UHUGEINT", "UBIGINT", "BIGNUM"}:
        return SqlType("decimal", precision=38, scale=0)
    known = {
        "BOOLEAN": BIT,
        "TINYINT": SqlType("smallint"),
        "UTINYINT": SqlType("tinyint"),
        "SMALLINT": SqlType("smallint"),
        "USMALLINT": INT,
        "INTEGER": INT,
        "UINTEGER": BIGINT,
        "BIGINT": BIGINT,
        "FLOAT": SqlType("real"),
        "DOUBLE": FLOAT,
        "BLOB": SqlType("varbinary", length=-1),
        "DATE": DATE,
        "TIME": SqlType("time", scale=6),
        "TIMESTAMP": SqlType("datetime2", scale=6),
        "UUID": SqlType("uniqueidentifier"),
        '"NULL"': INT,
        "NULL": INT,
    }
    return known.get(duckdb_type) or character("nvarchar", 4000)


@dataclass(frozen=True, slots=True)
class Described:
    """How ``sys.columns`` and its kin describe a type."""

    system_type_id: int
    user_type_id: int
    max_length: int
    precision: int
    scale: int
    collation: str | None


def described(type_: SqlType) -> Described:
    """Return the catalog's numbers of a type; ``max_length`` in bytes, -1 for (max)."""
    facts = TYPES[type_.name]
    max_length, precision, scale = facts.max_length, facts.precision, facts.scale
    if type_.name in CHARACTER | {"binary", "varbinary"} and type_.name not in {"text", "ntext"}:
        length = type_.length if type_.length is not None else 1
        max_length = length * 2 if type_.name in NATIONAL and length != -1 else length
    elif type_.name in {"decimal", "numeric"}:
        precision, scale = type_.precision or 18, type_.scale or 0
        max_length = next(size for digits, size in ((9, 5), (19, 9), (28, 13), (38, 17)) if precision <= digits)
    elif type_.name in {"time", "datetime2", "datetimeoffset"}:
        scale = 7 if type_.scale is None else type_.scale
        shorter = 0 if scale > 4 else 1 if scale > 2 else 2
        max_length = facts.max_length - shorter
        precision = facts.precision - 7 + scale - (1 if scale == 0 else 0)
    return Described(facts.system_type_id, facts.user_type_id, max_length, precision, scale, type_.collation)


def type_text(type_: SqlType) -> str:
    """Write a type as T-SQL does: ``decimal(19,4)``, ``nvarchar(max)``."""
    if type_.name in {"decimal", "numeric"}:
        return f"{type_.name}({type_.precision},{type_.scale})"
    if type_.name in {"time", "datetime2", "datetimeoffset"}:
        return f"{type_.name}({type_.scale})"
    if type_.name in {"char", "varchar", "nchar", "nvarchar", "binary", "varbinary"}:
        return f"{type_.name}({'max' if type_.length == -1 else type_.length})"
    return type_.name
