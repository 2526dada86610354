"""One load, step by step. The order of the steps is the guarantee:

1.  A run that is already committed is not loaded again.
2.  Whoever loads a whole dataset holds its table until the end; slices on other machines share a stored plan instead.
3.  Contract, live source and the warehouse's table are compared before the first row is read.
4.  Slices are staged, each exactly once, and a slice whose counts differ is never staged.
5.  One transaction of the warehouse applies the slices, writes the load log and moves the cursor.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property
from typing import Final

from datakit.errors import (
    ConfigurationError,
    ContractMismatch,
    DatakitError,
    Interrupted,
    LoadInProgress,
    NothingToDo,
    WarehouseUnavailable,
)
from datakit.ingest.interrupts import Interrupts
from datakit.ingest.pipeline import SliceCounts
from datakit.ingest.preparation import Prepared, prepare, versions_of
from datakit.ingest.progress import Progress
from datakit.ingest.report import ReportDraft
from datakit.ingest.settings import Settings
from datakit.ingest.staging import Staging
from datakit.model.load import LoadRecord, ReadPlan, Slice
from datakit.model.run import CursorReport
from datakit.sources import Source
from datakit.warehouses import Warehouse

_SECONDS_BEFORE_RETRY: Final = 2.0


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
        self._progress.start(f"{self._request.dataset} → {self._request.warehouse}", None)
        self._commit(prepared, plan)
        return "loaded"

    def _slice_count(self) -> int | None:
        return self._request.parallel if self._settings.dataset.slices else None

    def _propose(self, prepared: Prepared, slices: int | None) -> ReadPlan:
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

    def _usable_plan(self, prepared: Prepared) -> ReadPlan | None:
        plan = self._warehouse.stored_plan(*self._where)
        if plan is None or plan.base_sequence != prepared.request.base_sequence:
            return None
        return plan if plan.fingerprint == prepared.fingerprint else None

    def _check_shared(self, plan: ReadPlan, prepared: Prepared) -> None:
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

    def _stage(self, slices: tuple[Slice, ...], prepared: Prepared, plan: ReadPlan) -> list[SliceCounts]:
        self._note_plan(plan)
        staging = Staging(
            self._settings,
            self._source,
            self._warehouse,
            self._progress,
            prepared,
            plan,
            seconds_before_retry=self._seconds_before_retry,
        )
        counts = staging.stage(slices)
        server = [count.server_rows for count in counts]
        self._draft.note(
            rows_read=sum(count.rows_read for count in counts),
            rows_written=sum(count.rows_written for count in counts),
            server_rows=None if None in server else sum(count or 0 for count in server),
            bytes=sum(count.bytes for count in counts),
        )
        return counts

    def _prepare(self) -> Prepared:
        prepared = prepare(self._settings, self._source, self._warehouse)
        self._draft.note(schema_changes=prepared.schema_changes)
        return prepared

    def _commit(self, prepared: Prepared, plan: ReadPlan) -> None:
        self._progress.stage("committing")
        window = plan.window
        request = replace(
            prepared.request,
            slices=len(plan.slices),
            base_sequence=plan.base_sequence,
            bounded=window is not None and window.bounded,
            versions=versions_of(self._settings, prepared, window),
        )
        until = window.until if window else None
        with self._interrupts.deferred():
            try:
                record = self._warehouse.commit(request, until)
            except WarehouseUnavailable as error:
                record = self._committed_after_all(error)
        self._draft.note(rows_written=record.rows, rows_applied=record.rows_applied)

    def _committed_after_all(self, error: WarehouseUnavailable) -> LoadRecord:
        """Ask whether a commit whose connection was lost took place; if nobody can tell, the run failed."""
        try:
            record = self._warehouse.find_load(*self._where)
        except WarehouseUnavailable:
            raise error from None
        if record is None:
            raise error
        return record


def _nothing_new(dataset: str, plan: ReadPlan) -> NothingToDo:
    since = plan.window.since if plan.window else None
    return NothingToDo(f"nothing is newer than {since}", subject=dataset)
