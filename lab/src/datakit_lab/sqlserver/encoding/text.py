"""Text, binary, uniqueidentifier, xml and CLR types: everything whose values differ in length, and GUIDs."""

# ruff: noqa: ARG001 - all encoders have one signature, and few need all of it

from __future__ import annotations

import uuid

import numpy as np
import pyarrow as pa

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.collations import collation
from datakit_lab.sqlserver.encoding.arrays import byte_runs, is_bytes, validity
from datakit_lab.sqlserver.encoding.numeric import sized
from datakit_lab.sqlserver.encoding.pieces import (
    Bytes,
    Column,
    Fixed,
    Ints,
    Mask,
    Varying,
    constant,
    length_head,
    little_endian,
)
from datakit_lab.sqlserver.typeinfo import is_plp

_PLP_NULL = -1  # 0xFFFFFFFFFFFFFFFF
_NATIONAL = ("nchar", "nvarchar", "ntext", "xml")
_TEXT_POINTER = b"\x10" + b"textpointer-0001" + b"\x00" * 8


def _per_value(counts: Ints, lengths: Ints) -> Ints:
    """Sum a count per byte over each value."""
    ends = np.cumsum(lengths)
    running: Ints = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=running[1:])
    sums: Ints = running[ends] - running[ends - lengths]
    return sums


def _utf16(data: Bytes, lengths: Ints) -> tuple[Bytes, Ints]:
    """Turn UTF-8 into UTF-16LE, all values at once."""
    if not len(data) or data.max() < 0x80:
        wide = np.zeros((len(data), 2), np.uint8)
        wide[:, 0] = data
        return wide.reshape(-1), lengths * 2
    raw = data.tobytes().decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    units = ((data & 0xC0) != 0x80).astype(np.int64) + (data >= 0xF0)
    return np.frombuffer(raw, np.uint8), _per_value(units, lengths) * 2


def _code_page(data: Bytes, lengths: Ints, codec: str, *, multi_byte: bool) -> tuple[Bytes, Ints]:
    """Turn UTF-8 into a code page; what it lacks becomes a question mark, as in SQL Server."""
    if codec == "utf-8" or not len(data) or data.max() < 0x80:
        return data, lengths
    text = data.tobytes().decode("utf-8", "surrogatepass")
    if not multi_byte:
        raw = text.encode(codec, "replace")
        return np.frombuffer(raw, np.uint8), _per_value(((data & 0xC0) != 0x80).astype(np.int64), lengths)
    # Bytes per character differ, so each value is encoded for itself; these code pages are rare.
    raw_data, starts = data.tobytes(), np.cumsum(lengths) - lengths
    values = [
        raw_data[start : start + length].decode("utf-8", "surrogatepass").encode(codec, "replace")
        for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
    ]
    sizes = np.fromiter((len(value) for value in values), np.int64, len(values))
    return np.frombuffer(b"".join(values), np.uint8), sizes


def _wire_bytes(array: pa.Array, sql_type: SqlType) -> tuple[Bytes, Ints]:
    """Return each value's bytes as the wire sends them; raw bytes stay as they are."""
    if is_bytes(array):
        return byte_runs(array)
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = array.cast(pa.large_string())
    data, lengths = byte_runs(array)
    if sql_type.name in _NATIONAL:
        return _utf16(data, lengths)
    if sql_type.name in ("char", "varchar", "text"):
        found = collation(sql_type.collation)
        return _code_page(data, lengths, found.codec, multi_byte=found.multi_byte)
    return data, lengths


def _padded(data: Bytes, lengths: Ints, size: int, pad: bytes) -> Bytes:
    """Return values as rows of one width, filled up with blanks or zeros."""
    body = np.empty((len(lengths), size), np.uint8)
    body[:] = np.frombuffer(pad * (size // len(pad)), np.uint8)
    body[np.arange(size) < lengths[:, None]] = data
    return body


def _chunked(data: Bytes, lengths: Ints, valid: Mask | None) -> Column:
    """Return values as PLP: total length, one chunk, terminator (which alone stands for an empty value)."""
    head = length_head(lengths, valid, "<i8", _PLP_NULL)
    chunk = little_endian(lengths, "<u4")
    terminator = Fixed(constant(len(lengths), b"\x00" * 4), present=lengths > 0)
    return Column(head, (Fixed(chunk), Varying.of(data, lengths), terminator), valid)


def encode_text(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode (n)(var)char, (var)binary, rowversion, xml and CLR types.

    :raises SqlError: 2628 when a value is longer than its column.
    """
    data, lengths = _wire_bytes(array, sql_type)
    valid = validity(array)
    if is_plp(sql_type):
        return _chunked(data, lengths, valid)
    limit = 8 if sql_type.name == "rowversion" else sql_type.length or 1
    size = limit * 2 if sql_type.name in _NATIONAL else limit
    if len(lengths) and lengths.max() > size:
        raise SqlError(2628, f"String or binary data would be truncated: {lengths.max()} bytes in {size}.")
    if sql_type.name in ("char", "nchar", "binary"):
        pad = {"char": b" ", "nchar": b" \x00", "binary": b"\x00"}[sql_type.name]
        body = _padded(data, lengths, size, pad)
        return Column(length_head(np.full(len(array), size), valid, "<u2", 0xFFFF), (Fixed(body),), valid)
    return Column(length_head(lengths, valid, "<u2", 0xFFFF), (Varying.of(data, lengths),), valid)


def encode_lob(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode text, ntext and image: a text pointer, a timestamp, then a 32-bit length."""
    data, lengths = _wire_bytes(array, sql_type)
    valid = validity(array)
    rest = (
        Fixed(constant(len(array), _TEXT_POINTER[1:])),
        Fixed(little_endian(lengths, "<u4")),
        Varying.of(data, lengths),
    )
    return Column(length_head(np.full(len(array), 16), valid, "<u1", 0), rest, valid)


def encode_uniqueidentifier(array: pa.Array, sql_type: SqlType, *, nullable: bool) -> Column:
    """Encode GUIDs: from 16 raw bytes as they are; from text or UUIDs with the first three groups little-endian."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
        swapped = _guid_bytes(array)
        return sized(swapped[:, [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15]], array, nullable=True)
    if is_bytes(array):
        return sized(_guid_bytes(array), array, nullable=True)
    raw = [b"\x00" * 16 if value is None else uuid.UUID(value).bytes_le for value in array.to_pylist()]
    body = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, 16)
    return sized(body, array, nullable=True)


def _guid_bytes(array: pa.Array) -> Bytes:
    data, lengths = byte_runs(array)
    valid = validity(array)
    if (lengths[valid] if valid is not None else lengths).tolist().count(16) != len(array) - array.null_count:
        raise ValueError("a uniqueidentifier has 16 bytes")
    body = np.zeros((len(array), 16), np.uint8)
    body[slice(None) if valid is None else valid] = data.reshape(-1, 16)
    return body
