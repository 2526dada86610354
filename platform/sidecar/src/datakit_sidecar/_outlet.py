"""Text for a pipe that somebody may have stopped to read: a thread of its own writes it, and nobody waits."""

from __future__ import annotations

import io
import queue
import signal
import threading
import time
from typing import IO, Final

_MOST_WAITING: Final = 10_000
CLOSE_SECONDS: Final = 0.5
"""How long a reader that stalls is given at the end."""


class Outlet(io.TextIOBase):
    """A stream that never blocks its writer. What a reader does not take in time is lost.

    :ivar lost: how many texts were.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._texts: queue.Queue[str | None] = queue.Queue(_MOST_WAITING)
        self.lost = 0
        self._thread = threading.Thread(target=self._work, name="outlet", daemon=True)
        # A thread takes its mask from the one that starts it; a signal that this one took would end the process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def write(self, text: str, /) -> int:
        """Take a text to be written, and flushed, soon."""
        try:
            self._texts.put_nowait(text)
        except queue.Full:
            self.lost += 1
        return len(text)

    def writable(self) -> bool:
        """Whether it takes texts: always."""
        return True

    def drain(self, seconds: float = CLOSE_SECONDS) -> None:
        """Give the reader that long to take what was written until now; nothing is written from here on."""
        end = time.monotonic() + seconds
        try:
            self._texts.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (text := self._texts.get()) is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):  # nobody reads any more
                self.lost += 1
