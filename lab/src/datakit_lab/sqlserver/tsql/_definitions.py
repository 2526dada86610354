"""CREATE, ALTER, DROP, TRUNCATE, SELECT INTO and sp_rename."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError
from datakit_lab.sqlserver.tsql._batch import Statement
from datakit_lab.sqlserver.tsql._catalog import Catalog, ColumnSpec, StoredTable, TableSpec
from datakit_lab.sqlserver.tsql._convert import Expr, convert, quote
from datakit_lab.sqlserver.tsql._definition_words import Words, read_column
from datakit_lab.sqlserver.tsql._dialect import parse_statement, tokenize
from datakit_lab.sqlserver.tsql._expressions import parse_expression
from datakit_lab.sqlserver.tsql._scope import Scope, Source, SourceColumn
from datakit_lab.sqlserver.tsql._types import described, storage, type_text

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._session import DuckSession

_CONSTRAINTS = frozenset({"PRIMARY", "UNIQUE", "CONSTRAINT", "CHECK", "FOREIGN", "INDEX", "PERIOD"})


class Definitions:
    """Runs one defining statement of a session."""

    def __init__(self, session: DuckSession) -> None:
        self._session = session

    def run(self, statement: Statement) -> None:
        """Run the statement.

        :raises SqlError: as SQL Server would; 262 without the right.
        """
        words = statement.words
        if self._session.principal.read_only:
            raise SqlError(262, f"{words[0]} permission denied in database '{self._session.database}'.", severity=14)
        action = " ".join(words[:2])
        if action in {"CREATE DATABASE", "ALTER DATABASE", "DROP DATABASE"}:
            self._database(statement)
            return
        self._session.transaction.before_write()
        match action:
            case "CREATE SCHEMA":
                self._session.surroundings.catalog().create_schema(statement.tokens[2].text)
            case "CREATE TABLE":
                self._create_table(statement)
            case "CREATE VIEW" | "CREATE OR":
                self._create_view(statement)
            case "ALTER TABLE":
                self._alter_table(statement)
            case "DROP TABLE" | "DROP VIEW":
                self._drop(statement)
            case "DROP SCHEMA":
                self._drop_schema(statement)
            case "TRUNCATE TABLE":
                table = self._find(Words(statement.tokens[2:]).name())
                self._session.connection.execute(f"DELETE FROM {table.sql}")
            case (
                "CREATE INDEX"
                | "CREATE UNIQUE"
                | "CREATE CLUSTERED"
                | "CREATE NONCLUSTERED"
                | "CREATE STATISTICS"
                | "DROP INDEX"
            ):
                pass  # an index changes no answer; DuckDB scans
            case _:
                raise SqlError(40517, f"The lab's SQL Server double does not support {action}.")

    def select_into(self, node: exp.Select) -> int:
        """Run SELECT … INTO and return the number of rows."""
        target = node.args["into"].this
        plain = node.copy()
        plain.set("into", None)
        self._session.transaction.before_write()
        self._session.variables.forget_used()
        query = self._session.compiler().query(plain)
        columns = []
        for name, expr in query.columns:
            if not name or expr.type is None:
                raise SqlError(
                    1038,
                    "An object or column name is missing or empty. For SELECT INTO statements, verify each column "
                    "has a name.",
                )
            columns.append(
                ColumnSpec(name, type_text(expr.type), expr.nullable, collation=expr.type.collation, utf16=expr.utf16)
            )
        table = self._create(target.catalog, target.db, target.name, tuple(columns), temporary=_is_temporary(target))
        names = ", ".join(quote(column.name) for column in columns)
        sql = f"INSERT INTO {table.sql} ({names}) {query.sql}"
        ((count,),) = self._session.connection.execute(sql, self._session.variables.used(sql)).fetchall()
        return int(count)

    def rename(self, old: str, new: str, kind: str | None) -> None:
        """Run sp_rename for a table or a column.

        :raises SqlError: 15225 there is no such thing, 15335 the new name is taken.
        """
        from datakit_lab.sqlserver.tsql._surroundings import split_name

        self._session.transaction.before_write()
        parts = split_name(old)
        if (kind or "OBJECT").upper() == "COLUMN":
            table = self._find(parts[:-1])
            column = table.column(parts[-1])
            if column is None:
                raise SqlError(15225, f"No item by the name of '{old}' could be found in the current database.")
            if table.column(new) is not None:
                raise SqlError(
                    15335,
                    f"Error: The new name '{new}' is already in use as a COLUMN name and would cause a duplicate "
                    f"that is not permitted.",
                )
            if column.source.formula is None:
                self._session.connection.execute(
                    f"ALTER TABLE {table.sql} RENAME COLUMN {quote(column.source.name)} TO {quote(new)}"
                )
            self._catalog(table).rows(
                "UPDATE lab.columns SET name = ? WHERE object_id = ? AND column_id = ?",
                [new, table.object_id, column.column_id],
            )
            return
        table = self._find(parts)
        if table.kind == "U":
            self._session.connection.execute(f"ALTER TABLE {table.sql} RENAME TO {quote(new)}")
        self._catalog(table).rows("UPDATE lab.objects SET name = ? WHERE object_id = ?", [new, table.object_id])

    # helpers

    def _catalog(self, table: StoredTable) -> Catalog:
        return self._session.surroundings.catalog(table.database)

    def _find(self, parts: list[str]) -> StoredTable:
        padded = ["", "", *parts][-3:]
        if parts[-1].startswith("#"):
            found = self._session.temporary_tables.get(parts[-1])
            if found is not None:
                return found
        return self._session.surroundings.stored(padded[0], padded[1], padded[2])

    def _create(
        self,
        database: str,
        schema: str,
        name: str,
        columns: tuple[ColumnSpec, ...],
        key: tuple[str, ...] = (),
        *,
        temporary: bool = False,
    ) -> StoredTable:
        if temporary:
            return self._session.temporary_tables.create(name, columns)
        target = self._session.backend.spelling(database) if database else None
        return self._session.surroundings.catalog(target).create_table(TableSpec(schema or "dbo", name, columns, key))

    def _create_table(self, statement: Statement) -> None:
        words = Words(statement.tokens[2:])
        parts = ["", "", *words.name()][-3:]
        columns: list[ColumnSpec] = []
        key: tuple[str, ...] = ()
        words.expect("(")
        for item in words.items():
            if item.peek() in _CONSTRAINTS and not item.is_quoted():
                if (found := item.primary_key()) is not None:
                    key = found
                elif item.start_of() in {"CHECK", "FOREIGN"}:
                    raise SqlError(
                        40517, f"The lab's SQL Server double does not support {item.start_of()} constraints."
                    )
                continue
            column, is_key = read_column(item)
            columns.append(column)
            if is_key:
                key = (column.name,)
        self._create(
            parts[0],
            parts[1],
            parts[2].lstrip("#"),
            self._with_formula_types(columns),
            key,
            temporary=parts[2].startswith("#"),
        )

    def _with_formula_types(
        self, columns: list[ColumnSpec], stored: tuple[SourceColumn, ...] = ()
    ) -> tuple[ColumnSpec, ...]:
        """Give computed columns the type of their formula."""
        plain = [
            SourceColumn(column.name, column.sql_type(), column.nullable)
            for column in columns
            if column.formula is None
        ]
        scope = Scope(sources=[Source("t", (*stored, *plain))])
        typed = []
        for column in columns:
            if column.formula is not None:
                expr = self._session.compiler().expression(parse_expression(column.formula), scope)
                column = replace(column, type=type_text(expr.type) if expr.type else "int")
            typed.append(column)
        return tuple(typed)

    def _create_view(self, statement: Statement) -> None:
        match = re.fullmatch(
            r"CREATE\s+(?:OR\s+ALTER\s+)?VIEW\s+(.+?)\s+AS\s+((?:SELECT|WITH)\b.+)",
            statement.text,
            re.IGNORECASE | re.DOTALL,
        )
        if match is None:
            raise SqlError(102, "Incorrect syntax near 'VIEW'.", severity=15)
        parts = ["", "", *Words(tuple(tokenize(match[1]))).name()][-3:]
        query = self._session.compiler().query(parse_statement(match[2]))
        catalog = self._session.surroundings.catalog()
        schema_id = catalog.schema_id(parts[1] or "dbo")
        if schema_id is None:
            raise SqlError(
                2760,
                f'The specified schema name "{parts[1]}" either does not exist or you do not have permission to '
                f"use it.",
            )
        if (existing := catalog.find(parts[1] or "dbo", parts[2])) is not None:
            if "ALTER" not in statement.words[:3]:
                raise SqlError(2714, f"There is already an object named '{parts[2]}' in the database.")
            catalog.drop(existing)
        object_id = catalog.new_object(schema_id, parts[2], "V", definition=match[2].rstrip("; \n"))
        for place, (name, expr) in enumerate(query.columns, 1):
            type_ = "int" if expr.type is None else type_text(expr.type)
            column = ColumnSpec(name, type_, expr.nullable, collation=expr.type.collation if expr.type else None)
            catalog.register_column(object_id, place, column)

    def _alter_table(self, statement: Statement) -> None:
        words = Words(statement.tokens[2:])
        table = self._find(words.name())
        catalog = self._catalog(table)
        verb = words.take().upper()
        if verb == "ADD":
            for item in words.items():
                raw, _ = read_column(item)
                (column,) = self._with_formula_types([raw], tuple(stored.source for stored in table.columns))
                catalog.add_column(table, column)
                self._fill(table, column)
        elif verb == "DROP":
            words.expect("COLUMN")
            for item in words.items():
                self._drop_column(table, item.take())
        elif verb == "ALTER":
            words.expect("COLUMN")
            column, _ = read_column(words)
            self._alter_column(table, column)
        else:
            raise SqlError(40517, f"The lab's SQL Server double does not support ALTER TABLE … {verb}.")

    def _fill(self, table: StoredTable, column: ColumnSpec) -> None:
        """Give the rows that exist the default of a new NOT NULL column, or their first rowversion."""
        if column.type.lower() in {"rowversion", "timestamp"}:
            sequence = f"{quote(table.database)}.lab.rowversions"
            self._session.connection.execute(
                f"UPDATE {table.sql} SET {quote(column.name)} = unhex(printf('%016X', nextval('{sequence}')))"
            )
        elif column.default is not None and not column.nullable:
            value = self._session.value(column.default, column.sql_type())
            self._session.connection.execute(f"UPDATE {table.sql} SET {quote(column.name)} = ?", [value])
        elif not column.nullable and column.identity is None and column.formula is None:
            row = next(iter(self._session.connection.execute(f"SELECT count(*) FROM {table.sql}").fetchall()), None)
            if row and row[0]:
                raise SqlError(
                    4901,
                    "ALTER TABLE only allows columns to be added that can contain nulls, or have a DEFAULT "
                    "definition specified.",
                )

    def _drop_column(self, table: StoredTable, name: str) -> None:
        column = table.column(name)
        if column is None:
            raise SqlError(
                4924, f"ALTER TABLE DROP COLUMN failed because column '{name}' does not exist in table '{table.name}'."
            )
        catalog = self._catalog(table)
        used = catalog.rows(
            "SELECT 1 FROM lab.index_columns WHERE object_id = ? AND column_id = ?", [table.object_id, column.column_id]
        )
        if used:
            raise SqlError(5074, f"The object 'PK_{table.name}' is dependent on column '{name}'.")
        if column.source.formula is None:
            self._session.connection.execute(f"ALTER TABLE {table.sql} DROP COLUMN {quote(column.source.name)}")
        catalog.rows(
            "DELETE FROM lab.columns WHERE object_id = ? AND column_id = ?", [table.object_id, column.column_id]
        )

    def _alter_column(self, table: StoredTable, column: ColumnSpec) -> None:
        stored = table.column(column.name)
        if stored is None or stored.source.type is None:
            raise SqlError(
                4924,
                f"ALTER TABLE ALTER COLUMN failed because column '{column.name}' does not exist in table "
                f"'{table.name}'.",
            )
        type_ = column.sql_type()
        name = quote(stored.source.name)
        using = convert(Expr(name, stored.source.type, utf16=stored.source.utf16), type_).sql
        self._session.connection.execute(
            f"ALTER TABLE {table.sql} ALTER COLUMN {name} SET DATA TYPE {storage(type_)} USING {using}"
        )
        facts = described(type_)
        self._catalog(table).rows(
            'UPDATE lab.columns SET type_name = ?, length = ?, system_type_id = ?, user_type_id = ?, max_length = '
            '?, "precision" = ?, '
            "scale = ?, collation_name = ?, is_nullable = ? WHERE object_id = ? AND column_id = ?",
            [type_.name, type_.length, facts.system_type_id, facts.user_type_id, facts.max_length, facts.precision,
            facts.scale,
             facts.collation, column.nullable, table.object_id, stored.column_id],
        )  # fmt: skip

    def _drop(self, statement: Statement) -> None:
        tokens = list(statement.tokens[2:])
        forgiving = len(tokens) > 1 and tokens[0].text.upper() == "IF"
        for item in Words(tuple(tokens[2:] if forgiving else tokens)).items():
            parts = item.name()
            try:
                table = self._find(parts)
            except SqlError as error:
                if error.number == 208 and forgiving:
                    continue
                raise SqlError(
                    3701,
                    f"Cannot drop the table '{'.'.join(parts)}', because it does not exist or you do not have "
                    f"permission.",
                    severity=11,
                    state=5,
                ) from None
            if table.database == "temp":
                self._session.temporary_tables.drop(table)
            else:
                self._catalog(table).drop(table)

    def _drop_schema(self, statement: Statement) -> None:
        name = statement.tokens[-1].text
        catalog = self._session.surroundings.catalog()
        if catalog.schema_id(name) is None:
            raise SqlError(
                15151, f"Cannot drop the schema '{name}', because it does not exist or you do not have permission."
            )
        if catalog.rows(
            "SELECT 1 FROM lab.objects AS o JOIN lab.schemas AS s ON s.schema_id = o.schema_id WHERE s.name = ?", [name]
        ):
            raise SqlError(3729, f"Cannot drop schema '{name}' because it is being referenced by an object.")
        self._session.connection.execute(f"DROP SCHEMA {quote(self._session.database)}.{quote(name)}")
        catalog.rows("DELETE FROM lab.schemas WHERE name = ?", [name])

    def _database(self, statement: Statement) -> None:
        words, name = statement.words, statement.tokens[2].text
        backend = self._session.backend
        if words[0] == "CREATE":
            backend.create_database(name)
        elif words[0] == "ALTER":
            database = self._session.database if name.upper() == "CURRENT" else backend.spelling(name)
            option = " ".join(words[3:])
            if match := re.search(r"SET (ALLOW_SNAPSHOT_ISOLATION|READ_COMMITTED_SNAPSHOT) (ON|OFF)", option):
                backend.set_option(database, match[1], match[2])
            else:
                raise SqlError(40517, f"The lab's SQL Server double does not support ALTER DATABASE … {option}.")
        else:
            raise SqlError(40517, "The lab's SQL Server double does not support DROP DATABASE.")


def _is_temporary(table: exp.Table) -> bool:
    return isinstance(table.this, exp.Identifier) and bool(table.this.args.get("temporary"))
