"""One load, step by step. The order of the steps is the guarantee:

1.  A run that is already committed is not loaded again.
2.  Whoever loads a whole dataset holds its table until the end; slices on other machines share a stored plan instead.
3.  Contract, live source and the warehouse's table are compared before the first row is read.
4.  Slices are staged, each exactly once, and a slice whose counts differ is never staged.
5.  One transaction of the warehouse applies the slices, writes the load log and moves the cursor.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Final

from datakit.errors import (
    ConfigurationError,
    ContractMismatch,
    DatakitError,
    Interrupted,
    InvalidCursor,
    LoadInProgress,
    NothingToDo,
    SourceUnavailable,
    WarehouseUnavailable,
)
from datakit.ingest.bronze import ROW_HASH, BronzeStep, bronze_columns, constants, warehouse_names
from datakit.ingest.evolution import agree, fit_table
from datakit.ingest.interrupts import Interrupts
from datakit.ingest.pipeline import Cancellation, SliceCancelledError, SliceCounts, load_slice
from datakit.ingest.progress import Progress
from datakit.ingest.report import ReportDraft
from datakit.ingest.row_hash import RowHasher
from datakit.ingest.settings import Settings
from datakit.model.contract import Contract
from datakit.model.load import LoadRecord, LoadRequest, ReadPlan, Slice, TableState, Versions, Window
from datakit.model.manifest import LoadMode
from datakit.model.run import CursorReport
from datakit.sources import Source
from datakit.sources.notation import to_value
from datakit.warehouses import Load, Warehouse

_LOG = logging.getLogger("datakit.ingest")

# 32 MiB were no faster: the reader is the slower side, so the queue is empty most of the time
_QUEUE_BYTES: Final = 8 * 1024 * 1024
_DEFAULT_PARALLEL: Final = 2
_SLICE_TRIES: Final = 3
_SECONDS_BEFORE_RETRY: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the comparison of contract, source and table decided."""

    contract: Contract
    step: BronzeStep
    request: LoadRequest
    since: str | None
    table_exists: bool
    fingerprint: str


class Ingestion:
    """Carries one request out. Used once.

    :param open_source: opens the source system, when and if it is needed.
    :param seconds_before_retry: pause before a slice whose connection dropped is read again, doubled each time.
    """

    def __init__(
        self,
        settings: Settings,
        open_source: Callable[[], Source],
        warehouse: Warehouse,
        progress: Progress,
        draft: ReportDraft,
        interrupts: Interrupts,
        *,
        seconds_before_retry: float = _SECONDS_BEFORE_RETRY,
    ) -> None:
        self._settings = settings
        self._request = settings.request
        self._where = (settings.request.run_id, settings.request.dataset, settings.table)
        self._open_source = open_source
        self._warehouse = warehouse
        self._progress = progress
        self._draft = draft
        draft.note_settings(settings)
        self._interrupts = interrupts
        self._seconds_before_retry = seconds_before_retry
        self._cancellation = Cancellation()

    def execute(self) -> str:
        """Do what the request asks for and return the report's status.

        :raises NothingToDo: there is nothing new.
        :raises DatakitError: anything else that went wrong.
        """
        if record := self._warehouse.find_load(*self._where):
            self._draft.note(rows_written=record.rows, rows_applied=record.rows_applied)
            return "already_loaded"
        try:
            match self._request.slice:
                case None:
                    with self._exclusive():
                        return self._load_all()
                case "plan":
                    return self._plan_only()
                case "commit":
                    with self._exclusive():
                        return self._commit_slices()
                case text:
                    index, count = (int(part) for part in text.split("/"))
                    return self._stage_one(index, count)
        finally:
            self._progress.stop()
            if "_source" in self.__dict__:
                self._source.close()

    @cached_property
    def _source(self) -> Source:
        return self._open_source()

    def _exclusive(self) -> AbstractContextManager[None]:
        return self._warehouse.exclusive(self._request.dataset, self._settings.table)

    def _load_all(self) -> str:
        prepared = self._prepare()
        plan = self._usable_plan(prepared)
        if plan is None:
            self._warehouse.discard(*self._where)
            plan = self._remember(self._propose(prepared, self._slice_count()))
        try:
            counts = self._stage(plan.slices, prepared, plan)
            read_all = len(counts) == len(plan.slices)  # else an earlier try has staged some, perhaps with rows
            if read_all and not any(count.rows_read for count in counts) and self._is_incremental(plan):
                raise _nothing_new(self._request.dataset, plan)
            self._commit(prepared, plan)
        except DatakitError as error:
            # Staged slices are worth keeping only for a retry that continues from them.
            if isinstance(error, Interrupted) or not error.retryable or len(plan.slices) == 1:
                with suppress(DatakitError):
                    self._warehouse.discard(*self._where)
            raise
        return "loaded"

    def _plan_only(self) -> str:
        prepared = self._prepare()
        plan = self._remember(self._propose(prepared, self._slice_count()))
        self._check_shared(plan, prepared)
        return "planned"

    def _stage_one(self, index: int, count: int) -> str:
        prepared = self._prepare()
        plan = self._warehouse.stored_plan(*self._where) or self._remember(self._propose(prepared, count))
        self._check_shared(plan, prepared)
        if count < len(plan.slices):
            raise ConfigurationError(
                f"this run was planned in {len(plan.slices)} slices, not {count}",
                subject=self._request.run_id,
                fix=f"use --slice {index}/{len(plan.slices)}, or start a run with another id",
            )
        if index > len(plan.slices):
            return "staged"  # a short window gives fewer slices than workers, and this one has nothing to do
        self._stage((plan.slices[index - 1],), prepared, plan)
        return "staged"

    def _commit_slices(self) -> str:
        plan = self._warehouse.stored_plan(*self._where)
        prepared = self._prepare()
        if plan is None:
            self._propose(prepared, None)  # raises NothingToDo where the slices have found nothing either
            raise ConfigurationError(
                "there is nothing to commit: this run has no plan in the warehouse",
                subject=self._request.run_id,
                cause="no slice of it was ever started, or it was discarded",
                fix="run its slices first: --slice 1/N … N/N, with the same run id",
            )
        self._check_shared(plan, prepared)
        self._commit(prepared, plan)
        return "loaded"

    def _prepare(self) -> _Prepared:
        settings = self._settings
        live = self._source.describe(self._request.dataset, settings.dataset)
        contract, drift = agree(settings.contract, live, settings.schema_changes)
        existing = self._warehouse.inspect(settings.table)
        table = None if self._request.full else existing
        last = self._warehouse.last_load(self._request.dataset, settings.table)

        names = warehouse_names(
            (column.name for column in contract.columns), settings.naming, subject=self._request.dataset
        )
        changes = fit_table(
            bronze_columns(contract, names, row_hash=settings.row_hash or _has_row_hash(table)),
            tuple(names[column] for column in contract.key),
            table,
            settings.schema_changes,
            subject=f"{self._request.warehouse}: {settings.table}",
        )
        if changes.left_out:
            kept = tuple(column for column in contract.columns if names[column.name] not in changes.left_out)
            contract = contract.model_copy(update={"columns": kept})
        for change in (*map(str, drift), *changes.notes):
            _LOG.warning("%s: schema change: %s", self._request.dataset, change)
        self._draft.note(schema_changes=(*map(str, drift), *changes.notes))

        cursor_column = settings.dataset.cursor.column if settings.dataset.cursor else None
        request = LoadRequest(
            run_id=self._request.run_id,
            dataset=self._request.dataset,
            datakit=settings.datakit,
            table=settings.table,
            mode=settings.landing,
            columns=changes.columns,
            constants=constants(
                loaded_at=datetime.now(UTC),
                run_id=self._request.run_id,
                source=self._request.dataset,
                datakit=settings.datakit,
            ),
            key=tuple(names[column] for column in contract.key),
            base_sequence=last.sequence if last else 0,
            add=changes.add,
            widen=changes.widen,
            cursor_column=cursor_column,
        )
        return _Prepared(
            contract=contract,
            step=BronzeStep(contract, changes.columns),
            request=request,
            since=self._since(last) if table is not None else None,
            table_exists=existing is not None,
            fingerprint=_fingerprint(request, settings),
        )

    def _since(self, last: LoadRecord | None) -> str | None:
        cursor = self._settings.dataset.cursor
        if cursor is None or last is None:
            return None
        if last.cursor_column != cursor.column:
            raise InvalidCursor(
                f"the last load continued from {last.cursor_column or 'no cursor'}, this one from {cursor.column}",
                subject=f"{self._request.dataset} in {self._request.warehouse}",
                cause="the dataset's cursor was changed in datakit.yaml",
                fix="rebuild the table once with `datakit run --full`",
            )
        if self._settings.mode is LoadMode.APPEND and not last.bounded:
            raise InvalidCursor(
                "the last load read without an upper bound, and an append that continues there would load rows twice "
                "and miss those that commit late",
                subject=f"{self._request.dataset} in {self._request.warehouse}",
                cause=f"mode was changed to append; run {last.run_id} was a merge, or a rebuild under merge, and read "
                "up to the present, while an append stays behind it by the lag",
                fix="rebuild the table once with `datakit run --full`",
            )
        return last.cursor

    def _slice_count(self) -> int | None:
        return self._request.parallel if self._settings.dataset.slices else None

    def _propose(self, prepared: _Prepared, slices: int | None) -> ReadPlan:
        plan = self._source.plan(
            self._settings.dataset,
            prepared.contract,
            mode=self._settings.mode,
            since=prepared.since,
            slices=slices,
        )
        if plan.empty and prepared.table_exists and self._is_incremental(plan):
            self._note_plan(plan)
            raise _nothing_new(self._request.dataset, plan)
        return replace(plan, base_sequence=prepared.request.base_sequence, fingerprint=prepared.fingerprint)

    def _is_incremental(self, plan: ReadPlan) -> bool:
        return plan.window is not None and plan.window.since is not None

    def _remember(self, proposed: ReadPlan) -> ReadPlan:
        return self._warehouse.remember_plan(*self._where, proposed)

    def _usable_plan(self, prepared: _Prepared) -> ReadPlan | None:
        plan = self._warehouse.stored_plan(*self._where)
        if plan is None or plan.base_sequence != prepared.request.base_sequence:
            return None
        return plan if plan.fingerprint == prepared.fingerprint else None

    def _check_shared(self, plan: ReadPlan, prepared: _Prepared) -> None:
        """Refuse to work on a plan that other machines made under other circumstances."""
        self._note_plan(plan)
        if plan.base_sequence != prepared.request.base_sequence:
            raise LoadInProgress(
                "another run was committed after this one was planned",
                subject=f"{self._request.dataset} in {self._request.warehouse}",
                cause="two runs of one dataset at once",
                fix="start a new run; this one can no longer be committed",
            )
        if plan.fingerprint != prepared.fingerprint:
            raise ContractMismatch(
                "columns, mode or datakit are not those that this run was planned with",
                subject=f"{self._request.dataset}, run {self._request.run_id}",
                cause="the source or the configuration changed while the slices of this run were loading",
                fix="start a new run",
            )

    def _note_plan(self, plan: ReadPlan) -> None:
        window = plan.window
        self._draft.note(
            slices=len(plan.slices),
            cursor=CursorReport(column=window.column, since=window.since, until=window.until) if window else None,
        )

    def _stage(self, slices: tuple[Slice, ...], prepared: _Prepared, plan: ReadPlan) -> list[SliceCounts]:
        """Stage slices in parallel; returns the counts of those that were not staged by an earlier try."""
        self._note_plan(plan)
        request = replace(prepared.request, slices=len(plan.slices))
        share = len(slices) / len(plan.slices)
        estimate = round(plan.estimated_rows * share) if plan.estimated_rows is not None else None
        self._progress.start(f"{self._request.dataset} → {self._request.warehouse}", estimate)
        workers = min(self._request.parallel or _DEFAULT_PARALLEL, len(slices))
        queue_bytes = _QUEUE_BYTES // workers
        with ThreadPoolExecutor(workers, thread_name_prefix="slice") as pool:
            futures = [
                pool.submit(self._stage_slice, slice_, prepared, request, plan, queue_bytes) for slice_ in slices
            ]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                if any(future.exception() for future in done):
                    self._cancellation.set()
            except BaseException:
                self._cancellation.set()
                raise
        counts = [count for count in _results(futures) if count is not None]
        server = [count.server_rows for count in counts]
        self._draft.note(
            rows_read=sum(count.rows_read for count in counts),
            rows_written=sum(count.rows_written for count in counts),
            server_rows=None if None in server else sum(count or 0 for count in server),
            bytes=sum(count.bytes for count in counts),
        )
        return counts

    def _stage_slice(
        self, slice_: Slice, prepared: _Prepared, request: LoadRequest, plan: ReadPlan, queue_bytes: int
    ) -> SliceCounts | None:
        hasher = RowHasher(prepared.contract.arrow_schema()) if ROW_HASH in prepared.step.columns else None
        try:
            for attempt in range(1, _SLICE_TRIES + 1):
                if self._cancellation.is_set:
                    raise SliceCancelledError
                load = self._warehouse.begin(request, slice_)
                if load is None:
                    return None
                try:
                    return self._try_slice(slice_, load, prepared, plan, hasher, queue_bytes)
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

    def _try_slice(
        self, slice_: Slice, load: Load, prepared: _Prepared, plan: ReadPlan, hasher: RowHasher | None, queue_bytes: int
    ) -> SliceCounts:
        moved_rows = moved_bytes = 0

        def advance(rows: int, size: int) -> None:
            nonlocal moved_rows, moved_bytes
            moved_rows += rows
            moved_bytes += size
            self._progress.advance(rows, size)

        try:
            return load_slice(
                self._source.read(self._settings.dataset, prepared.contract, plan.window, slice_),
                load,
                prepared.step,
                hasher,
                queue_bytes=queue_bytes,
                cancellation=self._cancellation,
                advance=advance,
                subject=f"{self._request.dataset} slice {slice_}",
            )
        except BaseException:
            self._progress.advance(-moved_rows, -moved_bytes)
            raise

    def _commit(self, prepared: _Prepared, plan: ReadPlan) -> None:
        self._progress.stage("committing")
        window = plan.window
        request = replace(
            prepared.request,
            slices=len(plan.slices),
            base_sequence=plan.base_sequence,
            bounded=window is not None and window.bounded,
            versions=self._versions(prepared, window),
        )
        until = window.until if window else None
        with self._interrupts.deferred():
            try:
                record = self._warehouse.commit(request, until)
            except WarehouseUnavailable as error:
                record = self._committed_after_all(error)
        self._draft.note(rows_written=record.rows, rows_applied=record.rows_applied)

    def _versions(self, prepared: _Prepared, window: Window | None) -> Versions | None:
        """Return how to tell versions of a row apart; None where its cursor is not kept, or not known to grow."""
        if window is None or window.changed_after is None or self._settings.mode is not LoadMode.MERGE:
            return None
        for source, target in zip(prepared.contract.columns, prepared.request.columns, strict=False):
            if source.name == window.column:
                return Versions(target.name, to_value(window.changed_after, source.type))
        return None

    def _committed_after_all(self, error: WarehouseUnavailable) -> LoadRecord:
        """Ask whether a commit whose connection was lost took place; if nobody can tell, the run failed."""
        try:
            record = self._warehouse.find_load(*self._where)
        except WarehouseUnavailable:
            raise error from None
        if record is None:
            raise error
        return record


def _results(futures: list[Future[SliceCounts | None]]) -> list[SliceCounts | None]:
    """Return the results, or raise the first error that is not the consequence of another."""
    errors = [error for future in futures if (error := future.exception())]
    for error in errors:
        if not isinstance(error, SliceCancelledError):
            raise error
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def _nothing_new(dataset: str, plan: ReadPlan) -> NothingToDo:
    since = plan.window.since if plan.window else None
    return NothingToDo(f"nothing is newer than {since}", subject=dataset)


def _has_row_hash(table: TableState | None) -> bool:
    """Whether rows of the table have a hash, which must then follow their values for ever."""
    return table is not None and ROW_HASH.name in {column.name for column in table.metadata}


def _fingerprint(request: LoadRequest, settings: Settings) -> str:
    columns = ",".join(f"{column.name}:{column.type}:{column.nullable}" for column in request.columns)
    agreed = "|".join(
        (
            request.datakit,
            settings.source_datakit,
            settings.dataset.model_dump_json(),
            str(request.table),
            request.mode,
            ",".join(request.key),
            columns,
        )
    )
    return hashlib.sha256(agreed.encode()).hexdigest()[:16]
