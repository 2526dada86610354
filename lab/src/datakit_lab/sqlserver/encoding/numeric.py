"""Whole numbers, decimals, money, floats and bits (MS-TDS 2.2.5.5.1)."""

# ruff: noqa: ARG001 - all encoders have one signature, and few need all of it

from __future__ import annotations

import numpy as np
import pyarrow as pa

from datakit_lab.sqlserver.backend import SqlType
from datakit_lab.sqlserver.encoding.arrays import numbers, validity
from datakit_lab.sqlserver.encoding.pieces import Bytes, Column, Fixed, constant, length_head, little_endian
from datakit_lab.sqlserver.typeinfo import decimal_bytes

_INTEGERS = {
    "tinyint": (pa.uint8(), "<u1"),
    "smallint": (pa.int16(), "<i2"),
    "int": (pa.int32(), "<i4"),
    "bigint": (pa.int64(), "<i8"),
}


def sized(body: Bytes, array: pa.Array, *, nullable: bool) -> Column:
    """Return a column of a type with a one-byte length, or with none when it cannot be NULL."""
    valid = validity(array)
    if not nullable:
        if valid is not None:
            raise ValueError("a NOT NULL column holds a NULL")
        return Column(None, (Fixed(body),))
    width = body.shape[1]
    if valid is None:
        return Column(constant(len(array), bytes([width])), (Fixed(body),))
    return Column(length_head(np.full(len(array), width), valid, "<u1", 0), (Fixed(body),), valid)


def encode_integer(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode tinyint (unsigned) to bigint."""
    target, dtype = _INTEGERS[sql_type.name]
    return sized(little_endian(numbers(array, target, dtype), dtype), array, nullable=nullable)


def encode_bit(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode bit from booleans or numbers."""
    as_bool = array if pa.types.is_boolean(array.type) else array.cast(pa.bool_())
    return sized(little_endian(numbers(as_bool.cast(pa.uint8()), pa.uint8(), "<u1"), "<u1"), array, nullable=nullable)


def encode_float(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode real and float."""
    target, dtype = (pa.float32(), "<f4") if sql_type.name == "real" else (pa.float64(), "<f8")
    return sized(little_endian(numbers(array, target, dtype), dtype), array, nullable=nullable)


def encode_decimal(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode decimal and numeric: a sign byte and the magnitude, little-endian."""
    precision, scale = sql_type.precision or 18, sql_type.scale or 0
    words = numbers(array, pa.decimal128(precision, scale), "V16").view("<u8").reshape(-1, 2)
    low, high = words[:, 0], words[:, 1]
    negative = high >> np.uint64(63) != 0
    magnitude = np.empty((len(array), 2), "<u8")
    magnitude[:, 0] = np.where(negative, ~low + np.uint64(1), low)
    magnitude[:, 1] = np.where(negative, ~high + (low == 0).astype("<u8"), high)
    width = decimal_bytes(precision)
    body = np.empty((len(array), width), np.uint8)
    body[:, 0] = ~negative
    body[:, 1:] = magnitude.view(np.uint8).reshape(-1, 16)[:, : width - 1]
    return sized(body, array, nullable=True)


def encode_money(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode money (two 32-bit words, the high one first) and smallmoney, in ten-thousandths."""
    precision = 10 if sql_type.name == "smallmoney" else 19
    words = numbers(array, pa.decimal128(precision, 4), "V16").view("<i4").reshape(-1, 4)
    if sql_type.name == "smallmoney":
        return sized(little_endian(words[:, 0], "<i4"), array, nullable=nullable)
    body = np.ascontiguousarray(words[:, [1, 0]]).view(np.uint8).reshape(-1, 8)
    return sized(body, array, nullable=nullable)
