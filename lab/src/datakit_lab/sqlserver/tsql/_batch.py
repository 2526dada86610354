"""Cutting a batch into statements. T-SQL does not ask for semicolons, so keywords decide."""

from __future__ import annotations

from dataclasses import dataclass

from sqlglot.tokenizer_core import Token

from datakit_lab.sqlserver.tsql._dialect import tokenize

_STARTERS = frozenset(
    [
        "SELECT",
        "INSERT",
        "UPDATE",
        "DELETE",
        "MERGE",
        "WITH",
        "CREATE",
        "ALTER",
        "DROP",
        "TRUNCATE",
        "SET",
        "DECLARE",
        "USE",
        "EXEC",
        "EXECUTE",
        "PRINT",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVE",
        "IF",
        "WHILE",
        "RAISERROR",
        "THROW",
        "WAITFOR",
        "GO",
        "RETURN",
        "DBCC",
        "GRANT",
        "REVOKE",
        "DENY",
        "KILL",
        "CHECKPOINT",
    ]
)
_BODY = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE"})


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement: its text, its tokens and the line of the batch that it begins on."""

    text: str
    tokens: tuple[Token, ...]
    line: int

    @property
    def words(self) -> tuple[str, ...]:
        """The tokens' texts, upper case."""
        return tuple(token.text.upper() for token in self.tokens)


def split(sql: str) -> list[Statement]:
    """Cut a batch into statements.

    :raises SqlError: 105 for an unclosed quotation mark.
    """
    statements: list[Statement] = []
    current: list[Token] = []
    depth = case_depth = 0

    def close() -> None:
        if current:
            text = sql[current[0].start : current[-1].end + 1]
            statements.append(Statement(text, tuple(current), current[0].line))
            current.clear()

    for token in tokenize(sql):
        word = "" if _is_text(token, sql) else token.text.upper()
        if word == ";" and depth == 0 and not _open_block(current, sql):
            close()
            continue
        depth += {"(": 1, ")": -1}.get(word, 0)
        if word == "CASE":
            case_depth += 1
        elif word == "END" and case_depth:
            case_depth -= 1
        elif depth == 0 and case_depth == 0 and word in _STARTERS and current and _begins(word, current, sql):
            close()
        current.append(token)
    close()
    return [statement for statement in statements if statement.words != ("GO",)]


def _is_text(token: Token, sql: str) -> bool:
    return sql[token.start] in "'\"[" or token.token_type.name in {"STRING", "NATIONAL_STRING"}


def _begins(word: str, current: list[Token], sql: str) -> bool:  # noqa: C901 - one branch for each kind
    """Whether ``word`` begins a new statement after the tokens of the current one."""
    words = ["" if _is_text(token, sql) else token.text.upper() for token in current]
    first, last = words[0], words[-1]
    if first == "IF":
        has_body = any(candidate in _STARTERS for candidate in _outside(words)[1:])
        return has_body and last != "ELSE" and not _open_block(current, sql)
    if first in {"CREATE", "ALTER"} and len(words) > 1:
        if any(kind in words[:4] for kind in ("VIEW", "PROCEDURE", "PROC", "FUNCTION", "TRIGGER")):
            return False
        if word in {"ALTER", "DROP", "SET", "WITH", "UPDATE", "DELETE"} and words[1] in {"TABLE", "DATABASE"}:
            return word in {"ALTER", "DROP"} and "COLUMN" in words and first != "ALTER"
    if first == "SET" and len(words) == 1:
        return False
    if last in {".", "AS", "@", "FOR"} and word != "SELECT":
        return False
    if last == "ON" and word in {"UPDATE", "DELETE"}:
        return False
    if word == "WITH":
        return False
    if word == "SET":
        return not (first == "UPDATE" or "UPDATE" in words) or "SET" in words
    if word in _BODY:
        if word == "SELECT" and last in {"UNION", "ALL", "EXCEPT", "INTERSECT", "AS"}:
            return False
        if first == "WITH":
            return bool(_BODY & set(_outside(words)[1:]))
        return not (word == "SELECT" and first == "INSERT" and not _has_source(words))
    if word in {"EXEC", "EXECUTE"}:
        return not (first == "INSERT" and not _has_source(words))
    return True


def _open_block(current: list[Token], sql: str) -> bool:
    """Whether a BEGIN … END of an IF is still open."""
    words = ["" if _is_text(token, sql) else token.text.upper() for token in current]
    if not words or words[0] != "IF":
        return False
    return words.count("BEGIN") > words.count("END") - words.count("CASE")


def _outside(words: list[str]) -> list[str]:
    """The words outside parentheses."""
    kept, depth = [], 0
    for word in words:
        depth += {"(": 1, ")": -1}.get(word, 0)
        if depth == 0:
            kept.append(word)
    return kept


def _has_source(words: list[str]) -> bool:
    outside = set(_outside(words))
    return bool(outside & {"SELECT", "VALUES", "EXEC", "EXECUTE", "DEFAULT"})
