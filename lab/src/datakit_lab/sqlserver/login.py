"""PRELOGIN and LOGIN7: what a client says before it may ask anything (MS-TDS 2.2.6.4-5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from datakit_lab.sqlserver.tokens import VERSION

UTF8_SUPPORT: Final = 0x0A
_VERSION_OPTION, _ENCRYPTION_OPTION, _MARS_OPTION, _END = 0x00, 0x01, 0x04, 0xFF
_INTEGRATED_SECURITY = 0x80
_READ_ONLY_INTENT = 0x20
_EXTENSION = 0x10


class Malformed(ValueError):
    """The client sent bytes that are no TDS; SQL Server ends such a connection."""


class Encryption(IntEnum):
    """PRELOGIN's ENCRYPTION."""

    OFF = 0
    ON = 1
    NOT_SUPPORTED = 2
    REQUIRED = 3


def client_encryption(body: bytes) -> Encryption:
    """Return the encryption that a PRELOGIN message asks for.

    :raises Malformed: an option points outside the message.
    """
    at = 0
    while at < len(body) and body[at] != _END:
        if at + 5 > len(body):
            raise Malformed("PRELOGIN ends within an option")
        option, offset, length = struct.unpack_from(">BHH", body, at)
        if option == _ENCRYPTION_OPTION:
            if length < 1 or offset >= len(body):
                raise Malformed("PRELOGIN's encryption lies outside the message")
            return Encryption(body[offset] & 0x03)
        at += 5
    return Encryption.NOT_SUPPORTED


def prelogin_answer(encryption: Encryption) -> bytes:
    """Return the server's PRELOGIN: version, encryption, no MARS."""
    major, minor, build = VERSION
    values = [
        (_VERSION_OPTION, struct.pack(">BBHH", major, minor, build, 0)),
        (_ENCRYPTION_OPTION, bytes([encryption])),
        (_MARS_OPTION, b"\x00"),
    ]
    at = 5 * len(values) + 1
    head = b""
    for option, value in values:
        head += struct.pack(">BHH", option, at, len(value))
        at += len(value)
    return head + bytes([_END]) + b"".join(value for _, value in values)


@dataclass(frozen=True, slots=True)
class Login7:
    """A LOGIN7 message, read.

    :ivar sspi: the first token of an integrated login; None for a SQL login.
    :ivar features: feature id → data, as the client asked.
    """

    tds_version: int
    packet_size: int
    host: str
    user: str
    password: str = field(repr=False)
    application: str
    database: str
    language: str
    sspi: bytes | None = field(repr=False)
    read_only_intent: bool
    features: dict[int, bytes]


def _clear_password(raw: bytes) -> str:
    """Undo LOGIN7's obfuscation: each byte has its halves swapped and was XORed with 0xA5."""
    plain = bytes(((byte ^ 0xA5) >> 4 | (byte ^ 0xA5) << 4) & 0xFF for byte in raw)
    return plain.decode("utf-16-le", "surrogatepass")


def _features(body: bytes, at: int) -> dict[int, bytes]:
    features: dict[int, bytes] = {}
    while at < len(body) and body[at] != 0xFF:
        feature, length = struct.unpack_from("<BI", body, at)
        features[feature] = body[at + 5 : at + 5 + length]
        at += 5 + length
    return features


def parse_login7(body: bytes) -> Login7:
    """Read LOGIN7.

    :raises Malformed: it is too short or points outside itself.
    """
    try:
        return _parse_login7(body)
    except (struct.error, IndexError, UnicodeDecodeError) as reason:
        raise Malformed(f"LOGIN7 cannot be read: {reason}") from reason


def _parse_login7(body: bytes) -> Login7:
    _, tds_version, packet_size = struct.unpack_from("<III", body, 0)
    _, flags2, type_flags, flags3 = struct.unpack_from("<BBBB", body, 24)

    def raw(slot: int, unit: int = 2) -> bytes:
        offset, length = struct.unpack_from("<HH", body, slot)
        if offset + length * unit > len(body):
            raise Malformed("a field of LOGIN7 lies outside the message")
        return body[offset : offset + length * unit]

    def text(slot: int) -> str:
        return raw(slot).decode("utf-16-le", "surrogatepass")

    sspi: bytes | None = None
    if flags2 & _INTEGRATED_SECURITY:
        offset, length = struct.unpack_from("<HH", body, 78)
        if length == 0xFFFF:
            (length,) = struct.unpack_from("<I", body, 90)
        sspi = body[offset : offset + length]
    features: dict[int, bytes] = {}
    if flags3 & _EXTENSION:
        (pointer,) = struct.unpack_from("<I", raw(56, 1), 0)
        features = _features(body, pointer)
    return Login7(
        tds_version=tds_version,
        packet_size=packet_size,
        host=text(36),
        user=text(40),
        password=_clear_password(raw(44)),
        application=text(48),
        database=text(68),
        language=text(64),
        sspi=sspi,
        read_only_intent=bool(type_flags & _READ_ONLY_INTENT),
        features=features,
    )
