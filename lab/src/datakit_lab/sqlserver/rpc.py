"""Remote procedure calls: reading the request, and what the system procedures of drivers mean."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from datakit_lab.sqlserver.backend import Parameter, SqlError, SqlType
from datakit_lab.sqlserver.decoding import Reader, read_parameter, skip_headers

_BY_ID: Final = {
    1: "sp_cursor",
    2: "sp_cursoropen",
    3: "sp_cursorprepare",
    4: "sp_cursorexecute",
    5: "sp_cursorprepexec",
    6: "sp_cursorunprepare",
    7: "sp_cursorfetch",
    8: "sp_cursoroption",
    9: "sp_cursorclose",
    10: "sp_executesql",
    11: "sp_prepare",
    12: "sp_execute",
    13: "sp_prepexec",
    14: "sp_prepexecrpc",
    15: "sp_unprepare",
}
_OUTPUT = 0x01
_BATCH_SEPARATORS = (0xFF, 0xFE, 0x80)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a procedure."""

    procedure: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, slots=True)
class Statement:
    """A prepared statement: its text and the parameters it declares."""

    sql: str
    declared: tuple[str, ...]


def read_calls(body: bytes) -> list[Call]:
    """Read the calls of one RPC message (usually one).

    :raises Malformed: the message ends too early.
    :raises SqlError: a parameter's type is not known here, or the procedure's number is not.
    """
    reader = Reader(body)
    skip_headers(reader)
    calls: list[Call] = []
    while not reader.exhausted:
        length = reader.number(2)
        if length == 0xFFFF:
            number = reader.number(2)
            if number not in _BY_ID:
                raise SqlError(2812, f"Could not find stored procedure number {number}.", severity=16, state=62)
            name = _BY_ID[number]
        else:
            name = reader.take(length * 2).decode("utf-16-le")
        reader.take(2)
        calls.append(Call(name, tuple(_parameters(reader))))
    return calls


def _parameters(reader: Reader) -> Iterator[Parameter]:
    while not reader.exhausted:
        # a separator stands where the next parameter's name length would, and is longer than any name may be
        length = reader.number(1)
        if length in _BATCH_SEPARATORS:
            return
        name = reader.take(length * 2).decode("utf-16-le")
        status = reader.number(1)
        sql_type, value = read_parameter(reader)
        yield Parameter(name, sql_type, value, output=bool(status & _OUTPUT))


def declared_names(declaration: str) -> tuple[str, ...]:
    """Return the names in ``@a int, @b decimal(10, 2) OUTPUT``, in order."""
    names: list[str] = []
    depth, start = 0, 0
    for at, character in enumerate(declaration + ","):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "," and depth == 0:
            words = declaration[start:at].split()
            if words:
                names.append(words[0])
            start = at + 1
    return tuple(names)


def named(values: Sequence[Parameter], declared: Sequence[str]) -> tuple[Parameter, ...]:
    """Give unnamed values the names that the statement declares, by position."""
    return tuple(
        value if value.name or name is None else replace(value, name=name)
        for value, name in zip(values, itertools.chain(declared, itertools.repeat(None)), strict=False)
    )


class Statements:
    """The prepared statements of one connection, by handle."""

    def __init__(self) -> None:
        self._by_handle: dict[int, Statement] = {}
        self._next = 1

    def add(self, statement: Statement) -> int:
        """Keep a statement; return its handle."""
        handle = self._next
        self._next += 1
        self._by_handle[handle] = statement
        return handle

    def get(self, handle: Any) -> Statement:
        """Return a statement.

        :raises SqlError: 8179 there is none of this handle.
        """
        found = self._by_handle.get(handle) if isinstance(handle, int) else None
        if found is None:
            raise SqlError(8179, f"Could not find prepared statement with handle {handle}.")
        return found

    def remove(self, handle: Any) -> None:
        """Forget a statement.

        :raises SqlError: 8179 there is none of this handle.
        """
        self.get(handle)
        del self._by_handle[handle]

    def clear(self) -> None:
        """Forget all statements (sp_reset_connection)."""
        self._by_handle.clear()


def text_of(parameters: Sequence[Parameter], position: int, procedure: str) -> str:
    """Return a parameter that must be text; NULL is empty text (a statement without parameters declares none).

    :raises SqlError: 214 it is missing or no text.
    """
    value = parameters[position].value if position < len(parameters) else None
    if value is None and position < len(parameters):
        return ""
    if not isinstance(value, str):
        raise SqlError(214, f"Procedure {procedure} expects parameter {position + 1} of type 'ntext/nchar/nvarchar'.")
    return value


INT: Final = SqlType("int")
