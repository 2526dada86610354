"""INSERT, UPDATE and DELETE: values take the column's type, the server gives identities, rowversions and defaults."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlglot import exp

from datakit_lab.sqlserver.backend import Answer, ResultColumn, ResultSet, SqlError
from datakit_lab.sqlserver.tsql._catalog import StoredColumn, StoredTable
from datakit_lab.sqlserver.tsql._convert import Expr, convert, quote, text_literal
from datakit_lab.sqlserver.tsql._expressions import parse_expression
from datakit_lab.sqlserver.tsql._scope import Scope, Source, SourceColumn
from datakit_lab.sqlserver.tsql._types import INT

if TYPE_CHECKING:
    import pyarrow as pa

    from datakit_lab.sqlserver.tsql._session import DuckSession


class Changes:
    """Runs one changing statement of a session."""

    def __init__(self, session: DuckSession) -> None:
        self._session = session
        self._compiler = session.compiler()

    def run(self, node: exp.Expression) -> Iterator[Answer]:
        """Run the statement.

        :raises SqlError: as SQL Server would.
        """
        if self._session.principal.read_only:
            verb, name = type(node).__name__.upper(), node.find(exp.Table)
            raise SqlError(
                229,
                f"The {verb} permission was denied on the object '{name.name if name else ''}'.",
                severity=14,
                state=5,
            )
        self._session.variables.forget_used()
        self._session.transaction.before_write()
        if isinstance(node, exp.Insert):
            yield from self._insert(node)
        elif isinstance(node, exp.Update):
            yield from self._update(node)
        elif isinstance(node, exp.Delete):
            yield from self._delete(node)
        else:
            raise SqlError(102, "Incorrect syntax: not a statement that this double knows.", severity=15)

    def _table(self, node: exp.Table) -> StoredTable:
        found = self._session.temporary(node) or self._session.surroundings.stored(node.catalog, node.db, node.name)
        if found.kind != "U":
            raise SqlError(4405, f"View or function '{found.name}' is not updatable in this double.")
        return found

    def _finish(
        self, sql: str, returning: tuple[list[str], tuple[ResultColumn, ...]] | None, table: StoredTable
    ) -> Iterator[Answer]:
        session = self._session
        if any(column.is_rowversion for column in table.columns):
            session.backend.rowversions.claim(session, table.database)
        if returning:
            sql += f" RETURNING {', '.join(returning[0])}"
        try:
            rows = session.connection.execute(sql, session.variables.used(sql))
            if returning is None:
                found = next(iter(rows.fetchall()), None)
                yield session.affected(int(found[0]) if found else 0)
                return
            table_: pa.Table = rows.to_arrow_table()
            session.row_count = table_.num_rows
            yield ResultSet(returning[1], iter(table_.to_batches()))
            yield session.affected(table_.num_rows)
        finally:
            if not session.transaction.is_open:
                session.backend.rowversions.released(session)

    def _insert(self, node: exp.Insert) -> Iterator[Answer]:
        target = node.this
        names = [column.name for column in target.expressions] if isinstance(target, exp.Schema) else None
        table = self._table(target.this if isinstance(target, exp.Schema) else target)
        given = self._given(table, names, node)
        missing = [column for column in table.columns if column not in given or node.args.get("default")]
        automatic = [(column, value) for column in missing if (value := self._automatic(table, column)) is not None]
        if node.args.get("default"):
            given, source = [], f"SELECT {', '.join(value for _, value in automatic) or 'NULL'}"
        elif isinstance(node.expression, exp.Values):
            source = "VALUES " + ", ".join(
                self._row(row, given, table, [value for _, value in automatic]) for row in node.expression.expressions
            )
        else:
            source = self._selected(node, given, [value for _, value in automatic], named=names is not None)
        columns = ", ".join(quote(column.source.name) for column in (*given, *(column for column, _ in automatic)))
        yield from self._finish(
            f"INSERT INTO {table.sql} ({columns}) {source}", self._returning(node, table, "inserted"), table
        )
        self._note_identity(table)

    def _row(self, row: exp.Expression, given: list[StoredColumn], table: StoredTable, automatic: list[str]) -> str:
        """Compile one row of VALUES; each literal takes its column's type by itself."""
        values = row.expressions if isinstance(row, exp.Tuple) else [row.this if isinstance(row, exp.Paren) else row]
        if len(values) != len(given):
            more = "more" if len(values) < len(given) else "fewer"
            number = 109 if more == "more" else 110
            raise SqlError(
                number, f"There are {more} columns in the INSERT statement than values specified in the VALUES clause."
            )
        scope = Scope()
        stored = []
        for value, column in zip(values, given, strict=True):
            if isinstance(value, exp.Column) and value.name.upper() == "DEFAULT" and not value.table:
                stored.append(self._automatic(table, column) or "NULL")
            else:
                stored.append(_stored(self._compiler.expression(value, scope), column))
        return f"({', '.join([*stored, *automatic])})"

    def _selected(self, node: exp.Insert, given: list[StoredColumn], automatic: list[str], *, named: bool) -> str:
        """Compile INSERT … SELECT."""
        body = node.expression
        if (clause := node.args.get("with_")) is not None:
            body = body.copy()
            body.set("with_", clause)
        query = self._compiler.query(body)
        if len(query.columns) != len(given):
            number = 120 if named else 213
            raise SqlError(number, "Column name or number of supplied values does not match table definition.")
        names = [f"c{place}" for place in range(len(given))]
        values = [
            _stored(Expr(f"s.{name}", expr.type, utf16=expr.utf16), column)
            for name, (_, expr), column in zip(names, query.columns, given, strict=True)
        ]
        return f"SELECT {', '.join([*values, *automatic])} FROM ({query.sql}) AS s({', '.join(names)})"

    def _given(self, table: StoredTable, names: list[str] | None, node: exp.Insert) -> list[StoredColumn]:
        explicit = self._session.settings.inserts_identity(table.schema, table.name)
        if names is None:
            return [
                column
                for column in table.columns
                if (explicit or column.identity is None) and column.source.formula is None and not column.source.hidden
                and not (column.is_rowversion and not node.args.get("default"))
            ]  # fmt: skip
        given = []
        for name in names:
            column = table.column(name)
            if column is None:
                raise SqlError(207, f"Invalid column name '{name}'.")
            self._refuse_automatic(table, column, inserting=True, explicit=explicit)
            given.append(column)
        return given

    def _refuse_automatic(
        self, table: StoredTable, column: StoredColumn, *, inserting: bool, explicit: bool = False
    ) -> None:
        if column.source.formula is not None:
            raise SqlError(
                271,
                f'The column "{column.source.name}" cannot be modified because it is either a computed column or '
                f"is the result of a UNION operator.",
            )
        if column.is_rowversion:
            if inserting:
                raise SqlError(
                    273,
                    "Cannot insert an explicit value into a timestamp column. Use INSERT with a column list to "
                    "exclude the timestamp column, or insert a DEFAULT into the timestamp column.",
                )
            raise SqlError(272, "Cannot update a timestamp column.")
        if column.identity is not None and not explicit:
            if inserting:
                raise SqlError(
                    544,
                    f"Cannot insert explicit value for identity column in table '{table.name}' when "
                    f"IDENTITY_INSERT is set to OFF.",
                )
            raise SqlError(8102, f"Cannot update identity column '{column.source.name}'.")

    def _automatic(self, table: StoredTable, column: StoredColumn) -> str | None:
        """Return the value that the server gives; None leaves NULL."""
        if column.source.formula is not None:
            return None
        if column.is_rowversion:
            return self._next_rowversion(table)
        if column.identity is not None:
            name = f"{quote(table.database)}.lab.identity_{table.object_id}"
            return f"nextval({text_literal(name)})"
        default = column.default
        if default is None:
            return None
        return _stored(self._compiler.expression(parse_expression(default), Scope()), column)

    def _next_rowversion(self, table: StoredTable) -> str:
        return f"unhex(printf('%016X', nextval({text_literal(quote(table.database) + '.lab.rowversions')})))"

    def _note_identity(self, table: StoredTable) -> None:
        if any(column.identity for column in table.columns):
            row = next(
                iter(
                    self._session.connection.execute(
                        "SELECT last_value FROM duckdb_sequences() WHERE database_name = ? AND sequence_name = ?",
                        [table.database, f"identity_{table.object_id}"],
                    ).fetchall()
                ),
                None,
            )
            self._session.last_identity = row[0] if row else None

    def _update(self, node: exp.Update) -> Iterator[Answer]:
        table, alias, others, scope = self._target(node.this, node.args.get("from_"))
        sets = []
        for item in node.expressions:
            column = table.column(item.this.name)
            if column is None:
                raise SqlError(207, f"Invalid column name '{item.this.name}'.")
            self._refuse_automatic(table, column, inserting=False)
            sets.append(
                f"{quote(column.source.name)} = {_stored(self._compiler.expression(item.expression, scope), column)}"
            )
        sets.extend(
            f"{quote(column.source.name)} = {self._next_rowversion(table)}"
            for column in table.columns
            if column.is_rowversion
        )
        sql = f"UPDATE {table.sql} AS {quote(alias)} SET {', '.join(sets)}{f' FROM {others}' if others else ''}"
        sql += self._where(node, scope)
        yield from self._finish(sql, self._returning(node, table, "inserted"), table)

    def _delete(self, node: exp.Delete) -> Iterator[Answer]:
        listed = node.args.get("tables")
        if listed and listed[0].name.upper() == "TOP":
            raise SqlError(40517, "The lab's SQL Server double does not support DELETE TOP.")
        origin = exp.From(this=node.this) if listed else None
        table, alias, others, scope = self._target(listed[0] if listed else node.this, origin)
        sql = f"DELETE FROM {table.sql} AS {quote(alias)}{f' USING {others}' if others else ''}" + self._where(
            node, scope
        )
        yield from self._finish(sql, self._returning(node, table, "deleted"), table)

    def _where(self, node: exp.Expression, scope: Scope) -> str:
        where = node.args.get("where")
        return f" WHERE {self._compiler.predicate(where.this, scope)}" if where else ""

    def _target(self, node: exp.Table, origin: exp.From | None) -> tuple[StoredTable, str, str, Scope]:
        """Return the table that changes, its alias, the other tables, and the names that all of them give."""
        scope = Scope()
        if origin is None:
            table = self._table(node)
            alias = node.alias or table.name
            scope.sources.append(Source(alias, _columns(table), frozenset({table.name.casefold()})))
            return table, alias, "", scope
        sources = [origin.this, *(join.this for join in origin.this.args.get("joins") or [])]
        wanted = node.name.casefold()
        mine = next((source for source in sources if (source.alias or source.name).casefold() == wanted), None)
        if mine is None or len(sources) > 1:
            raise SqlError(40517, "The lab's SQL Server double does not support UPDATE and DELETE with joins.")
        table = self._table(mine)
        alias = mine.alias or table.name
        scope.sources.append(Source(alias, _columns(table), frozenset({table.name.casefold()})))
        return table, alias, "", scope

    def _returning(
        self, node: exp.Expression, table: StoredTable, prefix: str
    ) -> tuple[list[str], tuple[ResultColumn, ...]] | None:
        clause = node.args.get("returning")
        if clause is None:
            return None
        scope = Scope(sources=[Source(table.name, _columns(table), frozenset({prefix}))])
        outputs, columns = [], []
        for item in clause.expressions:
            inner = item.this if isinstance(item, exp.Alias) else item
            expr = self._compiler.expression(inner, scope)
            outputs.append(expr.sql.replace(f"{quote(table.name)}.", ""))
            columns.append(ResultColumn(item.alias_or_name, expr.type or INT, nullable=expr.nullable))
        return outputs, tuple(columns)


def _columns(table: StoredTable) -> tuple[SourceColumn, ...]:
    return tuple(column.source for column in table.columns)


def _stored(value: Expr, column: StoredColumn) -> str:
    """Convert a value to what the column stores; too long a text is an error, never cut."""
    type_ = column.source.type
    assert type_ is not None  # the catalog knows every column's type  # noqa: S101 - for the type checker
    if column.source.utf16:
        return value.sql if value.utf16 or value.type is None else f"encode_utf16({value.sql})"
    converted = convert(value, type_)
    length = type_.length
    if type_.name in {"varchar", "nvarchar", "char", "nchar"} and length not in {None, -1} and value.type is not None:
        whole = convert(
            value,
            type_.__class__(
                ("n" if type_.name.startswith("n") else "") + "varchar", length=-1, collation=type_.collation
            ),
        )
        message = f"String or binary data would be truncated in column '{column.source.name}'."
        measure = "utf16_length" if type_.name.startswith("n") else "length"
        too_long = f"{measure}(rtrim({whole.sql}, ' ')) > {length}"
        return f"CASE WHEN {too_long} THEN error({text_literal(message)}) ELSE {converted.sql} END"
    return converted.sql
