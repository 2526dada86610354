"""The audit log: one JSON line for each thing that was done with a secret, chained by hashes.

Each line holds the SHA-256 of the line before it, so that a line that is changed, removed or moved breaks the chain at
that place, also across rotated files and restarts. Nobody can prove from a file alone that its last line was not
changed, that lines were not cut off at its end, or that the whole of it was not written anew: compare with the copy of
standard output in your log collector.

A line: ``{"n":2,"at":"2026-01-31T12:00:00.000000Z","event":"ticket.issued", …,"previous":"<64 hex digits>"}``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from datakit_sidecar._chain import FIRST, ChainFile, entry_of, first_number, rotated
from datakit_sidecar._outlet import Outlet
from datakit_sidecar.errors import AuditFailed
from datakit_sidecar.settings import AuditSettings

_log = logging.getLogger(__name__)
_MOST_WAITING: Final = 10_000
_RETRY_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 5.0
"""A disk that takes longer for one line hangs, or nearly so."""
_CLOSE_SECONDS: Final = 2.0
"""How long the disk is given at the end."""


class AuditLog:
    """Writes the chain. Thread-safe, and nobody waits for the disk.

    A line that cannot be written does not stop the tickets: it is kept and tried again every second, and
    :attr:`trouble` makes the sidecar unready meanwhile.

    :param settings: where to.
    :param stream: takes each line, too; a reader that stalls costs lines of this copy, never time.
    :param now: the clock, in seconds since 1970.
    :raises AuditFailed: the file cannot be opened.
    """

    def __init__(
        self, settings: AuditSettings, *, stream: IO[str] | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._number, self._previous = 0, FIRST
        self._is_closed = False
        self._writer: _Writer | None = None
        if settings.file is not None:
            try:
                file = ChainFile(settings.file, settings)
            except OSError as error:
                raise _failed(settings.file, error) from None
            self._number, self._previous = file.head
            self._writer = _Writer(settings.file, file)
        self._copies = Outlet(stream if stream is not None else sys.stdout) if settings.stdout else None

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last line."""
        with self._lock:
            return self._number, self._previous

    @property
    def lost_copies(self) -> int:
        """Lines that standard output did not take."""
        return self._copies.lost if self._copies else 0

    @property
    def trouble(self) -> str | None:
        """Why lines are not in the file; None if they are, or will be in a moment."""
        return None if self._writer is None else self._writer.trouble

    def write(self, event: str, **details: Any) -> None:
        """Write a line, unless this is closed. ``details`` hold no secret."""
        with self._lock:
            self._write(event, details)

    def write_last(self, event: str, **details: Any) -> None:
        """Write a line that is the last one, whatever other threads do, and close."""
        with self._lock:
            self._write(event, details)
            self._is_closed = True
        self.close()

    def close(self) -> None:
        """Write nothing from here on. Disk and standard output get a moment to take what they have not yet."""
        with self._lock:
            self._is_closed = True
        if self._writer is not None:
            self._writer.close()
        if self._copies is not None:
            self._copies.drain()

    def _write(self, event: str, details: dict[str, Any]) -> None:
        if self._is_closed:
            return
        self._number += 1
        moment = f"{datetime.fromtimestamp(self._now(), UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        entry = {"n": self._number, "at": moment, "event": event, **details, "previous": self._previous}
        line = json.dumps(entry, separators=(",", ":"), ensure_ascii=True)
        self._previous = hashlib.sha256(line.encode()).hexdigest()
        if self._copies is not None:
            self._copies.write(f"{line}\n")
        if self._writer is not None:
            self._writer.put(self._number, line.encode())


class _Writer:
    """Writes lines to the file in a thread of its own: a disk that hangs must not stop a ticket."""

    def __init__(self, path: Path, file: ChainFile) -> None:
        self._path = path
        self._file = file
        self._changed = threading.Condition()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._failure: str | None = None
        self._busy_since: float | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, name="audit file", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> str | None:
        with self._changed:
            busy = 0.0 if self._busy_since is None else time.monotonic() - self._busy_since
            if busy > _LATE_SECONDS:
                return f"{self._path}: the disk has not answered for {busy:.0f} s"
            return self._failure

    def put(self, number: int, line: bytes) -> None:
        with self._changed:
            self._waiting.append((number, line))
            if len(self._waiting) > _MOST_WAITING:
                self._waiting.popleft()  # the gap shows in the chain
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._is_ending = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)
        with self._changed:
            left = len(self._waiting) + (self._busy_since is not None)
        if left:
            _log.error("%s: %d lines are not written: %s", self._path, left, self._failure or "the disk is too slow")

    def _work(self) -> None:
        is_ending = False
        while not is_ending:
            with self._changed:
                if self._failure is None:
                    self._changed.wait_for(lambda: self._waiting or self._is_ending)
                else:
                    self._changed.wait_for(lambda: self._is_ending, _RETRY_SECONDS)
                is_ending = self._is_ending
            while self._write_one():
                pass
        self._file.close()

    def _write_one(self) -> bool:
        """Write the next line, or only confirm the last one; return whether more wait."""
        with self._changed:
            self._busy_since = time.monotonic()
            taken = self._waiting.popleft() if self._waiting else None
        failure = None
        try:
            if taken is not None:
                self._file.append(*taken)
                taken = None
            self._file.sync()
        except OSError as error:
            failure = error
        with self._changed:
            self._busy_since = None
            if failure is None:
                self._failure = None
                return bool(self._waiting)
            if taken is not None:
                self._waiting.appendleft(taken)
            is_new = self._failure is None
            self._failure = f"{self._path}: {failure.strerror}"
        if is_new:
            _log.error("%s", _failed(self._path, failure))
        return False


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of an audit log found.

    :ivar lines: how many there are.
    :ivar problems: ``file:line: what is wrong``, in order.
    :ivar notes: what is worth knowing and no problem.
    :ivar head: number and hash of the last line.
    """

    lines: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    head: tuple[int, str]


def verify(file: Path, *, with_rotated: bool = True) -> Verified:
    """Check the chain of an audit log and the older files beside it.

    :param with_rotated: if not, the file may begin anywhere.
    :raises AuditFailed: it cannot be read.
    """
    older = rotated(file) if with_rotated else []
    files = [*older, file]
    first = first_number(older[0]) if older else 1
    check = _Check(first if with_rotated else None)
    for path in files:
        try:
            with path.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    check.line(f"{path}:{number}", line)
        except OSError as error:
            raise _failed(path, error, "read") from None
    return check.result()


class _Check:
    """:param first: the number that the first line must have; None for any."""

    def __init__(self, first: int | None) -> None:
        self._first = first
        self._count = 0
        self._number: int | None = None
        self._previous = FIRST
        self._event = ""
        self._problems: list[str] = []
        self._notes: list[str] = []

    def line(self, where: str, raw: bytes) -> None:
        self._count += 1
        line = raw.removesuffix(b"\n")
        entry = entry_of(line)
        if entry is None:
            cut = "" if raw.endswith(b"\n") else ", and the file ends in it"
            self._problems.append(f"{where}: the line is cut off or changed: it is no audit line{cut}")
            self._number = None if self._number is None else self._number + 1
        else:
            self._compare(where, entry)
            self._number, self._event = entry["n"], entry["event"]
        self._previous = hashlib.sha256(line).hexdigest()

    def _compare(self, where: str, entry: dict[str, Any]) -> None:
        number, expected = entry["n"], None if self._number is None else self._number + 1
        if self._count == 1:
            if self._first not in (None, number):
                self._problems.append(
                    f"{where}: the log begins at line number {number} and not {self._first}: lines before it were "
                    "removed, or older files are not here (--alone checks one file by itself)"
                )
            elif number != 1:
                self._notes.append(f"{where}: the log begins at line number {number}; older files are not here")
            elif entry["previous"] != FIRST:
                self._problems.append(f"{where}: the first line was changed: it names a line before it")
            return
        if entry["previous"] == self._previous and expected in (None, number):
            return
        if expected is not None and number > expected:
            span = (
                f"line number {expected} is"
                if number == expected + 1
                else f"line numbers {expected} to {number - 1} are"
            )
            self._problems.append(f"{where}: {span} missing before this line")
        elif expected is not None and number < expected:
            self._problems.append(f"{where}: line number {number} is out of order or twice (after {self._number})")
        else:
            self._problems.append(f"{where}: the line before this one (line number {self._number}) was changed")

    def result(self) -> Verified:
        if self._count and not self._problems and self._event != "stop":
            self._notes.append(
                f'the last line is "{self._event}" and not "stop": the sidecar runs still, was killed, or lines were '
                "cut off at the end; compare the head with the copy of standard output"
            )
        return Verified(self._count, tuple(self._problems), tuple(self._notes), (self._number or 0, self._previous))


def _failed(file: Path, error: OSError, what: str = "written") -> AuditFailed:
    return AuditFailed(
        f"the audit log cannot be {what}: {error.strerror}",
        subject=str(file),
        cause="the folder is missing, full, read-only, or belongs to another user",
        fix=f"look at it: df {file.parent}; ls -ldn {file.parent}",
    )
