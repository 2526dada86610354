"""Operators and the data type precedence of T-SQL.

https://learn.microsoft.com/sql/t-sql/data-types/precision-scale-and-length-transact-sql
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql._convert import Expr, as_number, as_text, as_timestamp, convert
from datakit_lab.sqlserver.tsql._types import (
    BINARY,
    CHARACTER,
    EXACT,
    FLOAT,
    FLOATING,
    INTEGER,
    NATIONAL,
    NUMERIC,
    character,
    storage,
)

_PRECEDENCE: Final = (
    "sql_variant", "xml", "datetimeoffset", "datetime2", "datetime", "smalldatetime", "date", "time", "float", "real",
    "decimal", "numeric", "money", "smallmoney", "bigint", "int", "smallint", "tinyint", "bit", "ntext", "text",
    "image",
    "timestamp", "uniqueidentifier", "nvarchar", "nchar", "varchar", "char", "varbinary", "binary",
)  # fmt: skip
_DIGITS: Final = {
    "bit": (1, 0),
    "tinyint": (3, 0),
    "smallint": (5, 0),
    "int": (10, 0),
    "bigint": (19, 0),
    "money": (19, 4),
    "smallmoney": (10, 4),
}


def binary(operator: str, left: Expr, right: Expr) -> Expr:
    """Compile ``left operator right``."""
    kinds = {left.kind, right.kind}
    if operator == "+" and kinds <= CHARACTER | {""} and kinds & CHARACTER:
        return concatenate([left, right])
    if operator == "+" and kinds <= BINARY:
        return Expr(f"({left.sql} || {right.sql})", SqlType("varbinary", length=8000))
    if operator in "+-" and kinds & {"datetime", "smalldatetime"}:
        return _move_date(operator, left, right)
    if unknown := kinds - NUMERIC - CHARACTER - BINARY - {""}:
        raise SqlError(8117, f"Operand data type {unknown.pop()} is invalid for {operator} operator.")
    left, right = _numbers(left, right)
    nullable = left.nullable or right.nullable
    if left.type is None or right.type is None:
        return Expr(f"({left.sql} {operator} {right.sql})")
    type_ = _result(operator, left.type, right.type)
    a, b = as_number(left), as_number(right)
    if operator == "^":
        return Expr(f"xor({a}, {b})", type_)
    if type_.name in INTEGER:
        sign = "//" if operator == "/" else operator
        # the literal alone would make DuckDB calculate in a smaller type than T-SQL does
        return Expr(f"(CAST({a} AS {storage(type_)}) {sign} CAST({b} AS {storage(type_)}))", type_, nullable=nullable)
    if operator == "/" and type_.name in EXACT:
        return Expr(f"CAST(({a} / {b}) AS {storage(type_)})", type_)
    return Expr(f"CAST(({a} {operator} {b}) AS {storage(type_)})", type_, nullable=nullable)


def concatenate(parts: Sequence[Expr]) -> Expr:
    """Compile ``a + b`` of texts: NULL if one is NULL."""
    types = [part.type for part in parts if part.type]
    national = any(type_.name in NATIONAL for type_ in types)
    lengths = [type_.length for type_ in types]
    limit = 4000 if national else 8000
    total = (
        -1
        if any(length is None or length == -1 for length in lengths)
        else min(sum(length or 0 for length in lengths), limit)
    )
    type_ = character("nvarchar" if national else "varchar", total, types[0].collation if types else None)
    return Expr("(" + " || ".join(as_text(part) if part.type else "NULL" for part in parts) + ")", type_)


def unify(values: Sequence[Expr]) -> tuple[SqlType | None, list[str]]:
    """Bring the branches of CASE, COALESCE or UNION to one type."""
    types = [value.type for value in values if value.type]
    if not types:
        return None, [value.sql for value in values]
    type_ = types[0]
    for other in types[1:]:
        type_ = common(type_, other)
    if any(value.utf16 for value in values):
        return type_, [value.sql for value in values]
    return type_, [convert(value, type_).sql for value in values]


def common(left: SqlType, right: SqlType) -> SqlType:
    """Return the type of higher precedence, wide enough for both."""
    if left == right:
        return left
    if left.name in CHARACTER and right.name in CHARACTER:
        national = {left.name, right.name} & NATIONAL
        lengths = (left.length or -1, right.length or -1)
        return character("nvarchar" if national else "varchar", -1 if -1 in lengths else max(lengths), left.collation)
    if (
        left.name in EXACT | {*INTEGER}
        and right.name in EXACT | {*INTEGER}
        and {left.name, right.name} & {"decimal", "numeric"}
    ):
        (p1, s1), (p2, s2) = _digits(left), _digits(right)
        scale = max(s1, s2)
        return _decimal(max(p1 - s1, p2 - s2) + scale, scale)
    if left.name == right.name:
        lengths_or_scales = [value for value in (left.length, right.length) if value is not None]
        length = None if not lengths_or_scales else -1 if -1 in lengths_or_scales else max(lengths_or_scales)
        scales = [value for value in (left.scale, right.scale) if value is not None]
        return SqlType(left.name, length=length, precision=left.precision, scale=max(scales) if scales else None)
    order = {name: place for place, name in enumerate(_PRECEDENCE)}
    return left if order.get(left.name, 0) < order.get(right.name, 0) else right


def _move_date(operator: str, left: Expr, right: Expr) -> Expr:
    date, days = (left, right) if left.kind in {"datetime", "smalldatetime"} else (right, left)
    if days.kind not in NUMERIC:
        raise SqlError(402, f"The data types {left.kind} and {right.kind} are incompatible in the {operator} operator.")
    micros = f"to_microseconds(CAST({as_number(days)} * 86400000000 AS BIGINT))"
    return Expr(f"({as_timestamp(date)} {operator} {micros})", SqlType("datetime"))


def _numbers(left: Expr, right: Expr) -> tuple[Expr, Expr]:
    """A text takes the type of the number beside it."""
    if left.kind in CHARACTER and right.type is not None and right.kind in NUMERIC:
        return convert(left, right.type), right
    if right.kind in CHARACTER and left.type is not None and left.kind in NUMERIC:
        return left, convert(right, left.type)
    return left, right


def _digits(type_: SqlType) -> tuple[int, int]:
    if type_.name in {"decimal", "numeric"}:
        return type_.precision or 18, type_.scale or 0
    return _DIGITS.get(type_.name, (19, 0))


def _decimal(precision: int, scale: int) -> SqlType:
    if precision > 38:
        scale = max(min(scale, 38 - (precision - scale)), min(scale, 6))
        precision = 38
    return SqlType("decimal", precision=precision, scale=scale)


def _result(operator: str, left: SqlType, right: SqlType) -> SqlType:
    names = {left.name, right.name}
    if names & FLOATING:
        return FLOAT if "float" in names or names - FLOATING else SqlType("real")
    if names & {"decimal", "numeric"}:
        (p1, s1), (p2, s2) = _digits(left), _digits(right)
        if operator in "+-":
            return _decimal(max(s1, s2) + max(p1 - s1, p2 - s2) + 1, max(s1, s2))
        if operator == "*":
            return _decimal(p1 + p2 + 1, s1 + s2)
        if operator == "/":
            scale = max(6, s1 + p2 + 1)
            return _decimal(p1 - s1 + s2 + scale, scale)
        return _decimal(min(p1 - s1, p2 - s2) + max(s1, s2), max(s1, s2))
    if money := names & {"money", "smallmoney"}:
        return SqlType("money" if "money" in money else "smallmoney")
    ranked = [INTEGER.index(name) if name in INTEGER else 4 for name in (left.name, right.name)]
    return SqlType(INTEGER[max(1, *ranked)])
