"""The tokens of a server's answer, as bytes (MS-TDS 2.2.7)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from typing import Final

from datakit_lab.sqlserver.backend import ResultColumn
from datakit_lab.sqlserver.collations import collation
from datakit_lab.sqlserver.typeinfo import LOBS, b_varchar, canonical, type_info, us_varchar, user_type

SERVER_NAME: Final = "datakit-lab"
PROGRAM: Final = "Microsoft SQL Server"
VERSION: Final = (16, 0, 4105)
TDS_74: Final = 0x74000004


class DoneStatus(IntFlag):
    """The status bits of DONE, DONEPROC and DONEINPROC."""

    FINAL = 0x00
    MORE = 0x01
    ERROR = 0x02
    COUNT = 0x10
    ATTENTION = 0x20


class Done(IntEnum):
    """Which of the three ends is meant: of a statement, of a procedure, of a statement in a procedure."""

    STATEMENT = 0xFD
    PROCEDURE = 0xFE
    IN_PROCEDURE = 0xFF


class Change(IntEnum):
    """The kinds of ENVCHANGE that we send."""

    DATABASE = 1
    LANGUAGE = 2
    PACKET_SIZE = 4
    COLLATION = 7
    BEGIN = 8
    COMMIT = 9
    ROLLBACK = 10
    RESET = 18


# CurCmd of DONE: drivers take a count as a SELECT's when it says so
SELECT_COMMAND: Final = 0xC1


def done(kind: Done, status: DoneStatus, count: int = 0, command: int = 0) -> bytes:
    """End a statement or procedure."""
    return struct.pack("<BHHQ", kind, status, command, count)


def return_status(value: int) -> bytes:
    """Return a procedure's status."""
    return struct.pack("<Bi", 0x79, value)


def _environment(body: bytes) -> bytes:
    return struct.pack("<BH", 0xE3, len(body)) + body


def environment_text(change: Change, new: str, old: str) -> bytes:
    """Tell of a change whose values are text: database, language, packet size."""
    return _environment(bytes([change]) + b_varchar(new) + b_varchar(old))


def environment_bytes(change: Change, new: bytes, old: bytes) -> bytes:
    """Tell of a change whose values are bytes: collation, transaction descriptors."""
    return _environment(bytes([change, len(new)]) + new + bytes([len(old)]) + old)


def default_collation() -> bytes:
    """Tell the server's collation, as after every login."""
    return environment_bytes(Change.COLLATION, collation(None).wire, b"")


def message(token: int, number: int, text: str, *, severity: int, state: int, line: int, procedure: str = "") -> bytes:
    """Return an ERROR (0xAA) or INFO (0xAB) token."""
    body = (
        struct.pack("<iBB", number, state, severity)
        + us_varchar(text)
        + b_varchar(SERVER_NAME)
        + b_varchar(procedure)
        + struct.pack("<i", line)
    )
    return struct.pack("<BH", token, len(body)) + body


def error(number: int, text: str, *, severity: int = 16, state: int = 1, line: int = 1) -> bytes:
    """Return an ERROR token; the text is cut to what a token holds."""
    return message(0xAA, number, text[:20_000], severity=severity, state=state, line=line)


def info(number: int, text: str, *, severity: int = 0, state: int = 1) -> bytes:
    """Return an INFO token."""
    return message(0xAB, number, text[:20_000], severity=severity, state=state, line=1)


def login_ack(tds_version: int) -> bytes:
    """Accept a login."""
    major, minor, build = VERSION
    version = struct.pack(">BBH", major, minor, build)
    body = b"\x01" + struct.pack(">I", tds_version) + b_varchar(PROGRAM) + version
    return struct.pack("<BH", 0xAD, len(body)) + body


def feature_ack(features: Mapping[int, bytes]) -> bytes:
    """Acknowledge features of LOGIN7's extension; those left out are refused."""
    body = b"".join(struct.pack("<BI", feature, len(data)) + data for feature, data in features.items())
    return b"\xae" + body + b"\xff"


def sspi(token: bytes) -> bytes:
    """Send one leg of an authentication that needs more."""
    return struct.pack("<BH", 0xED, len(token)) + token


def column_metadata(columns: Sequence[ResultColumn]) -> bytes:
    """Announce a result set's columns.

    :raises ValueError: a type the wire does not know.
    """
    parts = [struct.pack("<BH", 0x81, len(columns))]
    for column in columns:
        sql_type = canonical(column.type)
        flags = int(column.nullable) | int(column.identity) << 4 | int(column.computed) << 5
        if not (column.identity or column.computed or sql_type.name == "rowversion"):
            flags |= 0x08  # "updatable unknown", which is what SQL Server says of a plain column
        table = b"\x01" + us_varchar("") if sql_type.name in LOBS else b""
        parts += [
            struct.pack("<IH", user_type(sql_type), flags),
            type_info(sql_type, nullable=column.nullable),
            table,
            b_varchar(column.name),
        ]
    return b"".join(parts)
