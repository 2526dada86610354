"""Whether a file holds exactly one SELECT. A scanner, not a parser: the source system is the judge of the rest."""

from __future__ import annotations

import re
from typing import Final

# What is neither statement nor keyword: comments (without nesting), strings, quoted identifiers.
_OPAQUE: Final = re.compile(r"--[^\n]*|/\*.*?\*/|N?'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\[(?:[^\]]|\]\])*\]", re.DOTALL)
_WORD: Final = re.compile(r"[A-Za-z_@#][\w@#$]*|[^\s\w]")
_WRITES: Final = frozenset(
    {"ALTER", "CREATE", "DELETE", "DENY", "DROP", "EXEC", "EXECUTE", "GRANT", "INSERT", "INTO", "MERGE", "REVOKE"}
    | {"SET", "TRUNCATE", "UPDATE", "USE", "WAITFOR"}
)


def why_not_one_select(sql: str) -> str | None:
    """Return why the text is not one SELECT (which may begin with WITH), or None if it is.

    A ``;`` at the end is one more character, not one more statement.
    """
    words = [word.upper() for word in _WORD.findall(_OPAQUE.sub(lambda match: _stand_in(match[0]), sql))]
    while words and words[-1] == ";":
        words.pop()
    if not words:
        return "it holds no statement"
    if ";" in words:
        return "it holds more than one statement"
    if "GO" in words:
        return "it holds GO, which separates batches in Microsoft's tools and is no SQL"
    if words[0] not in ("SELECT", "WITH"):
        return f"it begins with {words[0]}, not with SELECT or WITH"
    if written := [word for word in words if word in _WRITES]:
        return f"it holds {written[0]}, but a dataset only reads"
    if "SELECT" not in words:
        return "it holds no SELECT"
    return None


def _stand_in(opaque: str) -> str:
    """A comment is a space; a string or a quoted identifier is a thing that is no keyword."""
    return " " if opaque.startswith(("--", "/*")) else " 0 "
