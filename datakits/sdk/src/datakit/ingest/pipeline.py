"""One slice on its way: a thread reads, the caller writes, and a queue bounded in bytes lies between them.

The bound is what keeps memory flat: a source that is faster than the warehouse waits. Rows are counted on both
sides and compared with the server's own count, because a driver may lose rows without an error.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datakit.errors import RowsLost

if TYPE_CHECKING:
    import pyarrow as pa

    from datakit.ingest.bronze import BronzeStep
    from datakit.ingest.row_hash import RowHasher
    from datakit.sources import RowStream
    from datakit.warehouses import Load


class SliceCancelledError(Exception):
    """This slice stops because the run does; the run's first error tells why."""


class Cancellation:
    """A flag that many threads watch, and a list of what to call when it is raised."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: dict[int, Callable[[], None]] = {}

    @property
    def is_set(self) -> bool:
        """Whether the run is to stop."""
        return self._event.is_set()

    def set(self) -> None:
        """Raise the flag and wake whoever waits. May be called twice."""
        self._event.set()
        with self._lock:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            callback()

    def wait(self, seconds: float) -> bool:
        """Sleep, but not longer than until the flag is raised; return whether it is."""
        return self._event.wait(seconds)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` when the flag is raised; returns what ends the subscription."""
        token = id(callback)
        with self._lock:
            self._callbacks[token] = callback

        def unsubscribe() -> None:
            with self._lock:
                self._callbacks.pop(token, None)

        return unsubscribe


class BatchQueue:
    """Batches between one reader and one writer, bounded in bytes.

    A batch larger than the bound passes alone, so that a huge value slows a load down but never stops it.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._batches: deque[tuple[pa.RecordBatch, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None

    def put(self, batch: pa.RecordBatch) -> bool:
        """Add a batch, waiting while the queue is full; False if nobody will read it any more."""
        size = batch.nbytes
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._batches or self._bytes + size <= self._max_bytes)
            if self._closed:
                return False
            self._batches.append((batch, size))
            self._bytes += size
            self._changed.notify_all()
            return True

    def close(self, error: BaseException | None = None) -> None:
        """End the queue: batches in it are still read, then ``error`` is raised if there is one."""
        with self._changed:
            if not self._closed:
                self._closed = True
                self._error = error
            self._changed.notify_all()

    def abandon(self, error: BaseException) -> None:
        """End the queue at once: drop what is in it and raise ``error`` to the reader of the queue."""
        with self._changed:
            self._closed = True
            self._error = error
            self._batches.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield (batch, its bytes) until the queue is closed and empty."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._batches)
                if not self._batches:
                    if self._error is not None:
                        raise self._error
                    return
                batch, size = self._batches.popleft()
                self._bytes -= size
                self._changed.notify_all()
            yield batch, size


@dataclass(frozen=True, slots=True)
class SliceCounts:
    """What one slice moved."""

    rows_read: int
    rows_written: int
    server_rows: int | None
    bytes: int


def load_slice(
    stream: RowStream,
    load: Load,
    step: BronzeStep,
    hasher: RowHasher | None,
    *,
    queue_bytes: int,
    cancellation: Cancellation,
    advance: Callable[[int, int], None],
    subject: str,
) -> SliceCounts:
    """Move one slice from its stream to its staging, and stage it if all counts agree.

    The stream is closed when this returns or raises; aborting the load on an error is the caller's.

    :param advance: called with (rows, bytes) after every written batch.
    :raises RowsLost: the three counts differ.
    :raises SliceCancelledError: the run stops.
    """
    queue = BatchQueue(queue_bytes)
    rows_read = 0

    def read() -> None:
        nonlocal rows_read
        try:
            for batch in stream:
                if batch.num_rows:
                    rows_read += batch.num_rows
                    if not queue.put(batch):
                        return
            queue.close()
        except BaseException as error:  # noqa: BLE001  # it is raised again, in the writing thread
            queue.close(error)

    reader = threading.Thread(target=read, name=f"read {subject}", daemon=True)
    unsubscribe = cancellation.subscribe(lambda: queue.abandon(SliceCancelledError()))
    rows_written = moved = 0
    try:
        reader.start()
        if cancellation.is_set:
            raise SliceCancelledError
        for batch, size in queue:
            load.write(step.apply(batch, hasher))
            rows_written += batch.num_rows
            moved += size
            advance(batch.num_rows, size)
        reader.join()
        counts = SliceCounts(rows_read, rows_written, stream.server_count, moved)
        _compare(counts, subject)
        load.stage(rows_written)
        return counts
    finally:
        unsubscribe()
        queue.abandon(SliceCancelledError())
        stream.close()
        reader.join(timeout=30)


def _compare(counts: SliceCounts, subject: str) -> None:
    server = counts.server_rows if counts.server_rows is not None else counts.rows_read
    if not counts.rows_read == counts.rows_written == server:
        raise RowsLost(
            f"the server sent {server:,} rows, {counts.rows_read:,} were read and {counts.rows_written:,} written",
            subject=subject,
            cause="rows were lost between the server and the warehouse; nothing was committed",
            fix="run it again; if it happens again, report the versions that `datakit doctor` prints",
        )
