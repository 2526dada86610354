"""As much of DER as Kerberos messages need: reading elements, and writing the few that a probe sends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

INTEGER: Final = 0x02
OCTETS: Final = 0x04
SEQUENCE: Final = 0x30
GENERAL_STRING: Final = 0x1B
GENERALIZED_TIME: Final = 0x18


def elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tag and content of each element.

    :raises ValueError: the data ends in the middle of one, or has a tag or length that Kerberos does not use.
    """
    offset = 0
    while offset < len(data):
        tag, length, offset = data[offset], data[offset + 1 : offset + 2], offset + 2
        if not length or tag & 0x1F == 0x1F:
            raise ValueError("an element has no length, or a long tag")
        size = length[0]
        if size & 0x80:
            count = size & 0x7F
            if not 1 <= count <= 4:
                raise ValueError("a length of this form is not DER")
            size, offset = int.from_bytes(data[offset : offset + count], "big"), offset + count
        if offset + size > len(data):
            raise ValueError("an element is longer than its data")
        yield tag, data[offset : offset + size]
        offset += size


def fields(sequence: bytes) -> dict[int, bytes]:
    """Return the content of the context-tagged elements of a sequence's content by their number, without the tag.

    :raises ValueError: as :func:`elements`.
    """
    return {tag & 0x1F: next(elements(content))[1] for tag, content in elements(sequence) if tag & 0xE0 == 0xA0}


def write(tag: int, *contents: bytes) -> bytes:
    """Return an element."""
    content = b"".join(contents)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    """Return an INTEGER."""
    return write(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def text(value: str) -> bytes:
    """Return a KerberosString."""
    return write(GENERAL_STRING, value.encode())


def field(number: int, content: bytes) -> bytes:
    """Return a context-tagged element."""
    return write(0xA0 | number, content)


def ticket_realm(ticket: bytes) -> str:
    """Return the realm whose KDC issued a ticket (RFC 4120, 5.3).

    :raises ValueError: it is no ticket.
    """
    return _ticket(ticket)[1].decode()


def ticket_kvno(ticket: bytes) -> int | None:
    """Return the version of the service's key that a ticket is encrypted with; None if the KDC does not say.

    :raises ValueError: it is no ticket.
    """
    kvno = fields(_ticket(ticket)[3]).get(1)
    return None if kvno is None else int.from_bytes(kvno, "big")


def _ticket(data: bytes) -> dict[int, bytes]:
    try:
        tag, content = next(elements(data))
        found = fields(next(elements(content))[1])
    except StopIteration:
        raise ValueError("it is no ticket") from None
    if tag != 0x61 or not {1, 3} <= found.keys():
        raise ValueError("it is no ticket")
    return found
