"""T-SQL's aggregates and window functions in DuckDB."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql._convert import Expr, as_number
from datakit_lab.sqlserver.tsql._scope import Scope
from datakit_lab.sqlserver.tsql._types import BIGINT, EXACT, FLOAT, FLOATING, INT, storage

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._expressions import ExpressionCompiler

Handler = Callable[["ExpressionCompiler", exp.Anonymous, Scope, str], Expr]
"""Compiles a call; the text is the OVER clause in DuckDB, empty where there is none."""


def within_group(compiler: ExpressionCompiler, node: exp.WithinGroup, scope: Scope, over: str) -> Expr:
    """Compile PERCENTILE_CONT and PERCENTILE_DISC."""
    function = node.this
    ordered = node.expression.expressions[0]
    value = compiler.expression(ordered.this, scope)
    fraction = compiler.expression(function.expressions[0], scope).sql
    if ordered.args.get("desc"):
        fraction = f"(1 - {fraction})"
    if function.name.upper() == "PERCENTILE_CONT":
        return Expr(f"CAST(quantile_cont({as_number(value)}, {fraction}){over} AS DOUBLE)", FLOAT)
    if function.name.upper() == "PERCENTILE_DISC":
        return Expr(f"quantile_disc({value.sql}, {fraction}){over}", value.type)
    raise SqlError(195, f"'{function.name}' is not a recognized built-in function name.", severity=15)


def _single(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope) -> tuple[Expr, str]:
    """Return the one argument of an aggregate and ``DISTINCT`` if it is there."""
    if len(node.expressions) != 1:
        raise SqlError(174, f"The {node.name} function requires 1 argument(s).", severity=15)
    argument = node.expressions[0]
    if isinstance(argument, exp.Distinct):
        return compiler.expression(argument.expressions[0], scope), "DISTINCT "
    return compiler.expression(argument, scope), ""


def _count(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    big = node.name.upper() == "COUNT_BIG"
    if isinstance(node.expressions[0], exp.Star):
        sql = f"count(*){over}"
    else:
        argument, distinct = _single(compiler, node, scope)
        value = f"({argument.sql}).ticks" if argument.kind == "datetimeoffset" else argument.sql
        sql = f"count({distinct}{value}){over}"
    return Expr(sql, BIGINT) if big else Expr(f"CAST({sql} AS INTEGER)", INT)


def _extreme(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    argument, distinct = _single(compiler, node, scope)
    if argument.kind == "bit":
        raise SqlError(8117, f"Operand data type bit is invalid for {node.name.lower()} operator.")
    return Expr(f"{node.name.lower()}({distinct}{argument.sql}){over}", argument.type, utf16=argument.utf16)


def _sum_type(type_: SqlType | None) -> SqlType | None:
    if type_ is None:
        return None
    if type_.name in {"tinyint", "smallint", "int"}:
        return INT
    if type_.name in {"decimal", "numeric"}:
        return SqlType("decimal", precision=38, scale=type_.scale)
    if type_.name in {"money", "smallmoney"}:
        return SqlType("money")
    if type_.name in FLOATING:
        return FLOAT
    if type_.name == "bigint":
        return BIGINT
    raise SqlError(8117, f"Operand data type {type_.name} is invalid for sum operator.")


def _sum(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    argument, distinct = _single(compiler, node, scope)
    type_ = _sum_type(argument.type)
    sql = f"sum({distinct}{argument.sql}){over}"
    return Expr(f"CAST({sql} AS {storage(type_)})" if type_ else sql, type_)


def _average(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    argument, distinct = _single(compiler, node, scope)
    type_ = _sum_type(argument.type)
    if type_ is None or type_.name in FLOATING:
        return Expr(f"avg({distinct}{argument.sql}){over}", FLOAT)
    total, count = f"sum({distinct}{argument.sql}){over}", f"count({distinct}{argument.sql}){over}"
    if type_.name in EXACT:
        scale = max(type_.scale or 0, 6) if type_.name == "decimal" else 4
        type_ = SqlType("decimal", precision=38, scale=scale) if type_.name == "decimal" else type_
        return Expr(f"CAST(avg({distinct}{argument.sql}){over} AS {storage(type_)})", type_)
    return Expr(f"CAST({total} // {count} AS {storage(type_)})", type_)


def _statistic(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    names = {"STDEV": "stddev_samp", "STDEVP": "stddev_pop", "VAR": "var_samp", "VARP": "var_pop"}
    argument, distinct = _single(compiler, node, scope)
    return Expr(f"{names[node.name.upper()]}({distinct}{as_number(argument)}){over}", FLOAT)


def _approximate(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    argument, _ = _single(compiler, node, scope)
    return Expr(f"CAST(approx_count_distinct({argument.sql}){over} AS BIGINT)", BIGINT)


def _rank(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    if not over:
        raise SqlError(10753, f"The function '{node.name}' must have an OVER clause.", severity=15)
    arguments = ", ".join(compiler.expression(argument, scope).sql for argument in node.expressions)
    return Expr(f"CAST({node.name.lower()}({arguments}){over} AS BIGINT)", BIGINT, nullable=False)


def _neighbour(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str) -> Expr:
    arguments = [compiler.expression(argument, scope) for argument in node.expressions]
    rest = "".join(f", {argument.sql}" for argument in arguments[1:])
    return Expr(f"{node.name.lower()}({arguments[0].sql}{rest}){over}", arguments[0].type, utf16=arguments[0].utf16)


AGGREGATES: Final[dict[str, Handler]] = {
    "COUNT": _count,
    "COUNT_BIG": _count,
    "MIN": _extreme,
    "MAX": _extreme,
    "SUM": _sum,
    "AVG": _average,
    "STDEV": _statistic,
    "STDEVP": _statistic,
    "VAR": _statistic,
    "VARP": _statistic,
    "APPROX_COUNT_DISTINCT": _approximate,
    "ROW_NUMBER": _rank,
    "RANK": _rank,
    "DENSE_RANK": _rank,
    "NTILE": _rank,
    "LAG": _neighbour,
    "LEAD": _neighbour,
    "FIRST_VALUE": _neighbour,
    "LAST_VALUE": _neighbour,
}
