"""Progress of a long run: a bar on a terminal, a log line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any, Final, Protocol, Self

_LOG = logging.getLogger("datakit.ingest")
_SECONDS_BETWEEN_LINES: Final = 5.0


class Progress(Protocol):
    """Told by every worker what it moved; thread-safe."""

    def start(self, title: str, estimated_rows: int | None) -> None:
        """Begin; ``estimated_rows`` None means unknown."""

    def advance(self, rows: int, size: int) -> None:
        """Count ``rows`` rows of ``size`` bytes."""

    def stage(self, what: str) -> None:
        """Say what happens now: ``loading``, ``committing`` …"""

    def stop(self) -> None:
        """End; may be called twice."""


class LogProgress:
    """Writes a log line every five seconds: rows, megabytes (10⁶ bytes), rows per second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = self._bytes = 0
        self._started = self._last = time.monotonic()
        self._title = ""
        self._estimate: int | None = None

    def start(self, title: str, estimated_rows: int | None) -> None:
        """See :class:`Progress`."""
        self._title, self._estimate = title, estimated_rows
        self._started = self._last = time.monotonic()
        _LOG.info("%s: loading%s", title, f" about {estimated_rows:,} rows" if estimated_rows else "")

    def advance(self, rows: int, size: int) -> None:
        """See :class:`Progress`."""
        with self._lock:
            self._rows += rows
            self._bytes += size
            now = time.monotonic()
            if now - self._last < _SECONDS_BETWEEN_LINES:
                return
            self._last = now
            share = f" of about {self._estimate:,}" if self._estimate and self._rows <= self._estimate else ""
            rate = self._rows / (now - self._started)
            _LOG.info(
                "%s: %s%s rows, %.0f MB, %s rows/s",
                self._title,
                f"{self._rows:,}",
                share,
                self._bytes / 1e6,
                f"{rate:,.0f}",
            )

    def stage(self, what: str) -> None:
        """See :class:`Progress`."""
        _LOG.info("%s: %s", self._title, what)

    def stop(self) -> None:
        """See :class:`Progress`."""


class BarProgress:
    """A Rich bar on stderr with rows, megabytes and rows per second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._lock = threading.Lock()
        self._rows = self._bytes = 0
        self._started = time.monotonic()
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None
        self._title = ""

    def start(self, title: str, estimated_rows: int | None) -> None:
        """See :class:`Progress`."""
        self._title = title
        self._started = time.monotonic()
        self._task = self._bar.add_task(title, total=estimated_rows, figures="")
        self._bar.start()

    def advance(self, rows: int, size: int) -> None:
        """See :class:`Progress`."""
        with self._lock:
            self._rows += rows
            self._bytes += size
            rate = self._rows / max(time.monotonic() - self._started, 1e-6)
            figures = f"{self._rows:,} rows  {self._bytes / 1e6:,.0f} MB  {rate:,.0f} rows/s"
        self._bar.update(self._task, completed=self._rows, figures=figures)

    def stage(self, what: str) -> None:
        """See :class:`Progress`."""
        if self._task is not None:
            self._bar.update(self._task, description=f"{self._title}: {what}")

    def stop(self) -> None:
        """See :class:`Progress`."""
        self._bar.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def default_progress() -> Progress:
    """Return the bar if stderr is a terminal, else the log lines."""
    return BarProgress() if sys.stderr.isatty() else LogProgress()
