"""sql_variant: each value brings its own type, so these rows are encoded one value at a time."""

# ruff: noqa: ARG001 - all encoders have one signature, and few need all of it

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from typing import Any

import numpy as np
import pyarrow as pa

from datakit_lab.sqlserver.backend import SqlType
from datakit_lab.sqlserver.collations import collation
from datakit_lab.sqlserver.encoding.numeric import encode_decimal
from datakit_lab.sqlserver.encoding.pieces import Column, Fixed, Varying, length_head
from datakit_lab.sqlserver.encoding.temporal import encode_date, encode_datetime2, encode_datetimeoffset, encode_time


def _fixed(encode: Any, value: pa.Scalar, sql_type: SqlType) -> bytes:
    column: Column = encode(pa.array([value.as_py()], value.type), sql_type, nullable=True)
    (piece,) = column.body
    return piece.body.tobytes() if isinstance(piece, Fixed) else piece.data.tobytes()


def _decimal(value: decimal.Decimal) -> bytes:
    digits = value.as_tuple()
    scale = max(0, -int(digits.exponent))
    precision = max(len(digits.digits) + max(0, int(digits.exponent)), scale, 1)
    scalar = pa.scalar(value, pa.decimal128(precision, scale))
    raw = _fixed(encode_decimal, scalar, SqlType("decimal", precision=precision, scale=scale))
    return bytes([0x6C, 2, precision, scale]) + raw


def _text(value: str) -> bytes:
    raw = value.encode("utf-16-le", "surrogatepass")[:8000]
    return bytes([0xE7, 7]) + collation(None).wire + struct.pack("<H", 8000) + raw


def _timestamp(value: datetime.datetime) -> bytes:
    if value.tzinfo is None:
        scalar = pa.scalar(value, pa.timestamp("us"))
        return bytes([0x2A, 1, 7]) + _fixed(encode_datetime2, scalar, SqlType("datetime2", scale=7))
    offset = value.utcoffset() or datetime.timedelta()
    ticks = ((value.replace(tzinfo=None) - offset) - datetime.datetime.min) // datetime.timedelta(microseconds=1) * 10
    kind = pa.struct([("ticks", pa.int64()), ("offset", pa.int16())])
    scalar = pa.scalar({"ticks": ticks, "offset": int(offset.total_seconds() // 60)}, kind)
    return bytes([0x2B, 1, 7]) + _fixed(encode_datetimeoffset, scalar, SqlType("datetimeoffset", scale=7))


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return bytes([0x32, 0, value])
    if isinstance(value, int):
        return struct.pack("<BBi", 0x38, 0, value) if -(2**31) <= value < 2**31 else struct.pack("<BBq", 0x7F, 0, value)
    if isinstance(value, float):
        return struct.pack("<BBd", 0x3E, 0, value)
    if isinstance(value, decimal.Decimal):
        return _decimal(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bytes):
        return bytes([0xA5, 2]) + struct.pack("<H", 8000) + value[:8000]
    if isinstance(value, datetime.datetime):
        return _timestamp(value)
    if isinstance(value, datetime.date):
        return bytes([0x28, 0]) + _fixed(encode_date, pa.scalar(value, pa.date32()), SqlType("date"))
    if isinstance(value, datetime.time):
        return bytes([0x29, 1, 7]) + _fixed(encode_time, pa.scalar(value, pa.time64("us")), SqlType("time", scale=7))
    if isinstance(value, uuid.UUID):
        return bytes([0x24, 0]) + value.bytes_le
    raise ValueError(f"a sql_variant cannot hold {type(value).__name__}")


def encode_variant(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode sql_variant from any array, also a union."""
    python = array.to_pylist()
    values = [b"" if value is None else _value(value) for value in python]
    lengths = np.fromiter((len(value) for value in values), np.int64, len(values))
    valid = np.fromiter((value is not None for value in python), np.bool_, len(python))
    data = np.frombuffer(b"".join(values), np.uint8)
    return Column(length_head(lengths, valid, "<u4", 0), (Varying.of(data, lengths),), valid)
