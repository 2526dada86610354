"""TYPE_INFO: how TDS names a T-SQL type in COLMETADATA, RETURNVALUE and RPC parameters (MS-TDS 2.2.5.6)."""

from __future__ import annotations

import struct
from typing import Final

from datakit_lab.sqlserver.backend import SqlType
from datakit_lab.sqlserver.collations import collation

MAX: Final = -1
PLP_LENGTH: Final = 0xFFFF

# fixed length when NOT NULL -> (token, nullable token, bytes)
FIXED: Final[dict[str, tuple[int, int, int]]] = {
    "bit": (0x32, 0x68, 1),
    "tinyint": (0x30, 0x26, 1),
    "smallint": (0x34, 0x26, 2),
    "int": (0x38, 0x26, 4),
    "bigint": (0x7F, 0x26, 8),
    "real": (0x3B, 0x6D, 4),
    "float": (0x3E, 0x6D, 8),
    "smallmoney": (0x7A, 0x6E, 4),
    "money": (0x3C, 0x6E, 8),
    "smalldatetime": (0x3A, 0x6F, 4),
    "datetime": (0x3D, 0x6F, 8),
}
SCALED_TIME: Final = {"time": 0x29, "datetime2": 0x2A, "datetimeoffset": 0x2B}
CHARACTERS: Final = {"char": 0xAF, "varchar": 0xA7, "nchar": 0xEF, "nvarchar": 0xE7}
BINARIES: Final = {"binary": 0xAD, "varbinary": 0xA5}
LOBS: Final = {"text": 0x23, "ntext": 0x63, "image": 0x22}
UDTS: Final = ("hierarchyid", "geography", "geometry")
_UDT_NAMES = {
    "hierarchyid": "Microsoft.SqlServer.Types.SqlHierarchyId",
    "geography": "Microsoft.SqlServer.Types.SqlGeography",
    "geometry": "Microsoft.SqlServer.Types.SqlGeometry",
}
_ASSEMBLY = "Microsoft.SqlServer.Types, Version=11.0.0.0, Culture=neutral, PublicKeyToken=89845dcd8080cc91"
_USER_TYPES = {"rowversion": 80, "timestamp": 80}
_SYNONYMS = {
    "timestamp": "rowversion",
    "sysname": "nvarchar",
    "integer": "int",
    "dec": "decimal",
    "double precision": "float",
    "character varying": "varchar",
    "character": "char",
    "national char varying": "nvarchar",
}


def canonical(sql_type: SqlType) -> SqlType:
    """Return the type under the one name the encoders know, with its default length, precision and scale filled in."""
    name = _SYNONYMS.get(sql_type.name, sql_type.name)
    length, precision, scale = sql_type.length, sql_type.precision, sql_type.scale
    if name in ("decimal", "numeric"):
        precision, scale = precision or 18, scale or 0
    elif name in SCALED_TIME:
        scale = 7 if scale is None else scale
    elif name in CHARACTERS or name in BINARIES:
        length = (128 if sql_type.name == "sysname" else 1) if length is None else length
        name, length = _widened(name, length)
    return SqlType(name, length, precision, scale, sql_type.collation)


def _widened(name: str, length: int) -> tuple[str, int]:
    """Return a character or binary type that the wire can name: nothing of zero width, nothing beyond 8,000 bytes."""
    limit = 4000 if name.startswith("n") else 8000
    if length > limit:
        return name, MAX
    return name, length if length != 0 else 1


def is_plp(sql_type: SqlType) -> bool:
    """Say whether values travel in chunks (partially length-prefixed): (max) types, xml and CLR types."""
    return sql_type.name in ("xml", *UDTS) or (sql_type.length == MAX and sql_type.name not in LOBS)


def decimal_bytes(precision: int) -> int:
    """Return the length of a decimal's value with its sign byte."""
    return 5 if precision <= 9 else 9 if precision <= 19 else 13 if precision <= 28 else 17


def b_varchar(text: str) -> bytes:
    """Return text as B_VARCHAR: a byte with the count of UTF-16 units, then UTF-16LE."""
    raw = text.encode("utf-16-le", "surrogatepass")[:510]
    return bytes([len(raw) // 2]) + raw


def us_varchar(text: str) -> bytes:
    """Return text as US_VARCHAR: two bytes with the count of UTF-16 units, then UTF-16LE."""
    raw = text.encode("utf-16-le", "surrogatepass")[:131070]
    return struct.pack("<H", len(raw) // 2) + raw


def user_type(sql_type: SqlType) -> int:
    """Return the UserType of COLMETADATA; only rowversion needs one."""
    return _USER_TYPES.get(sql_type.name, 0)


def _characters(sql_type: SqlType) -> bytes:
    length = sql_type.length if sql_type.length is not None else 1
    size = PLP_LENGTH if length == MAX else length * 2 if sql_type.name.startswith("n") else length
    return struct.pack("<BH", CHARACTERS[sql_type.name], size) + collation(sql_type.collation).wire


def _udt(sql_type: SqlType) -> bytes:
    assembly = f"{_UDT_NAMES[sql_type.name]}, {_ASSEMBLY}"
    size = 892 if sql_type.name == "hierarchyid" else PLP_LENGTH
    names = b_varchar("") + b_varchar("sys") + b_varchar(sql_type.name) + us_varchar(assembly)
    return struct.pack("<BH", 0xF0, size) + names


def type_info(sql_type: SqlType, *, nullable: bool = True) -> bytes:
    """Return TYPE_INFO for a canonical type.

    :raises ValueError: a type the wire does not know.
    """
    name = sql_type.name
    if name in FIXED:
        token, nullable_token, size = FIXED[name]
        return bytes([nullable_token, size]) if nullable else bytes([token])
    if name in SCALED_TIME:
        return bytes([SCALED_TIME[name], 7 if sql_type.scale is None else sql_type.scale])
    if name in CHARACTERS:
        return _characters(sql_type)
    if name in BINARIES:
        size = PLP_LENGTH if sql_type.length == MAX else sql_type.length or 1
        return struct.pack("<BH", BINARIES[name], size)
    if name in ("decimal", "numeric"):
        precision = sql_type.precision or 18
        token = 0x6A if name == "decimal" else 0x6C
        return bytes([token, decimal_bytes(precision), precision, sql_type.scale or 0])
    if name in LOBS:
        wire = b"" if name == "image" else collation(sql_type.collation).wire
        size = 0x7FFFFFFE if name == "ntext" else 0x7FFFFFFF
        return struct.pack("<BI", LOBS[name], size) + wire
    if name in UDTS:
        return _udt(sql_type)
    plain = {
        "date": b"\x28",
        "uniqueidentifier": b"\x24\x10",
        "xml": b"\xf1\x00",
        "sql_variant": struct.pack("<BI", 0x62, 8009),
        "rowversion": struct.pack("<BH", 0xA5 if nullable else 0xAD, 8),
    }
    if name not in plain:
        raise ValueError(f"the wire has no type {name!r}")
    return plain[name]
