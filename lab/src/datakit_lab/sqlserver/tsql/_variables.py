"""Variables and parameters: typed values that a compiled statement names as DuckDB parameters."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any

from datakit_lab.sqlserver.backend import Parameter, SqlError, SqlType
from datakit_lab.sqlserver.tsql import _temporal as temporal
from datakit_lab.sqlserver.tsql._convert import Expr, blob_literal, literal_temporal
from datakit_lab.sqlserver.tsql._dialect import parse_statement, sql_type
from datakit_lab.sqlserver.tsql._types import CHARACTER, CLR, TEMPORAL, character, storage

Evaluate = Callable[[str, SqlType], Any]


class Variables:
    """The variables of one batch, by folded name without ``@``."""

    def __init__(self) -> None:
        self._types: dict[str, SqlType] = {}
        self._values: dict[str, Any] = {}
        self._used: dict[str, Any] = {}

    def reset(self, parameters: Sequence[Parameter]) -> None:
        """Begin a batch with its parameters."""
        self._types, self._values, self._used = {}, {}, {}
        for parameter in parameters:
            type_ = parameter.type
            if type_.name in CHARACTER and type_.length is None:
                type_ = character(type_.name, -1, type_.collation)
            name = parameter.name.lstrip("@").casefold()
            self._types[name] = type_
            self._values[name] = parameter.value

    def declare(self, text: str, evaluate: Evaluate) -> None:
        """Run ``DECLARE @a int = 5, @b nvarchar(10)``.

        :raises SqlError: 102 for another form, 134 a name is declared twice.
        """
        for part in _declarations(text):
            match = re.fullmatch(
                r"\s*@(\w+)\s+(?:AS\s+)?([\w.\[\]]+\s*(?:\([^)]*\))?)\s*(?:=\s*(.+))?", part, re.IGNORECASE | re.DOTALL
            )
            if match is None:
                raise SqlError(102, f"Incorrect syntax near '{part.strip()[:30]}'.", severity=15)
            name = match[1].casefold()
            if name in self._types:
                raise SqlError(134, f"The variable name '@{match[1]}' has already been declared.", severity=15)
            self._types[name] = sql_type(parse_statement(f"SELECT CAST(NULL AS {match[2]})").expressions[0].to)
            self._values[name] = evaluate(match[3], self._types[name]) if match[3] else None

    def assign(self, name: str, text: str, evaluate: Evaluate) -> None:
        """Run ``SET @a = expression``."""
        self.store(name, evaluate(text, self.type_of(name)))

    def type_of(self, name: str) -> SqlType:
        """Return a variable's type.

        :raises SqlError: 137 it is not declared.
        """
        if name.casefold() not in self._types:
            raise SqlError(137, f'Must declare the scalar variable "@{name}".', severity=15)
        return self._types[name.casefold()]

    def value_of(self, name: str) -> Any:
        """Return a variable's value."""
        return self._values[name.casefold()]

    def store(self, name: str, value: Any) -> None:
        """Set a value, as stored."""
        self._values[name.casefold()] = value

    def forget_used(self) -> None:
        """Begin to compile a statement."""
        self._used = {}

    def used(self, sql: str) -> dict[str, Any]:
        """Return the DuckDB parameters that a compiled statement names.

        It may name fewer than it was compiled with: OBJECT_ID(@name) is a constant once it is compiled.
        """
        named = set(re.findall(r"\$(p\d+)", sql))
        return {name: value for name, value in self._used.items() if name in named}

    def expression(self, name: str) -> Expr:
        """Return a variable as an expression.

        :raises SqlError: 137 it is not declared, 241 its value has no place in its type.
        """
        type_ = self.type_of(name)
        value = self._values[name.casefold()]
        if value is None:
            return Expr(f"CAST(NULL AS {storage(type_)})", type_)
        constant = _constant(value, type_)
        if constant is not None:
            return constant
        key = f"p{len(self._used)}"
        self._used[key] = str(value) if isinstance(value, uuid.UUID) else value
        return Expr(f"CAST(${key} AS {storage(type_)})", type_, nullable=False)


def _constant(value: Any, type_: SqlType) -> Expr | None:
    """Write the values that DuckDB's parameters would lose: ticks, offsets, lone surrogates, structs."""
    if isinstance(value, str) and type_.name in CHARACTER:
        if any(0xD800 <= ord(character_) <= 0xDFFF for character_ in value):
            return Expr(blob_literal(value.encode("utf-16-le", "surrogatepass")), type_, utf16=True, nullable=False)
        return None
    if type_.name in TEMPORAL | {"time"}:
        text = _temporal_text(value, type_)
        return None if text is None else Expr(literal_temporal(text, type_), type_, nullable=False)
    if isinstance(value, dict):  # a struct that a statement before computed
        parts = ", ".join(f"{key!r}: {_plain(item)}" for key, item in value.items())
        return Expr(f"CAST({{{parts}}} AS {storage(type_)})", type_, nullable=False)
    if type_.name in CLR or type_.name == "sql_variant":
        return Expr(
            f"{{'base': 'nvarchar', 'value': '{str(value).replace(chr(39), chr(39) * 2)}'}}", type_, nullable=False
        )
    return None


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return blob_literal(value)
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def _temporal_text(value: Any, type_: SqlType) -> str | None:
    """Return ISO text of a date or time; None for what is stored as it is (ticks, structs)."""
    if isinstance(value, int):
        if type_.name == "time":
            seconds, ticks = divmod(value, temporal.TICKS_PER_SECOND)
            return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{ticks:07d}"
        moment = dt.datetime.min + dt.timedelta(microseconds=value // 10)
        return f"{moment.replace(microsecond=0).isoformat(sep=' ')}.{value % temporal.TICKS_PER_SECOND:07d}"
    if isinstance(value, dict):
        return None
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        text = value.replace(tzinfo=None).isoformat(sep=" ")
        offset = value.utcoffset() or dt.timedelta()
        minutes = int(offset.total_seconds() // 60)
        return f"{text} {'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)


def _declarations(text: str) -> list[str]:
    return cut(re.sub(r"^\s*DECLARE\b", "", text, flags=re.IGNORECASE))


def cut(body: str) -> list[str]:
    """Cut ``a, b`` at its commas outside parentheses and quotation marks."""
    parts, depth, quoted, start = [], 0, False, 0
    for place, letter in enumerate(body):
        if letter == "'":
            quoted = not quoted
        elif not quoted:
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if letter == "," and depth == 0:
                parts.append(body[start:place])
                start = place + 1
    return [*parts, body[start:]]
