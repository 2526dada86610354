"""Warehouses: where data lands. Adding one is one module that implements :class:`Warehouse` and passes
:func:`datakit.testing.warehouse_conformance`; a package registers it as entry point ``datakit.warehouses``.

A load goes like this, whatever the warehouse::

    with warehouse.exclusive(dataset, table):                  # nobody else loads this table meanwhile
        plan = warehouse.remember_plan(run_id, dataset, table, proposed)   # workers of one run share one plan
        for slice in plan.slices:                              # in threads, or on other machines
            load = warehouse.begin(request, slice)
            for batch in batches: load.write(batch)
            load.stage(rows)                                   # this slice is complete: exactly once, durable
        warehouse.commit(request, cursor)                      # data, load log and cursor, in one transaction

Only ``commit`` changes what a reader of the table sees. Dying anywhere leaves the old or the new state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from datakit.errors import UnknownName
from datakit.model import yaml
from datakit.model.load import LoadRecord, LoadRequest, ReadPlan, Slice, TableName, TableState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Load", "Warehouse", "WarehouseAdapter", "adapter", "find_adapter", "open_warehouse"]

M = TypeVar("M", bound=BaseModel)
M_contra = TypeVar("M_contra", bound=BaseModel, contravariant=True)


@runtime_checkable
class Load(Protocol):
    """One slice on its way into staging. Not thread-safe: one worker, one Load."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Write rows to staging. The batch has exactly the request's columns, in order and type.

        :raises WarehouseUnavailable: the warehouse went away or is full.
        :raises ValueRefused: it cannot hold a value; names the column.
        """

    def stage(self, rows: int) -> None:
        """Mark the slice as completely staged, in the same transaction as its rows.

        :param rows: how many rows the engine wrote; compared with what staging holds.
        :raises RowsLost: staging holds another number.
        """

    def abort(self) -> None:
        """Throw this slice's rows away. Never raises for a connection that is already gone; may be called twice."""


@runtime_checkable
class Warehouse(Protocol):
    """One destination. Methods may be called from several threads; a :class:`Load` belongs to one."""

    def inspect(self, table: TableName) -> TableState | None:
        """Return the table as it is, or None if there is none."""

    def last_load(self, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the newest committed load of the table, or None."""

    def find_load(self, run_id: str, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the committed load of that run, or None. What makes a retry of a finished run harmless."""

    def exclusive(self, dataset: str, table: TableName) -> AbstractContextManager[None]:
        """Hold the table for one run until the context ends or the process dies.

        :raises LoadInProgress: another run holds it; names that run's host and process where known.
        """

    def remember_plan(self, run_id: str, dataset: str, table: TableName, plan: ReadPlan) -> ReadPlan:
        """Store the plan of the run if it has none yet, and return the stored one. Atomic between workers."""

    def stored_plan(self, run_id: str, dataset: str, table: TableName) -> ReadPlan | None:
        """Return the plan that :meth:`remember_plan` stored for this run, or None."""

    def begin(self, request: LoadRequest, slice_: Slice) -> Load | None:
        """Open staging for one slice, or return None if this run has staged it already.

        Leftovers of an earlier try of the same slice are gone when this returns.
        """

    def commit(self, request: LoadRequest, cursor: str | None) -> LoadRecord:
        """Apply the staged slices to the table, and write load log and cursor, in one transaction.

        ``merge`` updates rows with the same key and inserts the others; ``append`` inserts; ``replace`` swaps the
        table. Missing tables and schemas are created; ``add`` and ``widen`` of the request are applied; staging is
        dropped. If the run is already committed, its record is returned and nothing changes.

        :raises LoadInProgress: the newest load is not ``base_sequence``.
        :raises InvalidKey: staged rows have a NULL or twice the same key (merge, or any mode with a key).
        :raises RowsLost: a slice is not staged.
        :raises WarehouseUnavailable: the connection was lost; whether it was committed is for :meth:`find_load`.
        """

    def discard(self, run_id: str, dataset: str, table: TableName) -> None:
        """Drop staging and plan of a run that will not be committed. Never raises for one that is unknown."""

    def close(self) -> None:
        """Close every connection. May be called twice."""


class _Opens(Protocol[M_contra]):
    def __call__(self, settings: M_contra, /, *, where: str, base: Path) -> Warehouse: ...


class WarehouseAdapter(Generic[M]):
    """What an entry point of ``datakit.warehouses`` names; :func:`adapter` makes one.

    :ivar model: what a section of an environment has to look like. Known without the driver, so that ``datakit check``
        can look at a section on a machine that never loads anything.
    """

    def __init__(self, model: type[M], opens: _Opens[M]) -> None:
        self.model = model
        self._opens = opens

    def __call__(self, connection: Mapping[str, Any], *, where: str, base: Path) -> Warehouse:
        """Validate the section and open the warehouse; parameters and errors as of :func:`open_warehouse`."""
        return self._opens(yaml.validate(connection, self.model, where), where=where, base=base)


def adapter(model: type[M]) -> Callable[[_Opens[M]], WarehouseAdapter[M]]:
    """Decorate the function that opens a warehouse, given its section of an environment as ``model``::

        @adapter(SnowflakeConnection)
        def open_warehouse(settings: SnowflakeConnection, /, *, where: str, base: Path) -> Warehouse: ...

    The module is imported wherever a tree is checked: it imports its driver inside the function.
    """
    return lambda opens: WarehouseAdapter(model, opens)


def find_adapter(type_: str, *, where: str) -> WarehouseAdapter[Any]:
    """Return the adapter of that type, without importing its driver.

    :param type_: name of an entry point in ``datakit.warehouses``.
    :param where: the file and key that name it, for errors.
    :raises UnknownName: no adapter has that name.
    """
    adapters = {point.name: point for point in entry_points(group="datakit.warehouses")}
    if type_ not in adapters:
        raise UnknownName.of("warehouse type", type_, adapters, where=where)
    found: WarehouseAdapter[Any] = adapters[type_].load()
    return found


def open_warehouse(type_: str, connection: Mapping[str, Any], *, where: str, base: Path | None = None) -> Warehouse:
    """Open the warehouse of that type.

    :param type_: name of an entry point in ``datakit.warehouses``.
    :param connection: its section of the environment, which the adapter validates.
    :param where: the file and key that ``connection`` comes from, for errors.
    :param base: folder that relative paths in ``connection`` start at, the tree's root; None is the working directory.
    :raises UnknownName: no adapter has that name.
    :raises InvalidFile: the section has an unknown key or lacks one.
    :raises DriverMissing: the adapter's driver is not installed.
    """
    return find_adapter(type_, where=where)(connection, where=where, base=base or Path())
