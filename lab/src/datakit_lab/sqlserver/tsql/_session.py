"""One connection's state: its database, transaction, variables and options, and how a batch runs."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import duckdb
from sqlglot import exp

from datakit_lab.sqlserver.backend import (
    Answer,
    DatabaseChanged,
    Info,
    Login,
    Parameter,
    ResultColumn,
    ResultSet,
    RowsAffected,
    SqlError,
    SqlType,
)
from datakit_lab.sqlserver.tsql import _errors
from datakit_lab.sqlserver.tsql._batch import Statement, split
from datakit_lab.sqlserver.tsql._catalog import StoredTable
from datakit_lab.sqlserver.tsql._changes import Changes
from datakit_lab.sqlserver.tsql._convert import Expr, convert
from datakit_lab.sqlserver.tsql._definitions import Definitions
from datakit_lab.sqlserver.tsql._dialect import parse_statement
from datakit_lab.sqlserver.tsql._procedures import run_procedure
from datakit_lab.sqlserver.tsql._queries import QueryCompiler
from datakit_lab.sqlserver.tsql._scope import Query, Scope
from datakit_lab.sqlserver.tsql._settings import Settings
from datakit_lab.sqlserver.tsql._surroundings import Surroundings
from datakit_lab.sqlserver.tsql._temporary import TemporaryTables
from datakit_lab.sqlserver.tsql._transactions import Transaction
from datakit_lab.sqlserver.tsql._types import CLR, INT, from_duckdb
from datakit_lab.sqlserver.tsql._variables import Variables

if TYPE_CHECKING:
    import pyarrow as pa

    from datakit_lab.sqlserver.tsql._backend import DuckBackend
    from datakit_lab.sqlserver.tsql._principals import Principal

_BATCH_ROWS: Final = 65_536


class DuckSession:
    """A :class:`~datakit_lab.sqlserver.backend.Session` on one DuckDB cursor."""

    def __init__(self, backend: DuckBackend, login: Login, principal: Principal, number: int, database: str) -> None:
        self.backend = backend
        self.login: Login = login
        self.principal = principal
        self.number = number
        self.connection = backend.cursor()
        self.database = database
        self.settings = Settings()
        self.variables = Variables()
        self.transaction: Transaction = Transaction(self)
        self.row_count = 0
        self.last_identity: int | None = None
        self.cancelled = False
        self.surroundings = Surroundings(self)
        self.temporary_tables = TemporaryTables(self.connection)
        self._use(database)

    # the Session protocol

    def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> Iterator[Answer]:
        """Run one batch; answers come in order, lazily.

        :raises SqlError: at any point; earlier answers stay valid.
        """
        self.cancelled = False
        self.variables.reset(parameters)
        for statement in split(sql):
            try:
                yield from self._statement(statement)
            except duckdb.Error as error:
                raise self._failed(error, statement) from error
            except SqlError as error:
                error.line = max(error.line, statement.line)
                raise

    def describe(self, sql: str, parameters: Sequence[Parameter] = ()) -> tuple[ResultColumn, ...]:
        """Return the columns of the first result set without running the batch; empty if it has none.

        :raises SqlError: the batch is wrong.
        """
        self.variables.reset(parameters)
        for statement in split(sql):
            if statement.words[0] in {"SELECT", "WITH"}:
                query = self._compile(parse_statement(statement.text))
                try:
                    return self._columns(query)
                except duckdb.Error as error:
                    raise self._failed(error, statement) from error
            if statement.words[0] == "DECLARE":
                self.variables.declare(statement.text, self._value)
        return ()

    def begin(self, isolation: int) -> None:
        """Begin a transaction (TM request); ``isolation`` is TDS's byte, 0 for the current level."""
        if isolation:
            self.settings.isolation_of_tds(isolation)
        self.transaction.begin()

    def commit(self) -> None:
        """Commit the transaction.

        :raises SqlError: 3902 there is none.
        """
        self.transaction.commit()

    def rollback(self) -> None:
        """Roll the transaction back.

        :raises SqlError: 3903 there is none.
        """
        self.transaction.rollback()

    def cancel(self) -> None:
        """Attention: stop what runs."""
        self.cancelled = True
        self.connection.interrupt()

    def close(self) -> None:
        """The connection is gone: what it did not commit never happened."""
        self.transaction.abandon()
        self.backend.forget(self)
        self.connection.close()

    # statements

    def _statement(self, statement: Statement) -> Iterator[Answer]:
        first = statement.words[0]
        handler = self._HANDLERS.get(first)
        if handler is not None:
            yield from handler(self, statement)
        else:
            raise SqlError(
                102, f"Incorrect syntax near '{statement.tokens[0].text}'.", severity=15, line=statement.line
            )

    def _select(self, statement: Statement) -> Iterator[Answer]:
        node = parse_statement(statement.text)
        if isinstance(node, (exp.Insert, exp.Update, exp.Delete)):
            yield from self._change(statement, node)
            return
        if isinstance(node, exp.Select) and node.args.get("into") is not None:
            yield self._affected(Definitions(self).select_into(node))
            return
        if isinstance(node, exp.Select) and _assigns(node):
            self._assign(node)
            return
        query = self._compile(node)
        columns = self._columns(query)
        self.transaction.before_read()
        sql = _on_the_wire(query)
        relation = self.connection.sql(sql, params=self.variables.used(sql))
        reader = relation.to_arrow_reader(_BATCH_ROWS)
        self.row_count = 0
        batches = self._counted(reader)
        yield ResultSet(columns, batches)
        for _ in batches:  # what the client did not read still counts
            pass

    def _counted(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        """Yield batches and count their rows for ``@@ROWCOUNT``; DuckDB wants the result closed before the next."""
        count = 0
        try:
            for batch in reader:
                if self.cancelled:
                    raise SqlError(3617, "The query was cancelled by the client.", severity=11)
                count += batch.num_rows
                yield batch
        except duckdb.Error as error:
            raise _errors.translate(error) from error
        except OSError as error:  # how a reader reports that the engine failed in the middle of a stream
            raise _errors.translate(duckdb.Error(str(error))) from error
        finally:
            reader.close()
            self.row_count = count

    def _change(self, statement: Statement, node: exp.Expression | None = None) -> Iterator[Answer]:
        yield from Changes(self).run(node or parse_statement(statement.text))

    def _define(self, statement: Statement) -> Iterator[Answer]:
        Definitions(self).run(statement)
        self.row_count = 0
        yield RowsAffected(None)

    def _set(self, statement: Statement) -> Iterator[Answer]:
        if match := re.fullmatch(r"SET\s+@(\w+)\s*=\s*(.+)", statement.text, re.IGNORECASE | re.DOTALL):
            self.variables.assign(match[1], match[2], self._value)
        else:
            self.settings.apply(statement.text)
        yield RowsAffected(None)

    def _declare(self, statement: Statement) -> Iterator[Answer]:
        self.variables.declare(statement.text, self._value)
        yield RowsAffected(None)

    def _use_statement(self, statement: Statement) -> Iterator[Answer]:
        name = statement.tokens[1].text if len(statement.tokens) > 1 else ""
        before = self.database
        self._use(self.backend.check_access(self.principal, name))
        yield DatabaseChanged(before, self.database)
        yield Info(5701, f"Changed database context to '{self.database}'.", severity=0, state=2)
        yield RowsAffected(None)

    def _print(self, statement: Statement) -> Iterator[Answer]:
        value = self._value(statement.text[5:].strip())
        yield Info(0, "" if value is None else str(value))

    def _begin(self, statement: Statement) -> Iterator[Answer]:
        words = statement.words
        if len(words) < 2 or words[1] not in {"TRAN", "TRANSACTION"}:
            raise SqlError(40517, "The lab's SQL Server double does not support BEGIN … END blocks.")
        self.transaction.begin()
        yield RowsAffected(None)

    def _commit(self, statement: Statement) -> Iterator[Answer]:
        del statement
        self.commit()
        yield RowsAffected(None)

    def _rollback(self, statement: Statement) -> Iterator[Answer]:
        del statement
        self.rollback()
        yield RowsAffected(None)

    def _if(self, statement: Statement) -> Iterator[Answer]:
        condition, body, otherwise = _branches(statement)
        holds = self._value(f"CASE WHEN {condition} THEN 1 ELSE 0 END")
        chosen = body if holds else otherwise
        for inner in split(chosen):
            yield from self._statement(inner)

    def _execute(self, statement: Statement) -> Iterator[Answer]:
        yield from run_procedure(self, statement)

    def _raise(self, statement: Statement) -> Iterator[Answer]:
        match = re.match(r"RAISERROR\s*\(\s*N?'((?:[^']|'')*)'\s*,\s*(\d+)\s*,\s*(\d+)", statement.text, re.IGNORECASE)
        thrown = re.match(r"THROW\s+(\d+)\s*,\s*N?'((?:[^']|'')*)'\s*,\s*(\d+)", statement.text, re.IGNORECASE)
        if thrown:
            raise SqlError(int(thrown[1]), thrown[2].replace("''", "'"), state=int(thrown[3]))
        if match is None:
            raise SqlError(102, "Incorrect syntax near 'RAISERROR'.", severity=15)
        text, severity, state = match[1].replace("''", "'"), int(match[2]), int(match[3])
        if severity > 10:
            raise SqlError(50000, text, severity=severity, state=state)
        yield Info(50000, text, severity=severity, state=state)

    def _nothing(self, statement: Statement) -> Iterator[Answer]:
        del statement
        yield RowsAffected(None)

    _HANDLERS: Final[dict[str, Callable[[Any, Statement], Iterator[Answer]]]] = {
        "SELECT": _select,
        "WITH": _select,
        "(": _select,
        "INSERT": _change,
        "UPDATE": _change,
        "DELETE": _change,
        "CREATE": _define,
        "ALTER": _define,
        "DROP": _define,
        "TRUNCATE": _define,
        "SET": _set,
        "DECLARE": _declare,
        "USE": _use_statement,
        "PRINT": _print,
        "BEGIN": _begin,
        "COMMIT": _commit,
        "ROLLBACK": _rollback,
        "IF": _if,
        "EXEC": _execute,
        "EXECUTE": _execute,
        "SP_EXECUTESQL": _execute,
        "RAISERROR": _raise,
        "THROW": _raise,
        "CHECKPOINT": _nothing,
        "RETURN": _nothing,
    }

    # parts of running

    def compiler(self) -> QueryCompiler:
        """Return a compiler that sees this session's database, variables and options."""
        return QueryCompiler(self.surroundings)

    def _compile(self, node: exp.Expression) -> Query:
        self.variables.forget_used()
        return self.compiler().query(node)

    def _columns(self, query: Query) -> tuple[ResultColumn, ...]:
        types = [expr.type for _, expr in query.columns]
        if any(type_ is None for type_ in types):
            described = self.connection.execute(f"DESCRIBE {query.sql}", self.variables.used(query.sql)).fetchall()
            types = [type_ or from_duckdb(str(row[1])) for type_, row in zip(types, described, strict=True)]
        return tuple(
            ResultColumn(name, type_ or INT, nullable=expr.nullable, identity=expr.identity, computed=expr.computed)
            for (name, expr), type_ in zip(query.columns, types, strict=True)
        )

    def _value(self, text: str, type_: SqlType | None = None) -> Any:
        """Compute one T-SQL expression, as stored."""
        node = parse_statement(f"SELECT {text}")
        self.variables.forget_used()
        expr = self.compiler().expression(node.expressions[0], Scope())
        if type_ is not None:
            expr = convert(expr, type_)
        (row,) = self.connection.execute(f"SELECT {expr.sql}", self.variables.used(expr.sql)).fetchall()
        return row[0]

    def _assign(self, node: exp.Select) -> None:
        targets = [item.this.name for item in node.expressions]
        plain = node.copy()
        plain.set(
            "expressions",
            [exp.alias_(item.expression.copy(), f"v{place}") for place, item in enumerate(node.expressions)],
        )
        query = self._compile(plain)
        outputs = ", ".join(
            convert(Expr(f"q.v{place}", expr.type, utf16=expr.utf16), self.variables.type_of(target)).sql
            for place, (target, (_, expr)) in enumerate(zip(targets, query.columns, strict=True))
        )
        sql = f"SELECT {outputs} FROM ({query.sql}) AS q"
        rows = self.connection.execute(sql, self.variables.used(sql)).fetchall()
        self.row_count = len(rows)
        for target, value in zip(targets, rows[-1] if rows else (), strict=False):
            self.variables.store(target, value)

    def _affected(self, count: int) -> RowsAffected:
        self.row_count = count
        return RowsAffected(None if self.settings.no_count else count)

    def temporary(self, node: exp.Table) -> StoredTable | None:
        """Return the temporary table that ``#name`` means; None for another name."""
        if not (isinstance(node.this, exp.Identifier) and node.this.args.get("temporary")):
            return None
        found = self.temporary_tables.get(node.name)
        if found is None:
            raise SqlError(208, f"Invalid object name '#{node.name}'.")
        return found

    def constant(self, expr: Expr) -> Any:
        """Compute an expression that names no column."""
        (row,) = self.connection.execute(f"SELECT {expr.sql}", self.variables.used(expr.sql)).fetchall()
        return row[0]

    def affected(self, count: int) -> RowsAffected:
        """Note how many rows a statement changed and say so."""
        return self._affected(count)

    def value(self, text: str, type_: SqlType | None = None) -> Any:
        """Compute one T-SQL expression, as stored."""
        return self._value(text, type_)

    def _use(self, name: str) -> None:
        self.connection.execute(f'USE "{name.replace(chr(34), chr(34) * 2)}".sys')
        self.database = name

    def _failed(self, error: duckdb.Error, statement: Statement) -> SqlError:
        failure = _errors.translate(error)
        failure.line = statement.line
        self.transaction.after_error(error)
        return failure


def _assigns(node: exp.Select) -> bool:
    return bool(node.expressions) and all(
        isinstance(item, exp.EQ) and isinstance(item.this, exp.Parameter) for item in node.expressions
    )


def _on_the_wire(query: Query) -> str:
    """Project what the client gets: CLR values as their bytes, variants as their text."""
    if not any(expr.kind in CLR or expr.kind == "sql_variant" for _, expr in query.columns):
        return query.sql
    names = [f"c{place}" for place in range(len(query.columns))]
    parts = [
        f"{name}.bytes AS {name}"
        if expr.kind in CLR
        else f"{name}.value AS {name}"
        if expr.kind == "sql_variant"
        else name
        for name, (_, expr) in zip(names, query.columns, strict=True)
    ]
    return f"SELECT {', '.join(parts)} FROM ({query.sql}) AS q({', '.join(names)})"


def _branches(statement: Statement) -> tuple[str, str, str]:
    """Cut ``IF condition statement [ELSE statement]``; BEGIN … END around a branch is taken off."""
    words, tokens, text = statement.words, statement.tokens, statement.text
    base = tokens[0].start
    verbs = {
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "CREATE",
        "ALTER",
        "DROP",
        "SET",
        "EXEC",
        "PRINT",
        "USE",
        "RAISERROR",
        "BEGIN",
        "TRUNCATE",
    }
    depth = 0
    start = end = None
    for place, word in enumerate(words[1:], 1):
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0 and start is None and word in verbs:
            start = place
        elif depth == 0 and start is not None and word == "ELSE":
            end = place
    if start is None:
        raise SqlError(102, "Incorrect syntax near 'IF'.", severity=15)
    condition = text[tokens[1].start - base : tokens[start].start - base]
    body = text[tokens[start].start - base : (tokens[end].start - base) if end else len(text)]
    otherwise = text[tokens[end].end + 1 - base :] if end else ""
    return condition, _unwrapped(body), _unwrapped(otherwise)


def _unwrapped(block: str) -> str:
    match = re.fullmatch(r"\s*BEGIN\b(.*)\bEND\s*;?\s*", block, re.IGNORECASE | re.DOTALL)
    return match[1] if match else block
