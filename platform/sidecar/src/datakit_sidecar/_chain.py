"""The files of the audit log: lines are added to the newest, a full one is renamed, and the chain goes on.

A file that is full gets the number of its first line as a suffix: ``audit.jsonl.000000000001``.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from datakit_sidecar.settings import AuditSettings

FIRST: Final = "0" * 64
"""What the first line of all says of the line before it."""
_BLOCK_BYTES: Final = 64 << 10
_ROTATED_DIGITS: Final = 12


class ChainFile:
    """The newest file, open for more. Not for two threads at once.

    :ivar head: number and hash of the last line that an earlier process left, in this file or an older one.
    :raises OSError: it cannot be opened.
    """

    def __init__(self, file: Path, settings: AuditSettings) -> None:
        self._file = file
        self._settings = settings
        self._descriptor: int | None = None
        self._is_synced = True
        self._first = 1
        self.head = self._resume(self._opened())

    def append(self, number: int, line: bytes) -> None:
        """Add a line. Once this returns it is written, even if :meth:`sync` fails.

        :raises OSError: nothing of it is written.
        """
        data = line + b"\n"
        descriptor = self._opened()
        size = os.fstat(descriptor).st_size
        if size and size + len(data) > self._settings.rotate_at:
            self._rotate()
            descriptor, size = self._opened(), 0
        if not size:
            self._first = number
        written = os.write(descriptor, data)
        if written < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # why a write to a file is short
        self._is_synced = False

    def sync(self) -> None:
        """Make sure that what was written is on the disk, if the settings want that.

        :raises OSError: it may not be.
        """
        if self._settings.sync and self._descriptor is not None and not self._is_synced:
            os.fsync(self._descriptor)
        self._is_synced = True

    def close(self) -> None:
        """Close the file; :meth:`append` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(self._file, flags, 0o600)
        return self._descriptor

    def _resume(self, descriptor: int) -> tuple[int, str]:
        """Go on where the last process ended; a line that it left cut off is ended, and stays as evidence."""
        older = self._head_of_older()
        size = os.fstat(descriptor).st_size
        if not size:
            return older
        if os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        self._first = number_of(next(_lines(descriptor))) or older[0] + 1
        return _head(descriptor, older[0])

    def _head_of_older(self) -> tuple[int, str]:
        for path in reversed(rotated(self._file)):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_size:
                    return _head(descriptor, first_number(path) - 1)
            finally:
                os.close(descriptor)
        return 0, FIRST

    def _rotate(self) -> None:
        self.sync()
        older = self._file.with_name(f"{self._file.name}.{self._first:0{_ROTATED_DIGITS}}")
        if os.path.lexists(older):
            raise OSError(errno.EEXIST, f"{older.name} is there already, and is never written over")
        self._file.rename(older)
        self.close()
        if self._settings.keep:
            for old in rotated(self._file)[: -self._settings.keep]:
                old.unlink(missing_ok=True)


def rotated(file: Path) -> list[Path]:
    """Return the older files of an audit log, the oldest first."""
    found = file.parent.glob(f"{file.name}.{'[0-9]' * _ROTATED_DIGITS}")
    return sorted(found, key=lambda path: path.name)


def first_number(older: Path) -> int:
    """Return the number of an older file's first line, as its name has it."""
    return int(older.name[-_ROTATED_DIGITS:])


def entry_of(line: bytes) -> dict[str, Any] | None:
    """Return what a line says; None if it is no audit line."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("n")) is not int:
        return None
    return entry if isinstance(entry.get("previous"), str) and isinstance(entry.get("event"), str) else None


def number_of(line: bytes) -> int | None:
    """Return a line's number; None if it is no audit line."""
    entry = entry_of(line)
    return None if entry is None else int(entry["n"])


def _head(descriptor: int, before: int) -> tuple[int, str]:
    """Return number and hash of the last line; one that cannot be read counts, too.

    :param before: the number of the line before the first.
    """
    start = max(0, os.fstat(descriptor).st_size - _BLOCK_BYTES)
    whole = itertools.islice(_lines(descriptor, start), 1 if start else 0, None)
    number, last = _count(whole, None)
    if number is None:
        number, last = _count(_lines(descriptor), before)
    assert number is not None  # noqa: S101 - counted from a number
    return number, hashlib.sha256(last).hexdigest()


def _count(lines: Iterable[bytes], number: int | None) -> tuple[int | None, bytes]:
    last = b""
    for last in lines:
        found = number_of(last)
        number = found if found is not None or number is None else number + 1
    return number, last


def _lines(descriptor: int, offset: int = 0) -> Iterator[bytes]:
    rest = b""
    while block := os.pread(descriptor, _BLOCK_BYTES, offset):
        offset += len(block)
        *whole, rest = (rest + block).split(b"\n")
        yield from whole
    if rest:
        yield rest
