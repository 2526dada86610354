"""The floor: log in over TDS, run one SELECT, read the answer's bytes from the socket and throw them away.

Nothing that reads this table from this server through one connection can be faster, because it has to do this too.
Layouts are those of MS-TDS 2.2.6.4 (LOGIN7), 2.2.6.5 (PRELOGIN) and 2.2.6.7 (SQLBatch).
"""

from __future__ import annotations

import socket
import struct

from benchmarks.contenders import job as work

_BATCH, _LOGIN7, _PRELOGIN = 0x01, 0x10, 0x12
_HEADER = 8
_TDS_74 = 0x74000004
_NO_ENCRYPTION = 2
_DONE = 0xFD
_RECEIVE = 1 << 20


def _packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBHHBB", kind, 1, _HEADER + len(body), 0, 1, 0) + body


def _prelogin() -> bytes:
    options = ((0x00, bytes(6)), (0x01, bytes([_NO_ENCRYPTION])))
    at, head, values = 5 * len(options) + 1, b"", b""
    for option, value in options:
        head += struct.pack(">BHH", option, at + len(values), len(value))
        values += value
    return head + b"\xff" + values


def _login7(job: work.Job, packet_size: int) -> bytes:
    scrambled = bytes(((byte << 4 | byte >> 4) & 0xFF) ^ 0xA5 for byte in job.password.encode("utf-16-le"))
    texts = ["bench", job.user, None, "drain", job.host, "", "drain", "", job.database]
    at, slots, data = 94, b"", b""
    for text in texts:
        raw = scrambled if text is None else text.encode("utf-16-le")
        slots += struct.pack("<HH", at + len(data), len(raw) // 2)
        data += raw
    end = at + len(data)
    slots += bytes(6) + struct.pack("<HHHHHHI", end, 0, end, 0, end, 0, 0)
    fixed = struct.pack("<IIIIIBBBBiI", _TDS_74, packet_size, 0, 0, 0, 0xE0, 0x03, 0, 0, 0, 0x409)
    body = fixed + slots + data
    return struct.pack("<I", 4 + len(body)) + body


def _batch(sql: str) -> bytes:
    headers = struct.pack("<IIHQI", 22, 18, 2, 0, 1)
    return headers + sql.encode("utf-16-le")


class _Answers:
    """Reads whole messages and keeps only the end of the last one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray(_RECEIVE)
        self.bytes = 0

    def read(self) -> bytes:
        """Read to the end of a message; return its last bytes (at most 64 KB)."""
        view = memoryview(self._buffer)
        held = at = 0  # bytes in the buffer; where the next packet begins
        while True:
            got = self._connection.recv_into(view[held:])
            if not got:
                raise ConnectionError("the server closed the connection")
            self.bytes += got
            held += got
            while at + _HEADER <= held:
                length = self._buffer[at + 2] << 8 | self._buffer[at + 3]
                if at + length > held:
                    break
                if self._buffer[at + 1] & 1:
                    return bytes(view[at + _HEADER : at + length])
                at += length
            view[: held - at] = view[at:held]
            held, at = held - at, 0


def drain(job: work.Job) -> int:
    """Read the whole table; return the rows that the server says it sent."""
    with socket.create_connection((job.host, job.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = _Answers(connection)
        connection.sendall(_packet(_PRELOGIN, _prelogin()))
        answers.read()
        connection.sendall(_packet(_LOGIN7, _login7(job, job.options["packet_size"])))
        answers.read()
        connection.sendall(_packet(_BATCH, _batch(f"SELECT * FROM dbo.{job.table}")))
        end = answers.read()
    if end[-13] != _DONE:
        raise ConnectionError("the answer does not end in DONE: the login or the query failed")
    return int(struct.unpack_from("<Q", end, len(end) - 8)[0])


if __name__ == "__main__":
    work.run(drain)
