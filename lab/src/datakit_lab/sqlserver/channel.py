"""One client's socket: packets in, buffers out, TLS in between when it was agreed."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np

from datakit_lab.sqlserver.login import Malformed
from datakit_lab.sqlserver.packets import END_OF_MESSAGE, HEADER, IGNORE, Buffer, Message, Packet, packet

_RECEIVE: Final = 1 << 16
_LARGEST_MESSAGE: Final = 1 << 30


class Disconnected(ConnectionError):
    """The client is gone."""


class Channel:
    """Reads packets from a non-blocking socket and writes buffers to it; encrypts when TLS is on.

    Reading and writing may happen at the same time (an attention arrives while rows go out); each alone may not.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._plain = bytearray()
        self._tls: ssl.SSLObject | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()

    @property
    def encrypted(self) -> bool:
        """Whether TLS is on now."""
        return self._tls is not None

    async def first_byte(self) -> int:
        """Return the first byte without taking it; 0x16 means that the client begins with TLS (TDS 8.0)."""
        await self._need(1)
        return self._plain[0]

    async def read_packet(self) -> tuple[int, int, bytes]:
        """Return one packet: its type, status and body.

        :raises Disconnected: the client closed the connection.
        :raises Malformed: the bytes are no packet.
        """
        await self._need(HEADER)
        kind, status, length = struct.unpack_from(">BBH", self._plain)
        if length < HEADER:
            raise Malformed(f"a packet of {length} bytes cannot be")
        await self._need(length)
        body = bytes(self._plain[HEADER:length])
        del self._plain[:length]
        return kind, status, body

    async def read_message(self) -> Message:
        """Return one whole message; a message the client itself cancelled (IGNORE) comes with an empty body.

        :raises Disconnected: the client closed the connection.
        :raises Malformed: packets of different types are mixed, or the message is larger than 1 GiB.
        """
        kind, first_status, body = await self.read_packet()
        status, parts, size = first_status, [body], len(body)
        while not status & END_OF_MESSAGE:
            next_kind, status, body = await self.read_packet()
            if next_kind != kind:
                raise Malformed(f"packet type {next_kind:#04x} within a message of type {kind:#04x}")
            size += len(body)
            if size > _LARGEST_MESSAGE:
                raise Malformed("a message of more than 1 GiB")
            parts.append(body)
        if status & IGNORE:
            return Message(kind, first_status | IGNORE, b"")
        return Message(kind, first_status, b"".join(parts))

    async def write(self, buffers: Sequence[Buffer]) -> None:
        """Send buffers in order; returns when the socket took them, so a slow client slows its sender.

        :raises Disconnected: the client closed the connection.
        """
        for buffer in buffers:
            if self._tls is None:
                await self._send(buffer)
                continue
            view = memoryview(buffer.data if isinstance(buffer, np.ndarray) else buffer).cast("B")
            for start in range(0, len(view), 1 << 18):
                self._tls.write(view[start : start + (1 << 18)])
                await self._send(self._outgoing.read())

    async def handshake(self, context: ssl.SSLContext, *, wrapped: bool) -> None:
        """Do the server's side of the TLS handshake, each flight wrapped in PRELOGIN packets or bare (TDS 8.0).

        :raises Disconnected: the client gave up.
        :raises ssl.SSLError: the client refused the certificate or speaks no common version.
        """
        tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        if not wrapped:
            self._incoming.write(bytes(self._plain))
            self._plain.clear()
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flight(wrapped=wrapped)
                if wrapped:
                    _, _, body = await self.read_packet()
                    self._incoming.write(body)
                else:
                    self._incoming.write(await self._receive())
            else:
                break
        await self._flight(wrapped=wrapped)
        self._tls = tls

    def end_encryption(self) -> None:
        """Go on in the clear: the login was all that this client wanted encrypted."""
        self._tls = None

    async def close(self) -> None:
        """Close the connection in order: what was sent still arrives."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            # Closing with unread input would send RST, and the client would lose what we sent.
            async with asyncio.timeout(0.5):
                while await self._loop.sock_recv(self._socket, _RECEIVE):
                    pass
        except (OSError, TimeoutError):
            return
        finally:
            self._socket.close()

    async def _flight(self, *, wrapped: bool) -> None:
        raw = self._outgoing.read()
        if raw:
            await self._send(packet(Packet.PRELOGIN, raw, 1, last=True) if wrapped else raw)

    async def _need(self, count: int) -> None:
        while len(self._plain) < count:
            if self._tls is None:
                self._plain += await self._receive()
                continue
            try:
                self._plain += self._tls.read(_RECEIVE)
            except ssl.SSLWantReadError:
                self._incoming.write(await self._receive())
            except ssl.SSLError as reason:
                raise Disconnected(str(reason)) from reason

    async def _receive(self) -> bytes:
        try:
            data = await self._loop.sock_recv(self._socket, _RECEIVE)
        except OSError as reason:
            raise Disconnected(str(reason)) from reason
        if not data:
            raise Disconnected("the client closed the connection")
        return data

    async def _send(self, buffer: Buffer) -> None:
        try:
            await self._loop.sock_sendall(self._socket, buffer.data if isinstance(buffer, np.ndarray) else buffer)
        except OSError as reason:
            raise Disconnected(str(reason)) from reason
