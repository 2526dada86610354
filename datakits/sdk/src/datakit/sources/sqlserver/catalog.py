"""What a dataset looks like in SQL Server's catalog: ``sys.*`` for tables and views, sp_describe_first_result_set
for queries. Both need no more than the right to read the object."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from datakit.errors import ConfigurationError, ContractMismatch, LoginRefused
from datakit.sources.sqlserver.driver import Connection
from datakit.sources.sqlserver.names import ObjectName
from datakit.sources.sqlserver.query import Relation
from datakit.sources.sqlserver.type_table import LiveColumn

_OBJECT: Final = "SELECT RTRIM(o.type) FROM sys.objects AS o WHERE o.object_id = OBJECT_ID(?)"

# An alias type counts as the system type that it stands for; a CLR type is its own. COLUMNPROPERTY instead of
# is_hidden, because it answers NULL, not an error, on servers from before temporal tables.
_COLUMNS: Final = """
SELECT c.name, COALESCE(b.name, t.name), c.max_length, c.precision, c.scale, c.is_nullable, c.is_computed,
       COALESCE(COLUMNPROPERTY(c.object_id, c.name, 'IsHidden'), 0), c.is_column_set, t.is_assembly_type,
       t.is_user_defined
FROM sys.columns AS c
JOIN sys.types AS t ON t.user_type_id = c.user_type_id
LEFT JOIN sys.types AS b ON b.user_type_id = c.system_type_id
WHERE c.object_id = OBJECT_ID(?)
ORDER BY c.column_id"""

_COLUMN_SET: Final = 8

_KEY: Final = """
SELECT c.name
FROM sys.indexes AS i
JOIN sys.index_columns AS ic ON ic.object_id = i.object_id AND ic.index_id = i.index_id
JOIN sys.columns AS c ON c.object_id = ic.object_id AND c.column_id = ic.column_id
WHERE i.object_id = OBJECT_ID(?) AND i.is_primary_key = 1 AND ic.key_ordinal > 0
ORDER BY ic.key_ordinal"""

_ROWS: Final = """
SELECT SUM(p.rows) FROM sys.partitions AS p WHERE p.object_id = OBJECT_ID(?) AND p.index_id IN (0, 1)"""

_NAMES: Final = """
SELECT s.name, o.name FROM sys.objects AS o JOIN sys.schemas AS s ON s.schema_id = o.schema_id
WHERE o.type IN ('U', 'V')"""

_READABLE: Final = frozenset({"U", "V"})


@dataclass(frozen=True, slots=True)
class LiveRelation:
    """A table, view or query as it is now.

    :ivar rows: how many rows the catalog counts; None where it does not.
    """

    relation: Relation
    columns: tuple[LiveColumn, ...]
    key: tuple[str, ...] = ()
    rows: int | None = None

    def column(self, name: str) -> LiveColumn | None:
        """Return the column of that exact name, or None."""
        return next((column for column in self.columns if column.name == name), None)


def read_table(connection: Connection, name: ObjectName) -> LiveRelation:
    """Read a table or view.

    :raises LoginRefused: it does not exist, or this principal may not see it.
    """
    subject = str(name)
    kind = connection.rows(_OBJECT, [name.quoted], subject=subject)
    if not kind or kind[0][0] not in _READABLE:
        raise _missing(connection, name, kind[0][0] if kind else None)
    # The column set only gathers sparse columns, which are read themselves.
    columns = tuple(
        _table_column(row) for row in connection.rows(_COLUMNS, [name.quoted], subject=subject) if not row[_COLUMN_SET]
    )
    key = tuple(row[0] for row in connection.rows(_KEY, [name.quoted], subject=subject))
    counted = connection.rows(_ROWS, [name.quoted], subject=subject) if kind[0][0] == "U" else []
    rows = None if not counted or counted[0][0] is None else int(counted[0][0])
    return LiveRelation(Relation.of_table(name), columns, key, rows)


def read_query(connection: Connection, sql: str, *, subject: str) -> LiveRelation:
    """Read what a query gives, without running it.

    :raises ConfigurationError: it is no single SELECT, or two of its columns have one name, or one has none.
    """
    relation = Relation.of_query(sql, subject=subject)
    statement = relation.select(["*"])
    described = connection.rows("EXEC sp_describe_first_result_set @tsql = ?", [statement], subject=subject)
    if not described:
        raise ConfigurationError("the query gives no result set", subject=subject, fix="write one SELECT")
    return LiveRelation(relation, tuple(_described_column(row, subject) for row in described if not row[0]))


def _table_column(row: tuple[Any, ...]) -> LiveColumn:
    name, type_name, max_length, precision, scale, nullable, computed, hidden, _, assembly, user_defined = row
    return LiveColumn(
        name=name,
        type_name=type_name.lower(),
        max_length=max_length,
        precision=precision,
        scale=scale,
        nullable=bool(nullable),
        computed=bool(computed),
        hidden=bool(hidden),
        is_clr=bool(assembly and user_defined),
    )


def _described_column(row: tuple[Any, ...], subject: str) -> LiveColumn:
    # The columns of the procedure's result set, in the order that its documentation gives.
    name, nullable, type_name, max_length, precision, scale = row[2], row[3], row[5], row[6], row[7], row[8]
    clr_schema, clr_name = row[12], row[13]
    if not name:
        raise ConfigurationError(
            f"column {row[1]} of the query has no name", subject=subject, fix="name it: expression AS name"
        )
    system = str(type_name).partition("(")[0].lower() if type_name else str(clr_name).lower()
    return LiveColumn(
        name=str(name),
        type_name=system,
        max_length=int(max_length),
        precision=int(precision),
        scale=int(scale),
        nullable=bool(nullable),
        is_clr=not type_name and clr_schema != "sys",
    )


def _missing(connection: Connection, name: ObjectName, kind: str | None) -> LoginRefused | ContractMismatch:
    if kind is not None:
        return ContractMismatch(
            f"the object is of type {kind}, neither a table nor a view",
            subject=str(name),
            cause="it is a synonym, a procedure or a function",
            fix="name the table behind it, or select from it with sql:",
        )
    known = [f"{schema}.{table}" for schema, table in connection.rows(_NAMES, subject=str(name))]
    near = get_close_matches(str(name), known, n=1, cutoff=0.6)
    return LoginRefused(
        "the table does not exist, or this principal may not see it",
        subject=str(name),
        cause=f"did you mean {near[0]}?" if near else f"{len(known)} tables and views can be seen, and none is like it",
        fix="compare the name, or ask for: GRANT SELECT ON the table",
    )
