"""Asks one KDC one question without any key: is it there, does it know the principal, and what time is it there?

The question is an AS-REQ without pre-authentication (RFC 4120, 5.4.1), which no KDC counts as a try. The answer is an
error that holds the KDC's clock, which libkrb5 does not give out.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from datakit_sidecar import _der

_AS_REQ: Final = 10
_AS_REP: Final = 0x6B
_KRB_ERROR: Final = 0x7E
_ENCTYPES: Final = (18, 17, 20, 19, 23)
_LARGEST_BYTES: Final = 1 << 20
PREAUTH_REQUIRED: Final = 25
CLIENT_UNKNOWN: Final = 6
RESPONSE_TOO_BIG: Final = 52
WRONG_REALM: Final = 68
CLIENT_REVOKED: Final = 18


@dataclass(frozen=True, slots=True)
class Answer:
    """What a KDC said.

    :ivar code: its error code (RFC 4120, 7.5.9); 0 if it gave a ticket without pre-authentication.
    :ivar clock: seconds that its clock is ahead of this machine's; None if it does not tell.
    :ivar milliseconds: how long it took.
    :ivar transport: ``UDP`` or ``TCP``.
    """

    code: int
    clock: float | None
    milliseconds: float
    transport: str


def probe(kdc: str, principal: str, *, seconds: float = 3.0) -> Answer:
    """Ask a KDC, by UDP and then by TCP.

    :param kdc: ``host`` or ``host:port``.
    :raises OSError: it cannot be reached, or does not answer in time.
    :raises ValueError: what it answers is not Kerberos.
    """
    host, colon, port = kdc.rpartition(":") if ":" in kdc else (kdc, "", "")
    address = (host or kdc, int(port) if colon else 88)
    request = _request(principal)
    with contextlib.suppress(TimeoutError, ConnectionRefusedError):  # UDP may be blocked where TCP is not
        answer = _by_udp(address, request, seconds)
        if answer.code != RESPONSE_TOO_BIG:
            return answer
    return _by_tcp(address, request, seconds)


def _by_udp(address: tuple[str, int], request: bytes, seconds: float) -> Answer:
    family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(seconds)
        connection.connect(target)
        began = time.monotonic()
        connection.send(request)
        return _read(connection.recv(65535), began, "UDP")


def _by_tcp(address: tuple[str, int], request: bytes, seconds: float) -> Answer:
    with socket.create_connection(address, timeout=seconds) as connection, connection.makefile("rb") as stream:
        began = time.monotonic()
        connection.sendall(len(request).to_bytes(4, "big") + request)
        size = int.from_bytes(stream.read(4), "big")
        if not 0 < size <= _LARGEST_BYTES:
            raise ValueError("the answer is no Kerberos message")
        return _read(stream.read(size), began, "TCP")


def _request(principal: str) -> bytes:
    name, _, realm = principal.rpartition("@")
    till = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y%m%d%H%M%SZ").encode()
    client = _name(1, name.split("/"))
    server = _name(2, ["krbtgt", realm])
    body = _der.write(
        _der.SEQUENCE,
        _der.field(0, _der.write(0x03, bytes(5))),  # no options
        _der.field(1, client),
        _der.field(2, _der.text(realm)),
        _der.field(3, server),
        _der.field(5, _der.write(_der.GENERALIZED_TIME, till)),
        _der.field(7, _der.integer(secrets.randbits(31))),
        _der.field(8, _der.write(_der.SEQUENCE, *map(_der.integer, _ENCTYPES))),
    )
    message = _der.write(
        _der.SEQUENCE,
        _der.field(1, _der.integer(5)),
        _der.field(2, _der.integer(_AS_REQ)),
        _der.field(4, body),
    )
    return _der.write(0x60 | _AS_REQ, message)


def _name(kind: int, parts: list[str]) -> bytes:
    texts = _der.write(_der.SEQUENCE, *map(_der.text, parts))
    return _der.write(_der.SEQUENCE, _der.field(0, _der.integer(kind)), _der.field(1, texts))


def _read(message: bytes, began: float, transport: str) -> Answer:
    milliseconds = (time.monotonic() - began) * 1000
    try:
        tag, content = next(_der.elements(message))
        if tag == _AS_REP:
            return Answer(0, None, milliseconds, transport)
        found = _der.fields(next(_der.elements(content))[1]) if tag == _KRB_ERROR else {}
        code = int.from_bytes(found[6], "big")
        there = datetime.strptime(found[4].decode(), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
        there += timedelta(microseconds=int.from_bytes(found.get(5, b""), "big"))
    except (StopIteration, KeyError, ValueError):
        raise ValueError("the answer is no Kerberos message") from None
    clock = (there - datetime.now(UTC)).total_seconds() + milliseconds / 2000
    return Answer(code, clock, milliseconds, transport)
