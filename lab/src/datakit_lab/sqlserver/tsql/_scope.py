"""Names that a query can use: its tables, subqueries and common table expressions, and their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql._convert import Expr, quote


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column that a source offers.

    :ivar formula: T-SQL of a computed column; nothing of it is stored.
    """

    name: str
    type: SqlType | None
    nullable: bool = True
    identity: bool = False
    hidden: bool = False
    utf16: bool = False
    formula: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Something in FROM: ``alias`` is its name in DuckDB, ``names`` what T-SQL may call it, all folded."""

    alias: str
    columns: tuple[SourceColumn, ...]
    qualifiers: frozenset[str] = frozenset()
    outer: bool = False

    def find(self, name: str) -> SourceColumn | None:
        """Return the column of that name, whatever its case."""
        folded = name.casefold()
        return next((column for column in self.columns if column.name.casefold() == folded), None)


@dataclass(frozen=True, slots=True)
class Relation:
    """What a table name means: SQL to put into FROM, and its columns."""

    sql: str
    columns: tuple[SourceColumn, ...]
    name: str


@dataclass(frozen=True, slots=True)
class Query:
    """A compiled query."""

    sql: str
    columns: tuple[tuple[str, Expr], ...]


@dataclass(slots=True)
class Scope:
    """The names visible in one SELECT; ``parent`` is the query around it."""

    parent: Scope | None = None
    sources: list[Source] = field(default_factory=list)
    relations: dict[str, Relation] = field(default_factory=dict)

    def relation(self, name: str) -> Relation | None:
        """Return the common table expression of that name."""
        scope: Scope | None = self
        while scope is not None:
            if found := scope.relations.get(name.casefold()):
                return found
            scope = scope.parent
        return None

    def resolve(self, column: exp.Column) -> tuple[Source, SourceColumn]:
        """Find a column.

        :raises SqlError: 207 unknown column, 209 ambiguous, 4104 unknown qualifier.
        """
        scope: Scope | None = self
        qualifier = column.table.casefold()
        known = not qualifier
        while scope is not None:
            sources = [source for source in scope.sources if not qualifier or source.alias.casefold() == qualifier]
            sources = sources or [source for source in scope.sources if qualifier in source.qualifiers]
            known = known or bool(sources)
            found = [(source, hit) for source in sources if (hit := source.find(column.name))]
            if len(found) > 1:
                raise SqlError(209, f"Ambiguous column name '{column.name}'.")
            if found:
                return found[0]
            scope = scope.parent
        if not known:
            parts = ".".join(part.name for part in column.parts)
            raise SqlError(4104, f'The multi-part identifier "{parts}" could not be bound.')
        raise SqlError(207, f"Invalid column name '{column.name}'.")


class Environment(Protocol):
    """What the compiler asks the session for."""

    @property
    def database(self) -> str:
        """The current database."""

    def relation(self, table: exp.Table) -> Relation:
        """Return a table, a view or a system view.

        :raises SqlError: 208 unknown object, 229 no right to it.
        """

    def table_function(self, table: exp.Table, arguments: Sequence[object]) -> Relation:
        """Return a table-valued system function's rows as a relation."""

    def variable(self, name: str) -> Expr:
        """Return a variable or parameter.

        :raises SqlError: 137 it is not declared.
        """

    def global_variable(self, name: str) -> Expr:
        """Return ``@@NAME``."""

    def system_function(self, name: str, arguments: Sequence[object]) -> Expr | None:
        """Return the value of a function of the session or the catalog with constant arguments; None if unknown."""


def column_sql(source: Source, column: SourceColumn) -> str:
    """Name a column for DuckDB."""
    return f"{quote(source.alias)}.{quote(column.name)}"
