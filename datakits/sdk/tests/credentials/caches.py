"""Credential caches written by hand, where a real KDC would not make what a test needs."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

Entry = tuple[str, datetime, datetime | None]
"""Service, start and end; an end of None is a removed entry."""


def cache(entries: Sequence[Entry], *, version: int = 4, client: str = "svc") -> bytes:
    """Return a cache of ``client@LAB.TEST``."""
    head = b"\x05" + bytes([version])
    if version == 4:
        head += struct.pack(">H", 12) + struct.pack(">HHII", 1, 8, 0, 0)
    body = b"".join(
        _entry(service, "X-CACHECONF:" if service.startswith("krb5_ccache_conf") else "LAB.TEST", starts, ends, version)
        for service, starts, ends in entries
    )
    return head + _principal(client, "LAB.TEST") + body


def written(path: Path, data: bytes) -> str:
    """Write a cache at once, as the sidecar does; return its name."""
    scratch = path.with_name(f".{path.name}")
    scratch.write_bytes(data)
    scratch.replace(path)
    return f"FILE:{path}"


def _data(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _principal(name: str, realm: str) -> bytes:
    parts = name.split("/")
    return struct.pack(">II", 1, len(parts)) + _data(realm.encode()) + b"".join(_data(part.encode()) for part in parts)


def _entry(service: str, realm: str, starts: datetime, ends: datetime | None, version: int) -> bytes:
    begin, end = int(starts.timestamp()), 0 if ends is None else int(ends.timestamp())
    return (
        _principal("svc", "LAB.TEST")
        + _principal(service, realm)
        + struct.pack(">H", 18) * (2 if version == 3 else 1)
        + _data(b"k" * 32)
        + struct.pack(">IIII", begin, begin, end, 0)
        + b"\0"
        + struct.pack(">I", 0x40E10000)
        + struct.pack(">I", 1)
        + struct.pack(">H", 2)
        + _data(b"\x7f\0\0\1")
        + struct.pack(">I", 0)
        + _data(b"ticket" * 50)
        + _data(b"")
    )
