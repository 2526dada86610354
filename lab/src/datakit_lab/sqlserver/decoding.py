"""RPC parameters from the wire to Python values (MS-TDS 2.2.5.5-6, 2.2.6.6)."""

from __future__ import annotations

import datetime
import decimal
import struct
import uuid
from typing import Any, Final

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.collations import codec_of
from datakit_lab.sqlserver.encoding.temporal import DAYS_TO_1900, TICKS_PER_DAY, time_bytes
from datakit_lab.sqlserver.login import Malformed
from datakit_lab.sqlserver.typeinfo import BINARIES, CHARACTERS, FIXED, LOBS, MAX, PLP_LENGTH, SCALED_TIME

_EPOCH: Final = datetime.datetime.min
_PLP_NULL: Final = 0xFFFFFFFFFFFFFFFF
_BY_FIXED_TOKEN: Final = {token: name for name, (token, _, _) in FIXED.items()}
_BY_SIZE: Final = {(nullable, size): name for name, (_, nullable, size) in FIXED.items()}
_NULLABLE_TOKENS: Final = {nullable for _, nullable, _ in FIXED.values()}
_BY_TEXT_TOKEN: Final = {token: name for name, token in CHARACTERS.items()}
_BY_BINARY_TOKEN: Final = {token: name for name, token in BINARIES.items()}
_BY_TIME_TOKEN: Final = {token: name for name, token in SCALED_TIME.items()}
_BY_LOB_TOKEN: Final = {token: name for name, token in LOBS.items()}


class Reader:
    """A cursor over a message's bytes.

    Every method raises Malformed when the message ends too early.
    """

    def __init__(self, data: bytes, at: int = 0) -> None:
        self._data = data
        self._at = at

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        if count < 0 or self._at + count > len(self._data):
            raise Malformed(f"{count} bytes wanted, {len(self._data) - self._at} left")
        raw = self._data[self._at : self._at + count]
        self._at += count
        return raw

    def number(self, size: int) -> int:
        """Return the next little-endian unsigned number of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def b_varchar(self) -> str:
        """Return text with a one-byte length."""
        return _utf16(self.take(self.number(1) * 2))

    def us_varchar(self) -> str:
        """Return text with a two-byte length."""
        return _utf16(self.take(self.number(2) * 2))

    def rest(self) -> bytes:
        """Return everything that is left."""
        return self.take(len(self._data) - self._at)

    def plp(self) -> bytes | None:
        """Return a value sent in chunks; None for NULL."""
        if self.number(8) == _PLP_NULL:
            return None
        chunks: list[bytes] = []
        while size := self.number(4):
            chunks.append(self.take(size))
        return b"".join(chunks)


def skip_headers(reader: Reader) -> int | None:
    """Pass ALL_HEADERS; return the transaction descriptor it holds, None without one."""
    body = Reader(reader.take(reader.number(4) - 4))
    descriptor: int | None = None
    while not body.exhausted:
        length = body.number(4)
        kind = body.number(2)
        data = body.take(length - 6)
        if kind == 2 and len(data) >= 8:
            (descriptor,) = struct.unpack_from("<Q", data)
    return descriptor


def read_parameter(reader: Reader) -> tuple[SqlType, Any]:
    """Read TYPE_INFO and a value.

    datetime2, datetimeoffset and time arrive as Python's types when these can hold them, and as ISO text with seven
    digits when the last digit (100 ns) is not zero.

    :raises SqlError: 8009 a type that is no parameter here (table-valued and CLR types).
    :raises Malformed: the bytes end too early.
    """
    token = reader.number(1)
    if token == 0x1F:
        return SqlType("int"), None
    if token in _BY_FIXED_TOKEN:
        name = _BY_FIXED_TOKEN[token]
        return SqlType(name), _fixed(name, reader.take(FIXED[name][2]))
    if token in _NULLABLE_TOKENS:
        return _sized(reader, token)
    if token in _BY_TIME_TOKEN:
        scale = reader.number(1)
        raw = reader.take(reader.number(1))
        name = _BY_TIME_TOKEN[token]
        return SqlType(name, scale=scale), _scaled_time(name, scale, raw) if raw else None
    if token in _BY_TEXT_TOKEN or token in _BY_BINARY_TOKEN:
        return _short(reader, token)
    return _rare(reader, token)


def _sized(reader: Reader, token: int) -> tuple[SqlType, Any]:
    declared = reader.number(1)
    raw = reader.take(reader.number(1))
    name = _BY_SIZE.get((token, declared))
    if name is None:
        raise Malformed(f"type {token:#04x} has no length {declared}")
    actual = _BY_SIZE.get((token, len(raw)), name)
    return SqlType(name), _fixed(actual, raw) if raw else None


def _short(reader: Reader, token: int) -> tuple[SqlType, Any]:
    name = _BY_TEXT_TOKEN.get(token) or _BY_BINARY_TOKEN[token]
    declared = reader.number(2)
    codec = "utf-16-le" if name.startswith("n") else ""
    if token in _BY_TEXT_TOKEN:
        collation = reader.take(5)
        codec = codec or codec_of(collation)
    length = MAX if declared == PLP_LENGTH else declared // 2 if name.startswith("n") else declared
    if declared == PLP_LENGTH:
        raw = reader.plp()
    else:
        size = reader.number(2)
        raw = None if size == 0xFFFF else reader.take(size)
    return SqlType(name, length=length), _text(raw, codec)


def _rare(reader: Reader, token: int) -> tuple[SqlType, Any]:
    if token in (0x6A, 0x6C, 0x37, 0x3F):
        reader.take(1)
        precision, scale = reader.take(2)
        raw = reader.take(reader.number(1))
        kind = SqlType("decimal" if token in (0x6A, 0x37) else "numeric", precision=precision, scale=scale)
        return kind, _decimal(raw, scale) if raw else None
    if token == 0x28:
        raw = reader.take(reader.number(1))
        return SqlType("date"), datetime.date.fromordinal(int.from_bytes(raw, "little") + 1) if raw else None
    if token == 0x24:
        reader.take(1)
        raw = reader.take(reader.number(1))
        return SqlType("uniqueidentifier"), uuid.UUID(bytes_le=raw) if raw else None
    if token == 0xF1:
        if reader.number(1):
            reader.b_varchar(), reader.b_varchar(), reader.us_varchar()
        return SqlType("xml"), _text(reader.plp(), "utf-16-le")
    if token in _BY_LOB_TOKEN:
        name = _BY_LOB_TOKEN[token]
        reader.take(4)
        codec = "" if name == "image" else codec_of(reader.take(5))
        size = reader.number(4)
        data = None if size == 0xFFFFFFFF else reader.take(size)
        return SqlType(name), _text(data, "utf-16-le" if name == "ntext" else codec)
    if token == 0x62:
        reader.take(4)
        size = reader.number(4)
        return SqlType("sql_variant"), _variant(Reader(reader.take(size))) if size else None
    raise SqlError(8009, f"The incoming RPC protocol stream holds a parameter of type {token:#04x}, unknown here.")


def _variant(reader: Reader) -> Any:
    token, count = reader.number(1), reader.number(1)
    properties = reader.take(count)
    raw = reader.rest()
    if token in _BY_FIXED_TOKEN:
        return _fixed(_BY_FIXED_TOKEN[token], raw)
    if token in _BY_TEXT_TOKEN:
        national = _BY_TEXT_TOKEN[token].startswith("n")
        return _text(raw, "utf-16-le" if national else codec_of(properties[:5]))
    if token in _BY_TIME_TOKEN:
        return _scaled_time(_BY_TIME_TOKEN[token], properties[0], raw)
    if token in (0x6A, 0x6C):
        return _decimal(raw, properties[1])
    if token == 0x28:
        return datetime.date.fromordinal(int.from_bytes(raw, "little") + 1)
    if token == 0x24:
        return uuid.UUID(bytes_le=raw)
    return raw


def _utf16(raw: bytes) -> str:
    return raw.decode("utf-16-le", "surrogatepass")


def _text(raw: bytes | None, codec: str) -> str | bytes | None:
    if raw is None or not codec:
        return raw
    return _utf16(raw) if codec == "utf-16-le" else raw.decode(codec, "replace")


def _decimal(raw: bytes, scale: int) -> decimal.Decimal:
    magnitude = int.from_bytes(raw[1:], "little")
    digits = tuple(int(digit) for digit in str(magnitude))
    return decimal.Decimal((0 if raw[0] else 1, digits, -scale))


def _fixed(name: str, raw: bytes) -> Any:
    if name == "bit":
        return raw[0] != 0
    if name in ("real", "float"):
        return struct.unpack("<f" if name == "real" else "<d", raw)[0]
    if name == "money":
        high, low = struct.unpack("<iI", raw)
        return decimal.Decimal(high << 32 | low).scaleb(-4)
    if name == "smallmoney":
        return decimal.Decimal(struct.unpack("<i", raw)[0]).scaleb(-4)
    if name == "smalldatetime":
        days, minutes = struct.unpack("<HH", raw)
        return _EPOCH + datetime.timedelta(days=days + DAYS_TO_1900, minutes=minutes)
    if name == "datetime":
        days, thirds = struct.unpack("<iI", raw)
        # SQL Server shows 1/300 s rounded to milliseconds (.000, .003, .007)
        milliseconds = (thirds * 10 + 1) // 3
        return _EPOCH + datetime.timedelta(days=days + DAYS_TO_1900, milliseconds=milliseconds)
    return int.from_bytes(raw, "little", signed=name != "tinyint")


def _scaled_time(name: str, scale: int, raw: bytes) -> Any:
    width = time_bytes(scale)
    clock = int.from_bytes(raw[:width], "little") * 10 ** (7 - scale)
    if name == "time":
        moment = _EPOCH + datetime.timedelta(microseconds=clock // 10)
        return moment.time() if clock % 10 == 0 else f"{moment:%H:%M:%S}.{clock % 10_000_000:07d}"
    day = int.from_bytes(raw[width : width + 3], "little")
    ticks = day * TICKS_PER_DAY + clock
    if name == "datetime2":
        moment = _EPOCH + datetime.timedelta(microseconds=ticks // 10)
        return moment if ticks % 10 == 0 else f"{_plain(moment)}.{ticks % 10_000_000:07d}"
    (minutes,) = struct.unpack("<h", raw[width + 3 :])
    local = ticks + minutes * 600_000_000
    moment = _EPOCH + datetime.timedelta(microseconds=local // 10)
    if local % 10:
        sign, absolute = "+-"[minutes < 0], abs(minutes)
        return f"{_plain(moment)}.{local % 10_000_000:07d} {sign}{absolute // 60:02d}:{absolute % 60:02d}"
    return moment.replace(tzinfo=datetime.timezone(datetime.timedelta(minutes=minutes)))


def _plain(moment: datetime.datetime) -> str:
    return moment.replace(microsecond=0).isoformat(sep=" ")
