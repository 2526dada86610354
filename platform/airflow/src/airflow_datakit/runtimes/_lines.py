"""A datakit's output as lines, however it comes in pieces."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_LONGEST: Final = 1 << 20
"""Bytes. A line without an end would otherwise grow in memory until the worker has none."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, Airflow's timeout waits: it is raised out of a signal handler, between any two steps, and loses lines.

    To block the signal would not help: any thread may get it, and the main one then runs the handler.
    """
    if threading.current_thread() is not threading.main_thread():  # there no handler runs
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: came.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, handler)
        if came and callable(handler):
            handler(*came[0])


class Lines:
    """Takes pieces and gives lines, each once.

    Blank lines are left out; one that is longer than 1 MiB comes in parts.
    """

    def __init__(self) -> None:
        self._whole: deque[str] = deque()
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> None:
        """Take the next piece, however it was cut."""
        *ended, rest = piece.split(b"\n")
        for part in ended:
            self._parts.append(part)
            self._end()
        for start in range(0, len(rest), _LONGEST):
            self._parts.append(part := rest[start : start + _LONGEST])
            self._size += len(part)
            if self._size >= _LONGEST:
                self._end()

    def finish(self) -> None:
        """Take what is left as a line: nothing comes any more."""
        self._end()

    def take(self) -> str | None:
        """Return the next line, None if there is none yet."""
        return self._whole.popleft() if self._whole else None

    def _end(self) -> None:
        if line := b"".join(self._parts):
            self._whole.append(line.decode("utf-8", errors="replace"))
        self._parts.clear()
        self._size = 0
