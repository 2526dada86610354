"""The server's side of a WebSocket (RFC 6455), as far as a client's exec needs it: no extension, no compression."""

from __future__ import annotations

import base64
import hashlib
import socket
import struct
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_MOST: Final = 32 * 1024 * 1024


class WebSocketClosed(Exception):
    """The client closed the connection, or broke the protocol."""


def accept_key(key: str) -> str:
    """Return the ``Sec-WebSocket-Accept`` for a client's ``Sec-WebSocket-Key``.

    >>> accept_key("dGhlIHNhbXBsZSBub25jZQ==")
    's3pPLMBiTxaQ9kYGzzhZRbK+xOo='
    """
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


class WebSocket:
    """Messages over a connection whose handshake is done. For one thread: TLS connections are not safe for two."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def pending(self) -> bool:
        """Whether bytes wait in the TLS layer, where ``select`` does not see them."""
        count = getattr(self.connection, "pending", None)
        return bool(count and count())

    def receive(self) -> bytes | None:
        """Return the next message, or None after a ping, which is answered.

        :raises WebSocketClosed: there will be no more.
        """
        message = b""
        while True:
            last, kind, payload = self._frame()
            if kind == _CLOSE:
                raise WebSocketClosed
            if kind == _PING:
                self._send(_PONG, payload)
            if kind in {_PING, _PONG}:
                if message:
                    continue
                return None
            message += payload
            if last:
                return message

    def send(self, message: bytes) -> None:
        """Send a binary message.

        :raises WebSocketClosed: the client is gone.
        """
        self._send(_BINARY, message)

    def close(self, code: int = 1000) -> None:
        """Say goodbye; nothing happens if the client is gone."""
        try:
            self._send(_CLOSE, struct.pack(">H", code))
        except WebSocketClosed:
            return

    def _frame(self) -> tuple[bool, int, bytes]:
        first, second = self._exactly(2)
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._exactly(8))
        if not second & 0x80 or first & 0x70 or size > _MOST:  # clients mask, use no extension, and send no novels
            self.close(1002)
            raise WebSocketClosed
        mask = self._exactly(4)
        payload = self._exactly(size)
        repeated = (mask * (size // 4 + 1))[:size]
        plain = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        return bool(first & 0x80), first & 0x0F, plain

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                piece = self.connection.recv(size - len(data))
            except OSError:
                raise WebSocketClosed from None
            if not piece:
                raise WebSocketClosed
            data += piece
        return data

    def _send(self, kind: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes([0x80 | kind])
        if size < 126:
            head += bytes([size])
        elif size < 1 << 16:
            head += struct.pack(">BH", 126, size)
        else:
            head += struct.pack(">BQ", 127, size)
        try:
            self.connection.sendall(head + payload)
        except OSError:
            raise WebSocketClosed from None
