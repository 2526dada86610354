"""How T-SQL compares two operands: the forms in which DuckDB compares them alike."""

from __future__ import annotations

from dataclasses import replace

from datakit_lab.sqlserver.backend import SqlType
from datakit_lab.sqlserver.tsql import _temporal as temporal
from datakit_lab.sqlserver.tsql._convert import (
    Expr,
    as_number,
    as_text,
    as_ticks,
    as_timestamp,
    blob_literal,
    convert,
    is_ticks,
    text_literal,
)
from datakit_lab.sqlserver.tsql._types import CHARACTER, CLR, FLOATING, NUMERIC, PADDED, TEMPORAL


def comparable(left: Expr, right: Expr) -> tuple[str, str]:
    """Bring two operands of a comparison to forms that DuckDB compares as T-SQL does."""
    kinds = {left.kind, right.kind}
    if left.utf16 or right.utf16:
        return _utf16(left), _utf16(right)
    if "datetimeoffset" in kinds:
        return as_ticks(left), as_ticks(right)
    if kinds & TEMPORAL:
        if _needs_ticks(left) or _needs_ticks(right):
            return as_ticks(left), as_ticks(right)
        return _temporal_side(left), _temporal_side(right)
    if "time" in kinds:
        scale = SqlType("time", scale=7)
        return convert(left, scale).sql, convert(right, scale).sql
    if "uniqueidentifier" in kinds:
        target = SqlType("uniqueidentifier")
        return convert(left, target).sql, convert(right, target).sql
    if kinds & NUMERIC:
        return _number_side(left, right), _number_side(right, left)
    if kinds & PADDED:
        return _padded_side(left, right), _padded_side(right, left)
    if kinds & (CLR | {"sql_variant"}):
        return as_text(left), as_text(right)
    return left.sql, right.sql


def _utf16(expr: Expr) -> str:
    if expr.utf16 or expr.type is None:
        return expr.sql
    if isinstance(expr.literal, str):
        return blob_literal(expr.literal.encode("utf-16-le", "surrogatepass"))
    return f"encode_utf16({as_text(expr)})"


def _temporal_side(expr: Expr) -> str:
    if isinstance(expr.literal, str):
        return temporal.timestamp_literal(temporal.parse(expr.literal)[0])
    return expr.sql if expr.kind in TEMPORAL or not expr.kind else as_timestamp(expr)


def _needs_ticks(expr: Expr) -> bool:
    """Whether a value lies between two microseconds, so that only ticks compare it exactly."""
    return is_ticks(expr.type) or (isinstance(expr.literal, str) and temporal.parse(expr.literal)[0] % 10 != 0)


def _number_side(expr: Expr, other: Expr) -> str:
    if expr.kind in CHARACTER and other.type is not None:
        target = SqlType("float") if other.kind in FLOATING else other.type
        return convert(expr, replace(target) if target.name != "bit" else SqlType("int")).sql
    if expr.kind == "bit" and other.kind == "bit":
        return expr.sql
    if expr.literal in (0, 1) and other.kind == "bit":
        return "TRUE" if expr.literal else "FALSE"
    if expr.kind == "bit" and other.literal in (0, 1):
        return expr.sql
    return as_number(expr)


def _padded_side(expr: Expr, other: Expr) -> str:
    """Trailing blanks do not count in comparisons; a literal is padded so that the column stays untouched."""
    if isinstance(expr.literal, str) and other.kind in PADDED and other.type is not None and other.type.length:
        return text_literal(expr.literal.rstrip(" ").ljust(other.type.length))
    if isinstance(other.literal, str) and expr.kind in PADDED:
        return expr.sql
    if expr.kind in PADDED and expr.type == other.type:
        return expr.sql
    return f"rtrim({as_text(expr)}, ' ')" if expr.kind in CHARACTER else expr.sql
