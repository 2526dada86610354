"""What a run is, once its request has been looked up in the tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from datakit.errors import InvalidCursor, InvalidKey, NameCollision
from datakit.model.contract import Contract
from datakit.model.load import TableName
from datakit.model.manifest import Dataset, LoadMode, Naming, SchemaPolicy
from datakit.model.run import RunRequest
from datakit.model.warehouse import WarehouseConfig

if TYPE_CHECKING:
    from datakit.model.project import Project


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run, as plain values.

    :ivar contract: the committed contract, None if there is none yet.
    :ivar dataset: without its cursor where the warehouse always replaces: what never continues needs no window.
    :ivar mode: as configured; decides what is read. How rows land is :attr:`landing`.
    :ivar datakit: the bronze datakit, NAME@VERSION; ``source_datakit`` likewise.
    """

    request: RunRequest
    dataset: Dataset
    contract: Contract | None
    table: TableName
    mode: LoadMode
    naming: Naming
    row_hash: bool
    schema_changes: SchemaPolicy
    datakit: str
    source_datakit: str

    @property
    def landing(self) -> LoadMode:
        """How rows reach the table: a full run replaces it, whatever the mode."""
        return LoadMode.REPLACE if self.request.full else self.mode

    @classmethod
    def resolve(cls, request: RunRequest, project: Project) -> Settings:
        """Look up everything that the request names.

        :raises ConfigurationError: something is not there or does not fit together.
        """
        config, ingest, bronze, source = project.ingest(request.warehouse, request.dataset)
        _, name, dataset, contract = project.dataset(request.dataset)
        defaults = bronze.manifest
        mode = ingest.mode or defaults.mode
        table = TableName(ingest.table_schema or config.table_schema, name)
        _check_mode(mode, dataset, contract, request)
        _check_table(config, table, request.dataset)
        if mode is LoadMode.REPLACE:
            dataset = dataset.model_copy(update={"cursor": None})
        return cls(
            request=request,
            dataset=dataset,
            contract=contract,
            table=table,
            mode=mode,
            naming=ingest.naming or defaults.naming,
            row_hash=defaults.row_hash if ingest.row_hash is None else ingest.row_hash,
            schema_changes=ingest.schema_changes or defaults.schema_changes,
            datakit=f"{defaults.name}@{defaults.version}",
            source_datakit=f"{source.manifest.name}@{source.manifest.version}",
        )


def _check_table(config: WarehouseConfig, table: TableName, reference: str) -> None:
    for ingest in config.ingest:
        for other in ingest.datasets:
            landing = TableName(ingest.table_schema or config.table_schema, other.partition(".")[2])
            if landing == table and other != reference:
                raise NameCollision(
                    f"{reference} and {other} would land in one table, {table}",
                    subject=f"warehouse {config.name}",
                    fix="give one of them another schema in warehouse.yaml",
                )


def _check_mode(mode: LoadMode, dataset: Dataset, contract: Contract | None, request: RunRequest) -> None:
    if mode is LoadMode.MERGE and not (dataset.key or (contract and contract.key)):
        raise InvalidKey(
            "merge needs a key, and the dataset has none",
            subject=request.dataset,
            fix="give the dataset a key in datakit.yaml, or let the warehouse use mode: replace or append",
        )
    if mode is LoadMode.APPEND and dataset.cursor is None:
        raise InvalidCursor(
            "append without a cursor would load every row again in every run",
            subject=request.dataset,
            fix="give the dataset a cursor in datakit.yaml, or let the warehouse use mode: replace or merge",
        )
