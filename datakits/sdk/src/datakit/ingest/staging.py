"""Slices on their way into staging: each by a thread and a connection of its own, each exactly once."""

from __future__ import annotations

import logging
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Final

from datakit.errors import SourceUnavailable
from datakit.ingest.bronze import ROW_HASH
from datakit.ingest.pipeline import Cancellation, SliceCancelledError, SliceCounts, load_slice
from datakit.ingest.preparation import Prepared
from datakit.ingest.progress import Progress
from datakit.ingest.row_hash import RowHasher
from datakit.ingest.settings import Settings
from datakit.model.load import LoadRequest, ReadPlan, Slice
from datakit.sources import Source
from datakit.warehouses import Load, Warehouse

_LOG = logging.getLogger("datakit.ingest")

# 32 MiB were no faster: the reader is the slower side, so the queue is empty most of the time
_QUEUE_BYTES: Final = 8 * 1024 * 1024
_DEFAULT_PARALLEL: Final = 2
_SLICE_TRIES: Final = 3


class Staging:
    """Stages slices of one run. Used once.

    :param seconds_before_retry: pause before a slice whose connection dropped is read again, doubled each time.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        warehouse: Warehouse,
        progress: Progress,
        prepared: Prepared,
        plan: ReadPlan,
        *,
        seconds_before_retry: float,
    ) -> None:
        self._settings = settings
        self._request = settings.request
        self._source = source
        self._warehouse = warehouse
        self._progress = progress
        self._prepared = prepared
        self._plan = plan
        self._seconds_before_retry = seconds_before_retry
        self._cancellation = Cancellation()

    def stage(self, slices: tuple[Slice, ...]) -> list[SliceCounts]:
        """Stage slices in parallel; returns the counts of those that were not staged by an earlier try.

        :raises DatakitError: the first error of any of them, after all have stopped.
        """
        plan = self._plan
        request = replace(self._prepared.request, slices=len(plan.slices))
        share = len(slices) / len(plan.slices)
        estimate = round(plan.estimated_rows * share) if plan.estimated_rows is not None else None
        self._progress.start(f"{self._request.dataset} → {self._request.warehouse}", estimate)
        workers = min(self._request.parallel or _DEFAULT_PARALLEL, len(slices))
        queue_bytes = _QUEUE_BYTES // workers
        with ThreadPoolExecutor(workers, thread_name_prefix="slice") as pool:
            futures = [pool.submit(self._stage_slice, slice_, request, queue_bytes) for slice_ in slices]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                if any(future.exception() for future in done):
                    self._cancellation.set()
            except BaseException:
                self._cancellation.set()
                raise
        return [count for count in _results(futures) if count is not None]

    def _stage_slice(self, slice_: Slice, request: LoadRequest, queue_bytes: int) -> SliceCounts | None:
        hashed = ROW_HASH in self._prepared.step.columns
        hasher = RowHasher(self._prepared.contract.arrow_schema()) if hashed else None
        try:
            for attempt in range(1, _SLICE_TRIES + 1):
                if self._cancellation.is_set:
                    raise SliceCancelledError
                load = self._warehouse.begin(request, slice_)
                if load is None:
                    return None
                try:
                    return self._try_slice(slice_, load, hasher, queue_bytes)
                except SourceUnavailable as error:
                    # A slice starts over as a whole: that is exact, while continuing in its middle would not be.
                    load.abort()
                    if attempt == _SLICE_TRIES:
                        raise
                    _LOG.warning("%s slice %s: %s; reading it again", self._request.dataset, slice_, error.what)
                    self._cancellation.wait(self._seconds_before_retry * 2 ** (attempt - 1))
                except BaseException:
                    load.abort()
                    raise
        finally:
            if hasher is not None:
                hasher.close()
        raise AssertionError("the loop returns or raises")

    def _try_slice(self, slice_: Slice, load: Load, hasher: RowHasher | None, queue_bytes: int) -> SliceCounts:
        moved_rows = moved_bytes = 0

        def advance(rows: int, size: int) -> None:
            nonlocal moved_rows, moved_bytes
            moved_rows += rows
            moved_bytes += size
            self._progress.advance(rows, size)

        try:
            return load_slice(
                self._source.read(self._settings.dataset, self._prepared.contract, self._plan.window, slice_),
                load,
                self._prepared.step,
                hasher,
                queue_bytes=queue_bytes,
                cancellation=self._cancellation,
                advance=advance,
                subject=f"{self._request.dataset} slice {slice_}",
            )
        except BaseException:
            self._progress.advance(-moved_rows, -moved_bytes)
            raise


def _results(futures: list[Future[SliceCounts | None]]) -> list[SliceCounts | None]:
    """Return the results, or raise the first error that is not the consequence of another."""
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, SliceCancelledError):
            raise error
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
