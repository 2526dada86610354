"""Stored procedures: the system ones that drivers and people call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from datakit_lab.sqlserver.backend import (
    Answer,
    Info,
    Parameter,
    ResultColumn,
    ResultSet,
    RowsAffected,
    SqlError,
    SqlType,
)
from datakit_lab.sqlserver.tsql._batch import Statement
from datakit_lab.sqlserver.tsql._definitions import Definitions
from datakit_lab.sqlserver.tsql._dynamic_views import values_relation
from datakit_lab.sqlserver.tsql._scope import Relation
from datakit_lab.sqlserver.tsql._types import BIT, INT, SYSNAME, character, described, type_text

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._session import DuckSession

_DESCRIBED: list[tuple[str, SqlType]] = [
    ("is_hidden", BIT), ("column_ordinal", INT), ("name", SYSNAME), ("is_nullable", BIT), ("system_type_id", INT),
    ("system_type_name", character("nvarchar", 256)), ("max_length", SqlType("smallint")), ("precision",
    SqlType("tinyint")),
    ("scale", SqlType("tinyint")), ("collation_name", SYSNAME), ("user_type_id", INT), ("user_type_database", SYSNAME),
    ("user_type_schema", SYSNAME), ("user_type_name", SYSNAME), ("is_identity_column", BIT), ("is_part_of_unique_key",
    BIT),
    ("is_updateable", BIT), ("is_computed_column", BIT), ("is_sparse_column_set", BIT), ("error_number", INT),
    ("error_message", character("nvarchar", 4000)),
]  # fmt: skip


def run_procedure(session: DuckSession, statement: Statement) -> Iterator[Answer]:
    """Run ``EXEC name arguments``.

    :raises SqlError: 2812 there is no such procedure.
    """
    text = re.sub(r"^\s*EXEC(UTE)?\b", "", statement.text, flags=re.IGNORECASE).strip()
    if text.startswith("("):
        yield from session.execute(str(session.value(text)))
        return
    match = re.match(r"(?:@\w+\s*=\s*)?([\w.\[\]]+)\s*(.*)", text, re.DOTALL)
    if match is None:
        raise SqlError(102, "Incorrect syntax near 'EXEC'.", severity=15)
    name = (
        match[1]
        .replace("[", "")
        .replace("]", "")
        .casefold()
        .removeprefix("sys.")
        .removeprefix("dbo.")
        .removeprefix("master..")
    )
    arguments = _arguments(session, match[2])
    if name == "sp_executesql":
        yield from _execute_sql(session, arguments, match[2])
    elif name in {"sp_describe_first_result_set", "sp_describe_undeclared_parameters"}:
        yield from _describe(session, arguments if name == "sp_describe_first_result_set" else [])
    elif name == "sp_rename":
        values = [str(value) for _, value in arguments if value is not None]
        Definitions(session).rename(values[0], values[1], values[2] if len(values) > 2 else None)
        yield Info(15477, "Caution: Changing any part of an object name could break scripts and stored procedures.")
        yield RowsAffected(None)
    elif name in {"sp_set_session_context", "sp_reset_connection", "sp_getapplock", "sp_releaseapplock"}:
        yield RowsAffected(None)
    else:
        raise SqlError(2812, f"Could not find stored procedure '{match[1]}'.", state=62)


def described_relation(session: DuckSession, sql: str) -> Relation:
    """Return sys.dm_exec_describe_first_result_set(sql, NULL, 0); an error is a row, as in SQL Server."""
    return values_relation("dm_exec_describe_first_result_set", _DESCRIBED, describe_rows(session, sql))


def describe_rows(session: DuckSession, sql: str) -> list[tuple[Any, ...]]:
    """Describe the first result set of a batch, a row for each column."""
    kept = session.variables
    try:
        session.variables = type(kept)()
        columns = session.describe(sql)
    except SqlError as error:
        return [(False, 0, *[None] * 17, error.number, error.text)]
    finally:
        session.variables = kept
    return [_described_row(place, column) for place, column in enumerate(columns, 1)]


def _described_row(place: int, column: ResultColumn) -> tuple[Any, ...]:
    facts = described(column.type)
    clr = column.type.name if facts.system_type_id == 240 else None
    return (
        False, place, column.name or None, column.nullable, facts.system_type_id,
        None if clr else type_text(column.type), facts.max_length, facts.precision,
        facts.scale, facts.collation, facts.user_type_id if clr else None, None, "sys" if clr else None, clr,
        column.identity, False,
        not column.computed, column.computed, False, None, None,
    )  # fmt: skip


def _describe(session: DuckSession, arguments: list[tuple[str, Any]]) -> Iterator[Answer]:
    rows = describe_rows(session, str(arguments[0][1])) if arguments else []
    if rows and rows[0][-2] is not None:
        raise SqlError(int(rows[0][-2]), str(rows[0][-1]))
    arrays = []
    for place, (_, type_) in enumerate(_DESCRIBED):
        kind = {"bit": pa.bool_(), "int": pa.int32(), "smallint": pa.int16(), "tinyint": pa.uint8()}.get(
            type_.name, pa.string()
        )
        arrays.append(pa.array([row[place] for row in rows], kind))
    batch = pa.record_batch(arrays, [name for name, _ in _DESCRIBED])
    session.row_count = len(rows)
    yield ResultSet(tuple(ResultColumn(name, type_) for name, type_ in _DESCRIBED), iter([batch]))
    yield RowsAffected(len(rows))


def _execute_sql(session: DuckSession, arguments: list[tuple[str, Any]], text: str) -> Iterator[Answer]:
    """Run sp_executesql called in a batch: N'statement', N'@p int', value."""
    del text
    sql = str(arguments[0][1])
    declared = str(arguments[1][1]) if len(arguments) > 1 and arguments[1][1] else ""
    outer = session.variables
    inner = type(outer)()
    try:
        session.variables = inner
        if declared:
            inner.declare(f"DECLARE {declared}", session.value)
        names = re.findall(r"@(\w+)", declared)
        for place, (name, value) in enumerate(arguments[2:]):
            inner.store(name.lstrip("@") or names[place], value)
        parameters = tuple(Parameter(name, inner.type_of(name), inner.value_of(name)) for name in names)
        yield from session.execute(sql, parameters)
    finally:
        session.variables = outer


def _arguments(session: DuckSession, text: str) -> list[tuple[str, Any]]:
    """Evaluate ``@name = value, value, …``."""
    from datakit_lab.sqlserver.tsql._variables import cut

    found = []
    for part in cut(text):
        match = re.fullmatch(r"\s*(?:(@\w+)\s*=\s*)?(.+?)\s*(?:OUT(?:PUT)?)?\s*;?", part, re.DOTALL | re.IGNORECASE)
        if match:
            found.append((match[1] or "", session.value(match[2])))
    return found
