"""The words of CREATE and ALTER: names, columns and what is in parentheses, read from tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlglot.tokenizer_core import Token

from datakit_lab.sqlserver.backend import SqlError
from datakit_lab.sqlserver.tsql._catalog import ColumnSpec


def read_column(words: Words) -> tuple[ColumnSpec, bool]:  # noqa: C901 - one branch for each kind
    """Read one column of CREATE TABLE or ALTER TABLE ADD, and whether it is the key.

    :raises SqlError: 102 the text is no column.
    """
    name = words.take()
    options: dict[str, Any] = {}
    if words.peek() == "AS":
        words.take()
        formula = words.parenthesised()
        return ColumnSpec(name, "sql_variant", formula=formula), False  # the caller derives the type
    type_name = words.name()[-1]
    if words.peek() == "(":
        type_name += f"({words.parenthesised()})"
    is_key = False
    while words:
        word = words.take().upper()
        match word:
            case "NOT":
                words.expect("NULL")
                options["nullable"] = False
            case "NULL":
                options["nullable"] = True
            case "PRIMARY":
                words.expect("KEY")
                is_key, options["nullable"] = True, False
            case "IDENTITY":
                numbers = [int(part) for part in words.parenthesised().split(",")] if words.peek() == "(" else [1, 1]
                options["identity"], options["nullable"] = (numbers[0], numbers[1]), False
            case "DEFAULT":
                options["default"] = words.value()
            case "COLLATE":
                options["collation"] = words.take()
            case "SPARSE":
                options["sparse"] = True
            case "HIDDEN":
                options["hidden"] = True
            case "GENERATED":
                for expected in ("ALWAYS", "AS", "ROW"):
                    words.expect(expected)
                start = words.take().upper() == "START"
                options["generated"] = 1 if start else 2
                options["default"] = "SYSUTCDATETIME()" if start else "'9999-12-31T23:59:59.9999999'"
            case "CONSTRAINT":
                words.take()
            case "CLUSTERED" | "NONCLUSTERED" | "ROWGUIDCOL" | "UNIQUE" | "PERSISTED" | "ASC" | "DESC":
                continue
            case _:
                raise SqlError(102, f"Incorrect syntax near '{word}'.", severity=15)
    return ColumnSpec(name, type_name, **options), is_key


@dataclass(frozen=True, slots=True)
class _Word:
    """A token, or one word of a token such as PRIMARY KEY; ``kind`` is sqlglot's name of the token type."""

    text: str
    kind: str


def _words(token: Token | _Word) -> list[_Word]:
    if isinstance(token, _Word):
        return [token]
    kind = token.token_type.name
    if token.end - token.start + 1 > len(token.text) and kind not in {"STRING", "NATIONAL_STRING", "HEX_STRING"}:
        kind = "IDENTIFIER"
    texts = [token.text] if kind in {"STRING", "NATIONAL_STRING", "IDENTIFIER", "HEX_STRING"} else token.text.split()
    return [_Word(text, kind) for text in texts]


class Words:
    """A reader over tokens."""

    def __init__(self, tokens: Iterable[Token | _Word]) -> None:
        self._tokens = [word for token in tokens for word in _words(token)]
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._tokens)

    def peek(self) -> str:
        return self._tokens[self._at].text.upper() if self else ""

    def is_quoted(self) -> bool:
        return self._tokens[self._at].kind == "IDENTIFIER"

    def start_of(self) -> str:
        words = [token.text.upper() for token in self._tokens]
        return words[2] if words[0] == "CONSTRAINT" and len(words) > 2 else words[0]

    def take(self) -> str:
        if not self:
            raise SqlError(102, "Incorrect syntax near the end of the statement.", severity=15)
        self._at += 1
        return self._tokens[self._at - 1].text

    def expect(self, word: str) -> None:
        found = self.take()
        if found.upper() != word:
            raise SqlError(102, f"Incorrect syntax near '{found}'.", severity=15)

    def name(self) -> list[str]:
        """Read ``a.b.c``; ``#`` stays in front of a temporary name."""
        parts = [self._part()]
        while self.peek() == ".":
            self.take()
            parts.append("" if self.peek() == "." else self._part())
        return parts

    def _part(self) -> str:
        taken = self.take()
        if taken == "#":
            return "#" + self.take()
        return taken

    def parenthesised(self) -> str:
        """Read ``( … )`` and return what is inside, as text."""
        self.expect("(")
        depth, start = 1, self._at
        while depth:
            depth += {"(": 1, ")": -1}.get(self.take(), 0)
        return _text(self._tokens[start : self._at - 1])

    def value(self) -> str:
        """Read the expression after DEFAULT: in parentheses, a call, or one token."""
        if self.peek() == "(":
            return self.parenthesised()
        start = self._at
        if self.take() in {"-", "+"}:
            self.take()
        if self.peek() == "(":
            self.parenthesised()
        return _text(self._tokens[start : self._at])

    def items(self) -> list[Words]:
        """Cut what follows at its commas, up to the closing parenthesis."""
        groups: list[list[_Word]] = [[]]
        depth = 0
        for token in self._tokens[self._at :]:
            depth += {"(": 1, ")": -1}.get(token.text, 0)
            if depth < 0:
                break
            if token.text == "," and depth == 0:
                groups.append([])
            else:
                groups[-1].append(token)
        return [Words(group) for group in groups if group]

    def primary_key(self) -> tuple[str, ...] | None:
        words = [token.text.upper() for token in self._tokens]
        if "PRIMARY" not in words:
            return None
        self._at = words.index("(")
        self.expect("(")
        return tuple(item.take() for item in self.items())


def _text(words: list[_Word]) -> str:
    """Write words back as T-SQL."""
    shown = []
    for word in words:
        if word.kind == "STRING":
            shown.append("'" + word.text.replace("'", "''") + "'")
        elif word.kind == "NATIONAL_STRING":
            shown.append("N'" + word.text.replace("'", "''") + "'")
        elif word.kind == "IDENTIFIER":
            shown.append("[" + word.text.replace("]", "]]") + "]")
        elif word.kind == "HEX_STRING":
            shown.append("0x" + word.text)
        else:
            shown.append(word.text)
    return " ".join(shown)
