"""What has to change in an existing table before a load fits into it. The same for every warehouse."""

from __future__ import annotations

from dataclasses import dataclass

from datakit.errors import SchemaChangeRefused
from datakit.model.contract import Column
from datakit.model.load import LoadRequest, TableState
from datakit.warehouses._identifiers import METADATA_PREFIX


@dataclass(frozen=True, slots=True)
class TableChanges:
    """Changes to make, in this order.

    :ivar add: columns to add, all nullable, because earlier rows have no value for them.
    :ivar widen: columns whose type becomes the one named here.
    :ivar relax: columns that lose NOT NULL, because the load may bring a NULL or no value at all.
    """

    add: tuple[Column, ...] = ()
    widen: tuple[Column, ...] = ()
    relax: tuple[str, ...] = ()


def wanted_columns(request: LoadRequest) -> tuple[Column, ...]:
    """Return the columns of the finished table: those that batches bring, then the constants."""
    return (*request.columns, *(column for column, _ in request.constants.values()))


def changes_to_fit(state: TableState, request: LoadRequest, *, emptied: bool = False) -> TableChanges:
    """Compare a table with a load that goes into it.

    Metadata columns (``_dk_…``) are added without being asked for; other columns only if the request says so.

    :param emptied: the table's rows are removed first (``replace`` that keeps the table), so that the table simply
        takes the request's columns and types.
    :raises SchemaChangeRefused: the load does not fit and the request does not ask for the change that it needs.
    """
    have = {column.name: column for column in (*state.columns, *state.metadata)}
    wanted = {column.name: column for column in wanted_columns(request)}
    asked = {column.name for column in request.add}
    add = []
    for column in wanted.values():
        if column.name in have:
            continue
        if not (emptied or column.name in asked or column.name.startswith(METADATA_PREFIX)):
            raise SchemaChangeRefused(
                f"the table has no column {column.name!r}, and this load may not add it",
                subject=str(request.table),
                fix="let the load evolve the table (schema_changes: evolve), or add the column yourself",
            )
        add.append(column.model_copy(update={"nullable": True}))
    widened = {column.name: column for column in request.widen}
    widen = []
    for name, column in have.items():
        target = wanted[name] if emptied and name in wanted else widened.get(name)
        if (
            target is not None
            and not emptied
            and not target.type.holds(column.type)
            and not column.type.holds(target.type)
        ):
            raise _does_not_fit(request, column, target)
        if target is not None and target.type != column.type and (emptied or target.type.holds(column.type)):
            widen.append(target)
        final = target if target is not None and target in widen else column
        if name in wanted and not final.type.holds(wanted[name].type):
            raise _does_not_fit(request, column, wanted[name])
    relax = tuple(
        name
        for name, column in have.items()
        if not column.nullable and name not in request.key and (name not in wanted or wanted[name].nullable)
    )
    return TableChanges(tuple(add), tuple(widen), relax)


def _does_not_fit(request: LoadRequest, column: Column, wanted: Column) -> SchemaChangeRefused:
    return SchemaChangeRefused(
        f"the column {column.name!r} is {column.type} in the warehouse, and the load brings {wanted.type}",
        subject=str(request.table),
        cause="the type changed in a way that loses values, or the load may not widen the column",
        fix="rebuild the table with `datakit run --full`, or convert the column in the dataset's SQL",
    )
