"""The SELECT statements that read a dataset: quoted names, typed literals, nothing pasted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from datakit.errors import ConfigurationError
from datakit.sources.sqlserver.names import ObjectName

_WORDS: Final = re.compile(
    r"""'(?:[^']|'')*'          # a string
      | "(?:[^"]|"")*"          # a quoted identifier
      | \[(?:[^\]]|\]\])*\]     # a bracketed identifier
      | --[^\n]*                # a comment
      | /\*.*?\*/               # a comment (T-SQL nests these; a nested one is refused by the server)
      | [();]
      | [A-Za-z_@#][\w@#$]*""",
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Relation:
    """Something to select from: a table, or a query with its common table expressions in front.

    :ivar prologue: ``WITH …``, or nothing.
    :ivar source: what follows FROM.
    """

    source: str
    prologue: str = ""

    @classmethod
    def of_table(cls, name: ObjectName) -> Relation:
        """Select from a table or view."""
        return cls(name.quoted)

    @classmethod
    def of_query(cls, sql: str, *, subject: str) -> Relation:
        """Select from a query: one SELECT, with or without WITH.

        :raises ConfigurationError: the text is something else.
        """
        start, end = _find_select(sql, subject)
        return cls(f"(\n{sql[start:end]}\n) AS [q]", f"{sql[:start].strip()}\n" if sql[:start].strip() else "")

    def select(self, expressions: Iterable[str], conditions: Sequence[str] = (), *, top: int | None = None) -> str:
        """Write a SELECT."""
        limit = f"TOP ({top}) " if top is not None else ""
        where = "\nWHERE " + "\n  AND ".join(conditions) if conditions else ""
        return f"{self.prologue}SELECT {limit}{', '.join(expressions)}\nFROM {self.source}{where}"


def _find_select(sql: str, subject: str) -> tuple[int, int]:
    """Return where the last, outermost SELECT begins and where it ends."""
    depth, begins, ends, first = 0, None, None, None
    for match in _WORDS.finditer(sql):
        word = match[0].upper()
        if word.startswith(("--", "/*")):
            continue
        if ends is not None:
            raise ConfigurationError(
                "the file holds more than one statement", subject=subject, fix="write one SELECT; a view can hold more"
            )
        first = first or word
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
        elif word == ";" and depth == 0:
            ends = match.start()
        elif word == "SELECT" and depth == 0 and begins is None:
            begins = match.start()
    if begins is None or first not in {"SELECT", "WITH"}:
        raise ConfigurationError(
            f"the file does not begin with SELECT or WITH, but with {first or 'nothing'}",
            subject=subject,
            fix="write one SELECT",
        )
    return begins, len(sql) if ends is None else ends
