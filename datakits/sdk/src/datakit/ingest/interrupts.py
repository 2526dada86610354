"""SIGTERM and SIGINT: stop at once while rows move, but never in the middle of a commit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from datakit.credentials import resume_waiting, stop_waiting
from datakit.errors import Interrupted


class Interrupts:
    """Turns the signals into :class:`Interrupted`, raised in the main thread.

    In another thread it does nothing: signals are the host program's affair there.

    :param dataset: what is being loaded, for the message.
    """

    def __init__(self, dataset: str | None = None) -> None:
        self._dataset = dataset
        self._deferred = False
        self._pending: int | None = None

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals until the context ends, then restore the earlier handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        resume_waiting()
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Ignore the signals meanwhile, and after it if all went well: then there is nothing left to stop.

        A commit that is broken off leaves nobody knowing what happened, and one that ends is what the user wanted.
        If it takes longer than the grace period, the kill that follows is safe: the transaction is not committed.
        """
        self._raise_pending()
        self._deferred = True
        try:
            yield
        except BaseException:
            self._deferred = False
            raise

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._pending = number
        stop_waiting()  # also in other threads, which would keep the process alive
        if not self._deferred:
            self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending is not None:
            name, self._pending = signal.Signals(self._pending).name, None
            raise Interrupted(
                f"{name} arrived; the table is as it was",
                subject=self._dataset,
                cause="the orchestrator or a person stopped the run",
                fix="run it again when it suits",
            )
