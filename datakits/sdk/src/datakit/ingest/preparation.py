"""What a load will be, decided before a row is read: contract, live source and the warehouse's table, compared."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import UTC, datetime

from datakit.errors import InvalidCursor
from datakit.ingest.bronze import ROW_HASH, BronzeStep, bronze_columns, constants, warehouse_names
from datakit.ingest.evolution import agree, fit_table
from datakit.ingest.settings import Settings
from datakit.model.contract import Contract
from datakit.model.load import LoadRecord, LoadRequest, TableState, Versions, Window
from datakit.model.manifest import LoadMode
from datakit.sources import Source
from datakit.sources.notation import to_value
from datakit.warehouses import Warehouse

_LOG = logging.getLogger("datakit.ingest")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the comparison decided.

    :ivar contract: the columns to read, in live types.
    :ivar since: the cursor to continue from, None to read everything.
    :ivar fingerprint: what all workers of one run have to agree on.
    :ivar schema_changes: what the policy let through, one line each.
    """

    contract: Contract
    step: BronzeStep
    request: LoadRequest
    since: str | None
    table_exists: bool
    fingerprint: str
    schema_changes: tuple[str, ...]


def prepare(settings: Settings, source: Source, warehouse: Warehouse) -> Prepared:
    """Compare contract, live source and table under the schema-change policy, and say what the load will be.

    :raises ContractError: they do not fit together, or the load cannot continue from the last one.
    """
    run = settings.request
    live = source.describe(run.dataset, settings.dataset)
    contract, drift = agree(settings.contract, live, settings.schema_changes)
    existing = warehouse.inspect(settings.table)
    table = None if run.full else existing
    last = warehouse.last_load(run.dataset, settings.table)

    names = warehouse_names((column.name for column in contract.columns), settings.naming, subject=run.dataset)
    changes = fit_table(
        bronze_columns(contract, names, row_hash=settings.row_hash or _has_row_hash(table)),
        tuple(names[column] for column in contract.key),
        table,
        settings.schema_changes,
        name=settings.table,
        dataset=run.dataset,
        warehouse=run.warehouse,
    )
    if changes.left_out:
        kept = tuple(column for column in contract.columns if names[column.name] not in changes.left_out)
        contract = contract.model_copy(update={"columns": kept})
    schema_changes = (*map(str, drift), *changes.notes)
    for change in schema_changes:
        _LOG.warning("%s: schema change: %s", run.dataset, change)

    cursor_column = settings.dataset.cursor.column if settings.dataset.cursor else None
    request = LoadRequest(
        run_id=run.run_id,
        dataset=run.dataset,
        datakit=settings.datakit,
        table=settings.table,
        mode=settings.landing,
        columns=changes.columns,
        constants=constants(
            loaded_at=datetime.now(UTC),
            run_id=run.run_id,
            source=run.dataset,
            datakit=settings.datakit,
        ),
        key=tuple(names[column] for column in contract.key),
        base_sequence=last.sequence if last else 0,
        add=changes.add,
        widen=changes.widen,
        cursor_column=cursor_column,
    )
    return Prepared(
        contract=contract,
        step=BronzeStep(contract, changes.columns),
        request=request,
        since=_since(settings, last) if table is not None else None,
        table_exists=existing is not None,
        fingerprint=_fingerprint(request, settings),
        schema_changes=schema_changes,
    )


def versions_of(settings: Settings, prepared: Prepared, window: Window | None) -> Versions | None:
    """Return how to tell versions of a row apart; None where its cursor is not kept, or not known to grow."""
    if window is None or window.changed_after is None or settings.mode is not LoadMode.MERGE:
        return None
    for source, target in zip(prepared.contract.columns, prepared.request.columns, strict=False):
        if source.name == window.column:
            return Versions(target.name, to_value(window.changed_after, source.type))
    return None


def _since(settings: Settings, last: LoadRecord | None) -> str | None:
    cursor = settings.dataset.cursor
    if cursor is None or last is None:
        return None
    if last.cursor_column != cursor.column:
        raise InvalidCursor(
            f"the last load continued from {last.cursor_column or 'no cursor'}, this one from {cursor.column}",
            subject=f"{settings.request.dataset} in {settings.request.warehouse}",
            cause="the dataset's cursor was changed in datakit.yaml",
            fix="rebuild the table once with `datakit run --full`",
        )
    if settings.mode is LoadMode.APPEND and not last.bounded:
        raise InvalidCursor(
            "the last load read without an upper bound, and an append that continues there would load rows twice "
            "and miss those that commit late",
            subject=f"{settings.request.dataset} in {settings.request.warehouse}",
            cause=f"mode was changed to append; run {last.run_id} was a merge, or a rebuild under merge, and read "
            "up to the present, while an append stays behind it by the lag",
            fix="rebuild the table once with `datakit run --full`",
        )
    return last.cursor


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
