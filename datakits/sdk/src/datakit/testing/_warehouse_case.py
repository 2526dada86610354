"""What the laws of warehouses share: the case, one run at a time, and comparing tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import pyarrow as pa

from datakit.errors import DatakitError
from datakit.model.contract import Column
from datakit.model.load import LoadRecord, LoadRequest, ReadPlan, Slice, TableName
from datakit.model.manifest import LoadMode
from datakit.model.types import DataType
from datakit.warehouses import Warehouse

E = TypeVar("E", bound=DatakitError)

DATASET: Final = "test.things"
ONLY: Final = Slice()
LOADED_AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class WarehouseCase:
    """The warehouse that the suite writes to.

    :ivar open: opens the warehouse; called several times in a law, always for the same destination.
    :ivar read: reads a table without the adapter, in contract types (:meth:`datakit.model.types.DataType.arrow`), its
        columns under their names; None if there is no such table.
    :ivar schema: a schema that does not exist yet: another one for every law.
    """

    open: Callable[[], Warehouse]
    read: Callable[[TableName], pa.Table | None]
    schema: str

    @property
    def table(self) -> TableName:
        """The table that most laws load."""
        return TableName(self.schema, "things")


Law = Callable[[WarehouseCase], None]


def column(name: str, type_: str, *, nullable: bool = True) -> Column:
    """Build a column from ``decimal(19,4)``."""
    return Column(name=name, type=DataType.parse(type_), nullable=nullable)


ID: Final = column("id", "int64", nullable=False)
NAME: Final = column("name", "string")
COLUMNS: Final = (ID, NAME)


def request(
    case: WarehouseCase,
    run_id: str,
    mode: LoadMode = LoadMode.REPLACE,
    *,
    columns: Sequence[Column] = COLUMNS,
    key: Sequence[str] = (),
    base: int = 0,
    **more: Any,
) -> LoadRequest:
    """Build a request with the metadata columns that a bronze datakit adds."""
    constants: Mapping[str, tuple[Column, str | datetime]] = {
        "_dk_run_id": (column("_dk_run_id", "string", nullable=False), run_id),
        "_dk_loaded_at": (column("_dk_loaded_at", "timestamptz", nullable=False), LOADED_AT),
    }
    wanted = LoadRequest(
        run_id=run_id,
        dataset=DATASET,
        datakit="test-bronze@1.2.3",
        table=case.table,
        mode=mode,
        columns=tuple(columns),
        constants=constants,
        key=tuple(key),
        base_sequence=base,
    )
    return replace(wanted, **more)


def batch(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> pa.RecordBatch:
    """Build a batch of rows."""
    arrays = [pa.array([row[place] for row in rows], column.type.arrow()) for place, column in enumerate(columns)]
    return pa.RecordBatch.from_arrays(
        arrays, schema=pa.schema([pa.field(column.name, column.type.arrow(), column.nullable) for column in columns])
    )


def stage(warehouse: Warehouse, wanted: LoadRequest, rows: Sequence[Sequence[Any]], slice_: Slice = ONLY) -> bool:
    """Stage one slice; False if it was staged before."""
    load = warehouse.begin(wanted, slice_)
    if load is None:
        return False
    if rows:
        load.write(batch(wanted.columns, rows))
    load.stage(len(rows))
    return True


def run(
    warehouse: Warehouse, wanted: LoadRequest, rows: Sequence[Sequence[Any]], cursor: str | None = None
) -> LoadRecord:
    """Do a whole load of one slice, as the engine does."""
    with warehouse.exclusive(wanted.dataset, wanted.table):
        warehouse.remember_plan(wanted.run_id, wanted.dataset, wanted.table, ReadPlan(None, (Slice(),)))
        stage(warehouse, wanted, rows)
        return warehouse.commit(wanted, cursor)


def rows_of(case: WarehouseCase, *names: str, table: TableName | None = None) -> list[tuple[Any, ...]] | None:
    """Return the rows of a table as tuples of these columns, sorted; None if there is no table."""
    found = case.read(table or case.table)
    if found is None:
        return None
    values = [found.column(name).to_pylist() for name in names or ("id", "name")]
    return sorted(zip(*values, strict=True), key=repr)


@contextmanager
def opened(case: WarehouseCase) -> Iterator[Warehouse]:
    """Open the warehouse, and close it however the law ends."""
    warehouse = case.open()
    try:
        yield warehouse
    finally:
        warehouse.close()


def same(expected: object, actual: object) -> None:
    """Assert equality with both values in the message, also where asserts are not rewritten by pytest."""
    if expected != actual:
        raise AssertionError(f"expected {expected!r}\n but got {actual!r}")


def true(condition: bool, what: str) -> None:
    """Assert what should be so."""
    if not condition:
        raise AssertionError(f"not so: {what}")


@contextmanager
def refuses(kind: type[E], *words: str) -> Iterator[None]:
    """Expect an error of this kind that names these words."""
    try:
        yield
    except kind as error:
        for word in words:
            true(word in str(error), f"{word!r} is named in: {error}")
    else:
        raise AssertionError(f"{kind.__name__} was not raised")
