"""TDS packets: what the header says, and a long answer cut into packets (MS-TDS 2.2.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

HEADER: Final = 8
DEFAULT_PACKET_SIZE: Final = 4096
MIN_PACKET_SIZE: Final = 512
MAX_PACKET_SIZE: Final = 32767
MAX_ENCRYPTED_PACKET_SIZE: Final = 16383
"""SQL Server grants no more over TLS, where a larger packet would be two records and Microsoft's driver hangs on it."""

END_OF_MESSAGE: Final = 0x01
IGNORE: Final = 0x02
RESET_CONNECTION: Final = 0x08

Buffer = bytes | bytearray | memoryview | npt.NDArray[np.uint8]


class Packet(IntEnum):
    """Packet types."""

    BATCH = 0x01
    RPC = 0x03
    ANSWER = 0x04
    ATTENTION = 0x06
    BULK = 0x07
    FEDERATED = 0x08
    TRANSACTION = 0x0E
    LOGIN7 = 0x10
    SSPI = 0x11
    PRELOGIN = 0x12


@dataclass(frozen=True, slots=True)
class Message:
    """One whole message from the client.

    :ivar status: the status bits of its first packet (where RESETCONNECTION stands).
    """

    kind: int
    status: int
    body: bytes


def packet(kind: Packet, body: Buffer, number: int, *, last: bool) -> bytes:
    """Return one packet; the length in its header is big-endian, unlike everything else in TDS."""
    return struct.pack(">BBHHBB", kind, int(last), HEADER + len(body), 0, number & 0xFF, 0) + bytes(body)


class Framer:
    """Cuts one answer into packets of the negotiated size, whole packets at a time.

    :param size: the packet size, header included.
    """

    def __init__(self, size: int) -> None:
        self._payload = size - HEADER
        self._left = b""
        self._number = 1

    def feed(self, data: Buffer) -> list[Buffer]:
        """Take token bytes; return the packets that are full, as buffers to send in order."""
        fresh = np.frombuffer(data, np.uint8)
        if len(self._left) + len(fresh) <= self._payload:  # something must be left for the last packet
            self._left += fresh.tobytes()
            return []
        out: list[Buffer] = []
        at = 0
        if self._left:
            at = self._payload - len(self._left)
            out.append(packet(Packet.ANSWER, self._left + fresh[:at].tobytes(), self._next(), last=False))
        whole = (len(fresh) - at - 1) // self._payload
        if whole:
            out.append(self._frame(fresh[at : at + whole * self._payload], whole))
        self._left = fresh[at + whole * self._payload :].tobytes()
        return out

    def close(self) -> bytes:
        """Return the last packet, which ends the message."""
        last = packet(Packet.ANSWER, self._left, self._next(), last=True)
        self._left = b""
        return last

    def flush(self) -> bytes:
        """Return what waits as a packet that does not end the message; for a connection about to be dropped."""
        left, self._left = self._left, b""
        return packet(Packet.ANSWER, left, self._next(), last=False) if left else b""

    def _frame(self, data: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.uint8]:
        out = np.empty((count, HEADER + self._payload), np.uint8)
        out[:, :HEADER] = np.frombuffer(packet(Packet.ANSWER, b"", 0, last=False), np.uint8)
        size = HEADER + self._payload
        out[:, 2], out[:, 3] = size >> 8, size & 0xFF
        out[:, 6] = (np.arange(self._number, self._number + count) & 0xFF).astype(np.uint8)
        out[:, HEADER:] = data.reshape(count, self._payload)
        self._number += count
        return out.reshape(-1)

    def _next(self) -> int:
        number = self._number
        self._number += 1
        return number
