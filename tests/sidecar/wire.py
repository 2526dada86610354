"""The wire between sidecar and KDC: a relay that remembers what it carries.

What a KDC answers holds tickets. Who has the realm's own key can decrypt a ticket-granting ticket and see its session
key, which is the one secret that a test could not know otherwise. Structures: RFC 4120, 5.3 to 5.4; encryption:
RFC 3961, 5.1 and RFC 3962.
"""

from __future__ import annotations

import hmac
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

import krb5
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from datakit_lab.network import LOOPBACK

from .stage import fixed_port

_TICKET_USAGE: Final = 2
_LARGEST: Final = 65_536
_BLOCK: Final = 16
_MAC: Final = 12
_AS_REPLY, _TGS_REPLY, _TICKET, _ENC_TICKET = 0x6B, 0x6D, 0x61, 0x63
_EXPLICIT: Final = 0xA0


class Relay:
    """Carries datagrams to a KDC and its answers back. TCP is refused; small messages do not need it.

    :ivar answers: everything that the KDC said.
    """

    def __init__(self, kdc_port: int) -> None:
        self.port = fixed_port()
        self.answers: list[bytes] = []
        self._kdc = (LOOPBACK, kdc_port)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, self.port))
        self._thread = threading.Thread(target=self._carry, name="relay", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.sendto(b"", (LOOPBACK, self.port))
        self._thread.join()
        self._socket.close()

    def _carry(self) -> None:
        while True:
            request, client = self._socket.recvfrom(_LARGEST)
            if not request:
                return
            threading.Thread(target=self._ask, args=(request, client), daemon=True).start()

    def _ask(self, request: bytes, client: tuple[str, int]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            try:
                asking.connect(self._kdc)
                asking.send(request)
                answer = asking.recv(_LARGEST)
            except OSError:  # the KDC is away; a client hears as much as it would on a network
                return
        self.answers.append(answer)
        self._socket.sendto(answer, client)


def granting_session_keys(answers: list[bytes], keytab: krb5.KeyTab) -> list[bytes]:
    """Return the session keys of the ticket-granting tickets that a KDC gave.

    :param keytab: the realm's own key.
    """
    keys = {entry.key.enctype: entry.key.data for entry in keytab}
    return [
        _session_key(cipher, keys[enctype])
        for answer in answers
        if answer[0] in (_AS_REPLY, _TGS_REPLY)
        for service, enctype, cipher in [_ticket(answer)]
        if service.startswith("krbtgt/")
    ]


def _ticket(answer: bytes) -> tuple[str, int, bytes]:
    """Return a reply's ticket: its service, its encryption type and what is encrypted."""
    reply = _fields(_inner(_inner(answer)))
    ticket = _fields(_inner(_inner(reply[5])))
    names = _children(_inner(_fields(_inner(ticket[2]))[1]))
    part = _fields(_inner(ticket[3]))
    service = "/".join(name.decode() for _, name in names)
    return service, int.from_bytes(_inner(part[0]), "big"), _inner(part[2])


def _session_key(cipher: bytes, key: bytes) -> bytes:
    part = _fields(_inner(_inner(_decrypted(cipher, key, _TICKET_USAGE))))
    return _inner(_fields(_inner(part[1]))[1])


def _children(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element of a DER sequence."""
    offset = 0
    while offset < len(data):
        tag, length, offset = data[offset], data[offset + 1], offset + 2
        if length & 0x80:
            count = length & 0x7F
            length, offset = int.from_bytes(data[offset : offset + count], "big"), offset + count
        yield tag, data[offset : offset + length]
        offset += length


def _fields(data: bytes) -> dict[int, bytes]:
    """Return the content of a sequence's elements by their explicit tags."""
    return {tag - _EXPLICIT: content for tag, content in _children(data)}


def _inner(data: bytes) -> bytes:
    return next(content for _, content in _children(data))


def _decrypted(cipher: bytes, key: bytes, usage: int) -> bytes:
    """Return what was encrypted with aes256-cts-hmac-sha1-96 or aes128-cts-hmac-sha1-96.

    :raises ValueError: it was encrypted with another key.
    """
    encrypted, mac = cipher[:-_MAC], cipher[-_MAC:]
    plain = _cts_decrypted(encrypted, _derived(key, usage, 0xAA))
    if not hmac.compare_digest(mac, hmac.digest(_derived(key, usage, 0x55), plain, "sha1")[:_MAC]):
        raise ValueError("the checksum differs")
    return plain[_BLOCK:]


def _derived(key: bytes, usage: int, kind: int) -> bytes:
    block = _folded(usage.to_bytes(4, "big") + bytes([kind]))
    made = b""
    while len(made) < len(key):
        block = _encrypted_block(block, key)
        made += block
    return made[: len(key)]


def _folded(data: bytes) -> bytes:
    """Fold five bytes to sixteen (RFC 3961, 5.1): copies, each turned 13 bits further, added with end-around carry."""
    bits = len(data) * 8
    number = int.from_bytes(data, "big")
    copies = b"".join(
        ((number >> turn | number << (bits - turn)) & ((1 << bits) - 1)).to_bytes(len(data), "big")
        for turn in (13 * copy % bits for copy in range(_BLOCK))
    )
    most = (1 << 8 * _BLOCK) - 1
    total = sum(int.from_bytes(copies[at : at + _BLOCK], "big") for at in range(0, len(copies), _BLOCK))
    while total > most:
        total = (total & most) + (total >> 8 * _BLOCK)
    return total.to_bytes(_BLOCK, "big")


def _encrypted_block(block: bytes, key: bytes) -> bytes:
    worker = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # one block
    return worker.update(block) + worker.finalize()


def _cts_decrypted(encrypted: bytes, key: bytes) -> bytes:
    """Undo AES in CBC mode with ciphertext stealing, where the last two blocks are always swapped (RFC 3962, 5)."""
    rest = len(encrypted) % _BLOCK or _BLOCK
    head, second_last, last = encrypted[: -_BLOCK - rest], encrypted[-_BLOCK - rest : -rest], encrypted[-rest:]
    one = Cipher(algorithms.AES(key), modes.ECB()).decryptor()
    stolen = one.update(second_last) + one.finalize()
    whole = head + last + stolen[rest:] + second_last
    worker = Cipher(algorithms.AES(key), modes.CBC(bytes(_BLOCK))).decryptor()
    plain = worker.update(whole) + worker.finalize()
    return plain[: len(encrypted)]
