"""The WebSocket that carries a client's exec: RFC 6455, as far as it is needed."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from datakit_lab.kubernetes._websocket import WebSocket, WebSocketClosed, accept_key


@pytest.fixture
def pair() -> Iterator[tuple[WebSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(5)
        yield WebSocket(ours), theirs


def frame(kind: int, payload: bytes, *, last: bool = True, masked: bool = True) -> bytes:
    """Return a frame as a client sends it."""
    first, size, bit = kind | (0x80 if last else 0), len(payload), 0x80 if masked else 0
    if size < 126:
        head = struct.pack(">BB", first, bit | size)
    elif size < 65536:
        head = struct.pack(">BBH", first, bit | 126, size)
    else:
        head = struct.pack(">BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    mask = b"\x01\x02\x03\x04"
    return head + mask + bytes(byte ^ mask[number % 4] for number, byte in enumerate(payload))


def test_the_key_is_that_of_the_standard() -> None:
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
def test_messages_of_every_length_arrive_in_both_directions(pair: tuple[WebSocket, socket.socket], size: int) -> None:
    server, client = pair
    payload = bytes(number % 251 for number in range(size))
    client.sendall(frame(2, payload))
    assert server.receive() == payload
    server.send(payload)
    received = b""
    while len(received) < len(frame(2, payload, masked=False)):
        received += client.recv(1 << 20)
    assert received == frame(2, payload, masked=False)


def test_a_message_in_pieces_is_one_also_with_a_ping_between(pair: tuple[WebSocket, socket.socket]) -> None:
    server, client = pair
    client.sendall(frame(2, b"one ", last=False) + frame(9, b"are you there") + frame(0, b"two"))
    assert server.receive() == b"one two"
    assert client.recv(100) == frame(10, b"are you there", masked=False)


def test_a_ping_alone_is_answered_and_is_no_message(pair: tuple[WebSocket, socket.socket]) -> None:
    server, client = pair
    client.sendall(frame(9, b""))
    assert server.receive() is None


@pytest.mark.parametrize(
    "sent",
    [
        frame(8, b"\x03\xe8"),
        frame(2, b"not masked", masked=False),
        b"\xc2" + frame(2, b"an extension")[1:],
        b"\x82\xff" + struct.pack(">Q", 1 << 40),
        b"\x82",
    ],
)
def test_who_says_goodbye_or_breaks_the_protocol_is_gone(pair: tuple[WebSocket, socket.socket], sent: bytes) -> None:
    server, client = pair
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(WebSocketClosed):
        server.receive()
