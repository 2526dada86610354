"""What a database knows about itself: a ``lab`` schema of plain tables in each DuckDB catalog.

DuckDB's own catalog does not know T-SQL's types, identity, computed or hidden columns. Ours is written in the same
transaction as the table itself, so that a rollback undoes both. The ``sys`` views are views on it.
"""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql._convert import quote
from datakit_lab.sqlserver.tsql._macros import MACROS
from datakit_lab.sqlserver.tsql._scope import Relation, SourceColumn
from datakit_lab.sqlserver.tsql._system_views import SYSTEM_VIEWS
from datakit_lab.sqlserver.tsql._types import CHARACTER, DEFAULT_COLLATION, TYPES, described, make_type, storage


@dataclass(frozen=True, slots=True)
class ColumnSpec:
    """A column to create.

    :ivar type: as T-SQL writes it: ``nvarchar(40)``, ``datetime2(3)``, ``rowversion``.
    :ivar default: T-SQL of the DEFAULT.
    :ivar formula: T-SQL of a computed column.
    :ivar generated: 1 and 2 for the start and end of a temporal table's row, else 0.
    :ivar utf16: store raw UTF-16LE, for strings with lone surrogates.
    """

    name: str
    type: str
    nullable: bool = True
    identity: tuple[int, int] | None = None
    default: str | None = None
    formula: str | None = None
    sparse: bool = False
    hidden: bool = False
    generated: int = 0
    collation: str | None = None
    utf16: bool = False

    def sql_type(self) -> SqlType:
        """Return the declared type.

        :raises SqlError: 2715 for an unknown type.
        """
        name, _, rest = self.type.partition("(")
        arguments = [part.strip() for part in rest.rstrip(") ").split(",")] if rest else []
        return make_type(name.strip(), arguments, collation=self.collation)


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table to create.

    :ivar key: its primary key.
    :ivar enforced: whether DuckDB guards the key with an index; without, it stands in the catalog only, which loads
        large generated tables faster.
    """

    schema: str
    name: str
    columns: tuple[ColumnSpec, ...]
    key: tuple[str, ...] = ()
    key_name: str | None = None
    enforced: bool = True


@dataclass(frozen=True, slots=True)
class StoredColumn:
    """A column as the catalog has it."""

    column_id: int
    source: SourceColumn
    default: str | None
    identity: tuple[int, int] | None

    @property
    def is_rowversion(self) -> bool:
        """Whether the server gives the values."""
        return self.source.type is not None and self.source.type.name == "timestamp"


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table or view as the catalog has it."""

    database: str
    schema: str
    name: str
    object_id: int
    kind: str
    columns: tuple[StoredColumn, ...]
    definition: str | None = None

    @property
    def sql(self) -> str:
        """Its name in DuckDB."""
        return f"{quote(self.database)}.{quote(self.schema)}.{quote(self.name)}"

    def column(self, name: str) -> StoredColumn | None:
        """Return the column of that name, whatever its case."""
        folded = name.casefold()
        return next((column for column in self.columns if column.source.name.casefold() == folded), None)

    def relation(self) -> Relation:
        """Return what FROM needs."""
        return Relation(self.sql, tuple(column.source for column in self.columns), self.name)


_TABLES: Final = """
CREATE TABLE lab.schemas (schema_id INTEGER, name VARCHAR COLLATE NOCASE, principal_id INTEGER);
CREATE TABLE lab.objects (
    object_id INTEGER, schema_id INTEGER, name VARCHAR COLLATE NOCASE, type VARCHAR, parent_object_id INTEGER,
    create_date TIMESTAMP, modify_date TIMESTAMP, definition VARCHAR, temporal_type UTINYINT
);
CREATE TABLE lab.columns (
    object_id INTEGER, column_id INTEGER, name VARCHAR COLLATE NOCASE, type_name VARCHAR, length INTEGER,
    system_type_id UTINYINT, user_type_id INTEGER, max_length SMALLINT, "precision" UTINYINT, scale UTINYINT,
    collation_name VARCHAR COLLATE NOCASE, is_nullable BOOLEAN, is_identity BOOLEAN, is_computed BOOLEAN,
    is_sparse BOOLEAN, is_hidden BOOLEAN, generated_always_type UTINYINT, definition VARCHAR, default_definition
    VARCHAR,
    seed BIGINT, increment BIGINT, utf16 BOOLEAN
);
CREATE TABLE lab.indexes (
    object_id INTEGER, index_id INTEGER, name VARCHAR COLLATE NOCASE, type UTINYINT, is_unique BOOLEAN,
    is_primary_key BOOLEAN, is_unique_constraint BOOLEAN, constraint_id INTEGER
);
CREATE TABLE lab.index_columns (
    object_id INTEGER, index_id INTEGER, index_column_id INTEGER, column_id INTEGER, key_ordinal UTINYINT,
    is_descending_key BOOLEAN, is_included_column BOOLEAN
);
CREATE TABLE lab.types (
    name VARCHAR COLLATE NOCASE, system_type_id UTINYINT, user_type_id INTEGER, max_length SMALLINT,
    "precision" UTINYINT, scale UTINYINT, collation_name VARCHAR COLLATE NOCASE
);
CREATE TABLE lab.options (name VARCHAR, value VARCHAR);
CREATE SEQUENCE lab.object_ids START 245575913 INCREMENT 16;
CREATE SEQUENCE lab.schema_ids START 5;
CREATE SEQUENCE lab.rowversions START 2001;
"""


_ROWS_PER_INSERT: Final = 64


class Catalog:
    """Reads and writes one database's catalog through one DuckDB connection, in its current transaction."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, database: str) -> None:
        self.connection = connection
        self.database = database
        self._lab = f"{quote(database)}.lab"

    def create(self) -> None:
        """Create the catalog in an empty database."""
        name = quote(self.database)
        self.connection.execute(f"CREATE SCHEMA {name}.lab; CREATE SCHEMA {name}.sys; CREATE SCHEMA {name}.dbo")
        self.connection.execute(_TABLES.replace("lab.", f"{self._lab}."))
        self.connection.execute(
            f"INSERT INTO {self._lab}.schemas VALUES (1,'dbo',1),(2,'guest',2),(3,'INFORMATION_SCHEMA',3),(4,'sys',4)"
        )
        rows = [
            (kind, facts.system_type_id, facts.user_type_id, facts.max_length, facts.precision, facts.scale,
             DEFAULT_COLLATION if kind in CHARACTER or kind == "sysname" else None)
            for kind, facts in TYPES.items()
        ]  # fmt: skip
        self.connection.executemany(f"INSERT INTO {self._lab}.types VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        for macro in MACROS:
            self.connection.execute(f"CREATE MACRO {name}.sys.{macro}")
        for view, select in SYSTEM_VIEWS.items():
            self.connection.execute(f'CREATE VIEW {name}.sys."{view}" AS {select.replace("lab.", self._lab + ".")}')

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Query the catalog; ``lab.`` in the text is this database's."""
        return self.connection.execute(sql.replace("lab.", f"{self._lab}."), list(parameters)).fetchall()

    def schema_id(self, name: str) -> int | None:
        """Return the id of a schema, None if there is none."""
        found = self.rows("SELECT schema_id FROM lab.schemas WHERE name = ?", [name])
        return int(found[0][0]) if found else None

    def create_schema(self, name: str) -> None:
        """Create a schema.

        :raises SqlError: 2714 it exists.
        """
        if self.schema_id(name) is not None or name.casefold() == "lab":
            raise SqlError(2714, f"There is already an object named '{name}' in the database.")
        self.connection.execute(f"CREATE SCHEMA {quote(self.database)}.{quote(name)}")
        self.rows("INSERT INTO lab.schemas SELECT nextval('lab.schema_ids'), ?, 1", [name])

    def find(self, schema: str, name: str) -> StoredTable | None:
        """Return a table or view, None if there is none."""
        found = self.rows(
            "SELECT o.object_id, s.name, o.name, o.type, o.definition FROM lab.objects AS o JOIN lab.schemas AS s "
            "ON s.schema_id = o.schema_id WHERE s.name = ? AND o.name = ? AND o.type IN ('U', 'V')",
            [schema, name],
        )
        if not found:
            return None
        object_id, schema_name, table_name, kind, definition = found[0]
        columns = self.rows(
            'SELECT column_id, name, type_name, length, "precision", scale, collation_name, is_nullable, is_identity, '
            "is_hidden, utf16, definition, default_definition, seed, increment FROM lab.columns WHERE object_id = "
            "? ORDER BY column_id",
            [object_id],
        )
        return StoredTable(
            self.database, schema_name, table_name, object_id, kind, tuple(map(_column, columns)), definition
        )

    def create_table(self, spec: TableSpec) -> StoredTable:
        """Create a table and its key.

        :raises SqlError: 2714 it exists, 2760 no such schema, 2705 a column twice.
        """
        schema_id = self.schema_id(spec.schema)
        if schema_id is None:
            raise SqlError(
                2760,
                f'The specified schema name "{spec.schema}" either does not exist or you do not have permission to '
                f"use it.",
            )
        if self.find(spec.schema, spec.name) is not None:
            raise SqlError(2714, f"There is already an object named '{spec.name}' in the database.")
        names = [column.name.casefold() for column in spec.columns]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise SqlError(
                2705,
                f"Column names in each table must be unique. Column name '{twice}' in table '{spec.name}' is "
                f"specified more than once.",
            )
        object_id = self.new_object(schema_id, spec.name, "U")
        key = {name.casefold() for name in spec.key}
        self._add_columns(
            object_id,
            [
                (place, column, column.nullable and column.name.casefold() not in key)
                for place, column in enumerate(spec.columns, 1)
            ],
        )
        parts = [_declaration(column) for column in spec.columns if column.formula is None]
        if spec.key:
            if spec.enforced:
                parts.append(f"PRIMARY KEY ({', '.join(map(quote, spec.key))})")
            self._add_key(object_id, schema_id, spec)
        self.connection.execute(
            f"CREATE TABLE {quote(self.database)}.{quote(spec.schema)}.{quote(spec.name)} ({', '.join(parts)})"
        )
        table = self.find(spec.schema, spec.name)
        assert table is not None  # it was made above  # noqa: S101 - for the type checker
        return table

    def new_object(
        self, schema_id: int, name: str, kind: str, *, definition: str | None = None, parent: int = 0
    ) -> int:
        """Register an object and return its id."""
        (object_id,) = self.rows("SELECT nextval('lab.object_ids')")[0]
        self.rows(
            "INSERT INTO lab.objects VALUES (?, ?, ?, ?, ?, now()::TIMESTAMP, now()::TIMESTAMP, ?, 0)",
            [object_id, schema_id, name, kind, parent, definition],
        )
        return int(object_id)

    def add_column(self, table: StoredTable, column: ColumnSpec) -> None:
        """Add a column at the end.

        :raises SqlError: 2705 it exists.
        """
        if table.column(column.name) is not None:
            raise SqlError(
                2705,
                f"Column names in each table must be unique. Column name '{column.name}' in table '{table.name}' "
                f"is specified more than once.",
            )
        self._add_columns(
            table.object_id, [(max(stored.column_id for stored in table.columns) + 1, column, column.nullable)]
        )
        if column.formula is None:
            type_ = storage(column.sql_type(), utf16=column.utf16)
            self.connection.execute(
                f"ALTER TABLE {table.sql} ADD COLUMN {quote(column.name)} {type_}{_collate(column)}"
            )

    def register_column(self, object_id: int, column_id: int, column: ColumnSpec) -> None:
        """Note a column that needs no storage (a view's)."""
        self._add_columns(object_id, [(column_id, column, column.nullable)])

    def restart_identity(self, table: StoredTable, next_value: int) -> None:
        """Let the next identity value be ``next_value``, as DBCC CHECKIDENT does."""
        step = next(column.identity[1] for column in table.columns if column.identity)
        sequence = f"{self._lab}.{quote(f'identity_{table.object_id}')}"
        self.connection.execute(f"CREATE OR REPLACE SEQUENCE {sequence} START {next_value} INCREMENT {step}")

    def drop(self, table: StoredTable) -> None:
        """Forget a table or view, and drop what it holds."""
        if table.kind == "U":
            self.connection.execute(f"DROP TABLE {table.sql}")
        for name in ("columns", "indexes", "index_columns"):
            self.rows(f"DELETE FROM lab.{name} WHERE object_id = ?", [table.object_id])  # names of ours
        self.rows("DELETE FROM lab.objects WHERE object_id = ? OR parent_object_id = ?", [table.object_id] * 2)

    def _add_columns(self, object_id: int, columns: Sequence[tuple[int, ColumnSpec, bool]]) -> None:
        """Note columns: their ids, and whether they may be NULL."""
        # one statement for many rows, because a table may have 1,024 columns
        for start in range(0, len(columns), _ROWS_PER_INSERT):
            rows = [_column_row(object_id, *column) for column in columns[start : start + _ROWS_PER_INSERT]]
            marks = f"({', '.join('?' * len(rows[0]))})"
            self.rows(
                f"INSERT INTO lab.columns VALUES {', '.join([marks] * len(rows))}",
                [value for row in rows for value in row],
            )
        for _, column, _ in columns:
            if column.identity is not None:
                sequence = f"{self._lab}.{quote(f'identity_{object_id}')}"
                self.connection.execute(
                    f"CREATE SEQUENCE {sequence} START {column.identity[0]} INCREMENT {column.identity[1]}"
                )

    def _add_key(self, object_id: int, schema_id: int, spec: TableSpec) -> None:
        name = spec.key_name or f"PK_{spec.name}"[:128]
        constraint = self.new_object(schema_id, name, "PK", parent=object_id)
        self.rows("INSERT INTO lab.indexes VALUES (?, 1, ?, 1, TRUE, TRUE, FALSE, ?)", [object_id, name, constraint])
        places = {column.name.casefold(): place for place, column in enumerate(spec.columns, 1)}
        for ordinal, column in enumerate(spec.key, 1):
            if column.casefold() not in places:
                raise SqlError(1911, f"Column name '{column}' does not exist in the target table or view.")
            self.rows(
                "INSERT INTO lab.index_columns VALUES (?, 1, ?, ?, ?, FALSE, FALSE)",
                [object_id, ordinal, places[column.casefold()], ordinal],
            )


def _column_row(object_id: int, column_id: int, column: ColumnSpec, nullable: bool) -> list[Any]:
    """Return a column's row of ``lab.columns``."""
    type_ = column.sql_type()
    facts = described(type_)
    seed, increment = column.identity or (None, None)
    nullable = nullable and column.identity is None and type_.name != "timestamp"
    return [
        object_id, column_id, column.name, type_.name, type_.length, facts.system_type_id, facts.user_type_id,
        facts.max_length,
        facts.precision, facts.scale, facts.collation, nullable, column.identity is not None,
        column.formula is not None,
        column.sparse, column.hidden, column.generated, column.formula, column.default, seed, increment, column.utf16,
    ]  # fmt: skip


def _column(row: tuple[Any, ...]) -> StoredColumn:
    (
        column_id,
        name,
        kind,
        length,
        precision,
        scale,
        collation,
        nullable,
        identity,
        hidden,
        utf16,
        formula,
        default,
        seed,
        step,
    ) = row
    exact = kind in {"decimal", "numeric"}
    scaled = exact or kind in {"time", "datetime2", "datetimeoffset"}
    type_ = SqlType(
        kind,
        length=length,
        precision=precision if exact else None,
        scale=scale if scaled else None,
        collation=collation,
    )
    source = SourceColumn(name, type_, nullable, identity, hidden, utf16, formula)
    return StoredColumn(column_id, source, default, (seed, step) if identity else None)


def _collate(column: ColumnSpec) -> str:
    """A column in a case-insensitive collation compares so in DuckDB too."""
    type_ = column.sql_type()
    return (
        " COLLATE NOCASE" if type_.name in CHARACTER and not column.utf16 and "_CI_" in (type_.collation or "") else ""
    )


def _declaration(column: ColumnSpec) -> str:
    stored = storage(column.sql_type(), utf16=column.utf16) + _collate(column)
    return f"{quote(column.name)} {stored}{'' if column.nullable else ' NOT NULL'}"
