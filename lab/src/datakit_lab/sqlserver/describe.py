"""The result of sp_describe_first_result_set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa

from datakit_lab.sqlserver.backend import ResultColumn, ResultSet, SqlType
from datakit_lab.sqlserver.collations import DEFAULT_COLLATION
from datakit_lab.sqlserver.typeinfo import BINARIES, CHARACTERS, FIXED, MAX, SCALED_TIME, canonical, decimal_bytes

_TYPE_IDS: Final = {
    "image": 34,
    "text": 35,
    "uniqueidentifier": 36,
    "date": 40,
    "time": 41,
    "datetime2": 42,
    "datetimeoffset": 43,
    "tinyint": 48,
    "smallint": 52,
    "int": 56,
    "smalldatetime": 58,
    "real": 59,
    "money": 60,
    "datetime": 61,
    "float": 62,
    "sql_variant": 98,
    "ntext": 99,
    "bit": 104,
    "decimal": 106,
    "numeric": 108,
    "smallmoney": 122,
    "bigint": 127,
    "varbinary": 165,
    "varchar": 167,
    "binary": 173,
    "char": 175,
    "rowversion": 189,
    "nvarchar": 231,
    "nchar": 239,
    "hierarchyid": 240,
    "geometry": 240,
    "geography": 240,
    "xml": 241,
}
_NVARCHAR = SqlType("nvarchar", 256)
_COLUMNS: Final[tuple[tuple[str, SqlType, pa.DataType], ...]] = (
    ("is_hidden", SqlType("bit"), pa.bool_()),
    ("column_ordinal", SqlType("int"), pa.int32()),
    ("name", SqlType("sysname"), pa.large_string()),
    ("is_nullable", SqlType("bit"), pa.bool_()),
    ("system_type_id", SqlType("int"), pa.int32()),
    ("system_type_name", _NVARCHAR, pa.large_string()),
    ("max_length", SqlType("smallint"), pa.int16()),
    ("precision", SqlType("tinyint"), pa.uint8()),
    ("scale", SqlType("tinyint"), pa.uint8()),
    ("collation_name", SqlType("sysname"), pa.large_string()),
    ("user_type_id", SqlType("int"), pa.int32()),
    ("is_identity_column", SqlType("bit"), pa.bool_()),
    ("is_part_of_unique_key", SqlType("bit"), pa.bool_()),
    ("is_updateable", SqlType("bit"), pa.bool_()),
    ("is_computed_column", SqlType("bit"), pa.bool_()),
    ("error_number", SqlType("int"), pa.int32()),
    ("error_message", SqlType("nvarchar", MAX), pa.large_string()),
)


def type_name(sql_type: SqlType) -> str:
    """Return a type as T-SQL writes it: ``decimal(10,2)``, ``nvarchar(max)``."""
    kind = canonical(sql_type)
    if kind.name in ("decimal", "numeric"):
        return f"{kind.name}({kind.precision},{kind.scale})"
    if kind.name in SCALED_TIME:
        return f"{kind.name}({kind.scale})"
    if kind.name in CHARACTERS or kind.name in BINARIES:
        return f"{kind.name}({'max' if kind.length == MAX else kind.length})"
    return "timestamp" if kind.name == "rowversion" else kind.name


def _max_length(kind: SqlType) -> int:
    if kind.name in FIXED:
        return FIXED[kind.name][2]
    if kind.length is not None:
        return kind.length * 2 if kind.length > 0 and kind.name.startswith("n") else kind.length
    if kind.name in ("decimal", "numeric"):
        return decimal_bytes(kind.precision or 18)
    lengths = {"date": 3, "time": 5, "datetime2": 8, "datetimeoffset": 10, "uniqueidentifier": 16, "rowversion": 8}
    return lengths.get(kind.name, MAX)


def describe_result(columns: Sequence[ResultColumn]) -> ResultSet:
    """Return the rows of sp_describe_first_result_set for columns."""
    rows: list[dict[str, Any]] = []
    for ordinal, column in enumerate(columns, 1):
        kind = canonical(column.type)
        textual = kind.name in CHARACTERS or kind.name in ("text", "ntext")
        rows.append(
            {
                "is_hidden": False,
                "column_ordinal": ordinal,
                "name": column.name or None,
                "is_nullable": column.nullable,
                "system_type_id": _TYPE_IDS[kind.name],
                "system_type_name": type_name(kind),
                "max_length": _max_length(kind),
                "precision": kind.precision or 0,
                "scale": kind.scale or 0,
                "collation_name": (kind.collation or DEFAULT_COLLATION) if textual else None,
                "is_identity_column": column.identity,
                "is_updateable": not (column.identity or column.computed),
                "is_computed_column": column.computed,
            }
        )
    schema = pa.schema([(name, arrow) for name, _, arrow in _COLUMNS])
    batch = pa.RecordBatch.from_pylist(rows, schema=schema)
    described = tuple(ResultColumn(name, sql_type) for name, sql_type, _ in _COLUMNS)
    return ResultSet(described, iter([batch]))
