"""T-SQL as sqlglot parses it for us: functions stay calls by their T-SQL names, types keep theirs."""

from __future__ import annotations

from typing import Any, ClassVar

from sqlglot import exp, parse_one
from sqlglot.dialects.tsql import TSQL
from sqlglot.errors import ParseError, TokenError
from sqlglot.parsers.tsql import TSQLParser
from sqlglot.tokenizer_core import Token

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql._types import make_type

# sqlglot folds these into other types; as user-defined types they keep their names
_KEPT = frozenset({"REAL", "NTEXT", "NUMERIC", "ROWVERSION", "TIMESTAMP", "DATETIMEOFFSET", "HIERARCHYID"})


class Dialect(TSQL):
    """sqlglot's T-SQL without its translation of functions, which :mod:`._functions` does with types at hand."""

    class Tokenizer(TSQL.Tokenizer):
        """Keeps the names of types that sqlglot would fold."""

        KEYWORDS: ClassVar[dict[str, Any]] = {
            word: token for word, token in TSQL.Tokenizer.KEYWORDS.items() if word not in _KEPT
        }

    class Parser(TSQLParser):
        """Every function is an :class:`exp.Anonymous`."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        # only the forms whose arguments are no plain list of expressions
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parser
            for name, parser in TSQLParser.FUNCTION_PARSERS.items()
            if name in {"CAST", "CONVERT", "TRY_CAST", "TRY_CONVERT", "STRING_AGG"}
        }


def tokenize(sql: str) -> list[Token]:
    """Split a batch into tokens.

    :raises SqlError: 105 for an unclosed quotation mark.
    """
    try:
        return list(Dialect().tokenize(sql))
    except TokenError as error:
        raise SqlError(105, f"Unclosed quotation mark or comment near {str(error)[-40:]!r}.", severity=15) from None


def parse_statement(sql: str) -> exp.Expression:
    """Parse one statement.

    :raises SqlError: 102 with the place of the mistake.
    """
    try:
        parsed = parse_one(sql, read=Dialect)
    except ParseError as error:
        detail = error.errors[0] if error.errors else {}
        near = detail.get("highlight") or "the end"
        raise SqlError(102, f"Incorrect syntax near '{near}'.", severity=15, line=detail.get("line") or 1) from None
    except TokenError:
        raise SqlError(105, "Unclosed quotation mark after the character string.", severity=15) from None
    if not isinstance(parsed, exp.Expression):
        raise SqlError(102, "Incorrect syntax.", severity=15)
    return parsed


def sql_type(node: exp.DataType, *, cast: bool = False) -> SqlType:
    """Return the type that a parsed type name means.

    :raises SqlError: 243 for an unknown type.
    """
    kind = node.args.get("kind")
    name = str(kind).strip('[]"') if kind else str(node.this.value if hasattr(node.this, "value") else node.this)
    arguments = [parameter.name for parameter in node.expressions]
    if "(" in name:
        name, _, rest = name.partition("(")
        arguments = [part.strip() for part in rest.rstrip(")").split(",")]
    return make_type(name.strip().lower().removeprefix("sys.").removeprefix("dbo."), arguments, cast=cast)
