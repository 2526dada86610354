"""T-SQL expressions to DuckDB expressions, each with its T-SQL type."""

# ruff: noqa: ARG002 -- the tables of functions call them all with one signature

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql import _aggregates, _arithmetic, _functions
from datakit_lab.sqlserver.tsql._comparisons import comparable
from datakit_lab.sqlserver.tsql._convert import NULL, Expr, as_text, blob_literal, convert, text_literal
from datakit_lab.sqlserver.tsql._dialect import parse_statement, sql_type
from datakit_lab.sqlserver.tsql._scope import Environment, Scope, column_sql
from datakit_lab.sqlserver.tsql._types import BIT, CHARACTER, CLR, FLOAT, INT, character

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._scope import Query

_COMPARISONS: dict[type[exp.Expression], str] = {
    exp.EQ: "=", exp.NEQ: "<>", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<=",
}  # fmt: skip
_ARITHMETIC: dict[type[exp.Expression], str] = {
    exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%",
    exp.BitwiseAnd: "&", exp.BitwiseOr: "|", exp.BitwiseXor: "^",
}  # fmt: skip


class ExpressionCompiler:
    """Compiles scalar expressions and predicates; :class:`~._queries.QueryCompiler` adds queries."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment

    def query(self, node: exp.Expression, parent: Scope | None = None) -> Query:
        """Compile a query; given by the subclass."""
        raise NotImplementedError

    def expression(self, node: Any, scope: Scope) -> Expr:
        """Compile a value.

        :raises SqlError: the expression is wrong, or this double does not know it (40517).
        """
        compile_node = self._NODES.get(type(node))
        if compile_node is not None:
            return compile_node(self, node, scope)
        if type(node) in _ARITHMETIC:
            left, right = self.expression(node.this, scope), self.expression(node.expression, scope)
            return _arithmetic.binary(_ARITHMETIC[type(node)], left, right)
        if isinstance(node, (exp.Predicate, exp.Connector, exp.Not)):
            return Expr(self.predicate(node, scope), BIT)
        raise unsupported(node)

    def predicate(self, node: Any, scope: Scope) -> str:  # noqa: C901 - one branch for each kind
        """Compile a search condition."""
        if operator := _COMPARISONS.get(type(node)):
            left, right = self._operands(node, scope)
            return f"{left} {operator} {right}"
        match node:
            case exp.Paren():
                return f"({self.predicate(node.this, scope)})"
            case exp.And():
                return f"({self.predicate(node.this, scope)} AND {self.predicate(node.expression, scope)})"
            case exp.Or():
                return f"({self.predicate(node.this, scope)} OR {self.predicate(node.expression, scope)})"
            case exp.Not():
                return f"(NOT ({self.predicate(node.this, scope)}))"
            case exp.Is():
                return f"({self.expression(node.this, scope).sql} IS NULL)"
            case exp.Exists():
                return f"EXISTS ({self.query(node.this, scope).sql})"
            case exp.In():
                return self._in(node, scope)
            case exp.Between():
                low = exp.GTE(this=node.this, expression=node.args["low"])
                high = exp.LTE(this=node.this.copy(), expression=node.args["high"])
                return f"({self.predicate(low, scope)} AND {self.predicate(high, scope)})"
            case exp.Like():
                return self._like(node, scope)
            case exp.Escape():
                return self._like(node.this, scope, escape=self.expression(node.expression, scope).sql)
        value = self.expression(node, scope)
        if value.kind == "bit" or value.type is None:
            return value.sql
        raise SqlError(
            4145, "An expression of non-boolean type specified in a context where a condition is expected.", severity=15
        )

    def _operands(self, node: exp.Expression, scope: Scope) -> tuple[str, str]:
        return comparable(self.expression(node.this, scope), self.expression(node.expression, scope))

    def _in(self, node: exp.In, scope: Scope) -> str:
        value = self.expression(node.this, scope)
        if subquery := node.args.get("query"):
            inner = self.query(subquery.this if isinstance(subquery, exp.Subquery) else subquery, scope)
            left, _ = comparable(value, inner.columns[0][1])
            return f"({left} IN ({inner.sql}))"
        tests = [comparable(value, self.expression(item, scope)) for item in node.expressions]
        if len({left for left, _ in tests}) == 1:
            return f"({tests[0][0]} IN ({', '.join(right for _, right in tests)}))"
        return "(" + " OR ".join(f"{left} = {right}" for left, right in tests) + ")"

    def _like(self, node: exp.Expression, scope: Scope, escape: str | None = None) -> str:
        value, pattern = self.expression(node.this, scope), self.expression(node.expression, scope)
        operator = "ILIKE" if "_CS_" not in (value.type.collation or "" if value.type else "") else "LIKE"
        if isinstance(pattern.literal, str) and re.search(r"\[[^\]]+\]", pattern.literal) and escape is None:
            regex = _like_regex(pattern.literal)
            return (
                f"regexp_full_match({as_text(value)}, {text_literal(regex)}, 's{'i' if operator == 'ILIKE' else ''}')"
            )
        return f"({as_text(value)} {operator} {as_text(pattern)}{f' ESCAPE {escape}' if escape else ''})"

    # one method per kind of node

    def _literal(self, node: exp.Literal, scope: Scope) -> Expr:
        del scope
        if node.is_string:
            return text(node.this, national=False)
        value = node.this
        if re.fullmatch(r"\d+", value):
            number = int(value)
            if number < 2**31:
                return Expr(value, INT, literal=number, nullable=False)
            return _exact(value, len(value), 0)
        if "e" in value.lower():
            return Expr(f"CAST('{value}' AS DOUBLE)", FLOAT, nullable=False)
        whole, _, fraction = value.partition(".")
        return _exact(value, max(len(whole.lstrip("0")) + len(fraction), 1), len(fraction))

    def _national(self, node: exp.National, scope: Scope) -> Expr:
        del scope
        return text(node.this if isinstance(node.this, str) else node.name, national=True)

    def _hex(self, node: exp.HexString, scope: Scope) -> Expr:
        del scope
        digits = str(node.this)
        value = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
        return Expr(blob_literal(value), SqlType("varbinary", length=max(len(value), 1)), nullable=False)

    def _null(self, node: exp.Null, scope: Scope) -> Expr:
        del node, scope
        return NULL

    def _column(self, node: exp.Column, scope: Scope) -> Expr:
        name = node.name
        if isinstance(node.this, exp.Identifier) and node.this.args.get("quoted") and name == "0x":
            return Expr("''::BLOB", SqlType("varbinary", length=1), nullable=False)
        if name == "STSrid" and node.table:
            parts = node.parts[:-1]
            value = self._column(exp.Column(this=parts[-1], table=parts[-2] if len(parts) > 1 else None), scope)
            if value.kind in CLR:
                return Expr(_srid(value), INT)
        source, column = scope.resolve(node)
        if column.formula is not None:
            inner = self.expression(parse_expression(column.formula), Scope(sources=[source]))
            inner = convert(inner, column.type) if column.type else inner
            return Expr(f"({inner.sql})", inner.type, nullable=column.nullable, computed=True)
        return Expr(
            column_sql(source, column),
            column.type,
            utf16=column.utf16,
            nullable=column.nullable or source.outer,
            identity=column.identity,
        )

    def _paren(self, node: exp.Paren, scope: Scope) -> Expr:
        inner = self.expression(node.this, scope)
        return Expr(f"({inner.sql})", inner.type, inner.literal, inner.utf16, inner.nullable)

    def _negative(self, node: exp.Neg, scope: Scope) -> Expr:
        inner = self.expression(node.this, scope)
        return Expr(f"(-{inner.sql})", inner.type, nullable=inner.nullable)

    def _bitwise_not(self, node: exp.BitwiseNot, scope: Scope) -> Expr:
        inner = self.expression(node.this, scope)
        return Expr(f"(NOT {inner.sql})" if inner.kind == "bit" else f"(~{inner.sql})", inner.type)

    def _cast(self, node: exp.Cast, scope: Scope) -> Expr:
        target = sql_type(node.to, cast=True)
        return convert(self.expression(node.this, scope), target, safe=isinstance(node, exp.TryCast))

    def _convert(self, node: exp.Convert, scope: Scope) -> Expr:
        style = node.args.get("style")
        value = self.expression(node.expression, scope)
        number = int(style.name) if isinstance(style, exp.Literal) else None
        return convert(value, sql_type(node.this, cast=True), style=number, safe=bool(node.args.get("safe")))

    def _case(self, node: exp.Case, scope: Scope) -> Expr:
        subject = node.this
        conditions, values = [], []
        for branch in node.args["ifs"]:
            condition = exp.EQ(this=subject, expression=branch.this) if subject else branch.this
            conditions.append(self.predicate(condition, scope))
            values.append(self.expression(branch.args["true"], scope))
        if node.args.get("default"):
            values.append(self.expression(node.args["default"], scope))
        type_, sqls = _arithmetic.unify(values)
        text_ = " ".join(f"WHEN {condition} THEN {sql}" for condition, sql in zip(conditions, sqls, strict=False))
        last = f" ELSE {sqls[-1]}" if node.args.get("default") else ""
        return Expr(f"(CASE {text_}{last} END)", type_)

    def _subquery(self, node: exp.Subquery, scope: Scope) -> Expr:
        query = self.query(node.this, scope)
        if len(query.columns) != 1:
            raise SqlError(
                116,
                "Only one expression can be specified in the select list when the subquery is not introduced with "
                "EXISTS.",
            )
        inner = query.columns[0][1]
        return Expr(f"({query.sql})", inner.type, utf16=inner.utf16)

    def _parameter(self, node: exp.Parameter, scope: Scope) -> Expr:
        del scope
        if isinstance(node.this, exp.Parameter):
            return self.environment.global_variable(node.this.name.upper())
        return self.environment.variable(node.name)

    def _collate(self, node: exp.Collate, scope: Scope) -> Expr:
        value = self.expression(node.this, scope)
        collation = node.expression.name
        if value.type is None or value.kind not in CHARACTER:
            raise SqlError(447, f"Expression type {value.kind or 'NULL'} is invalid for COLLATE clause.")
        sensitive = "_BIN" in collation or "_CS_" in collation
        sql = f"({value.sql} COLLATE {'BINARY' if sensitive else 'NOCASE'})"
        return Expr(sql, SqlType(value.kind, length=value.type.length, collation=collation), nullable=value.nullable)

    def _method(self, node: exp.Dot, scope: Scope) -> Expr:
        """A CLR method: ``column.ToString()``."""
        parts = list(node.flatten())
        call = parts[-1]
        if not isinstance(call, exp.Anonymous):
            raise unsupported(node)
        path = [part for part in parts[:-1] if isinstance(part, exp.Identifier)]
        column = exp.Column(this=path[-1], **({"table": path[-2]} if len(path) > 1 else {}))
        value = self._column(column, scope)
        method = call.name
        if value.kind not in CLR:
            raise SqlError(258, f"Cannot call methods on {value.kind}.", severity=15)
        if method in {"ToString", "STAsText", "AsTextZM"}:
            return Expr(f"({value.sql}).wkt", character("nvarchar", -1))
        if method in {"STAsBinary", "AsBinaryZM"} and value.kind != "hierarchyid":
            return Expr(_well_known_binary(value), SqlType("varbinary", length=-1))
        raise SqlError(6506, f"Could not find method '{method}' for type '{value.kind}' in this double.")

    def _scope_resolution(self, node: exp.ScopeResolution, scope: Scope) -> Expr:
        type_name, call = node.this.name, node.expression
        arguments = [self.expression(argument, scope) for argument in call.expressions]
        return _functions.clr_static(type_name, call.name, arguments)

    def _function(self, node: exp.Anonymous, scope: Scope) -> Expr:
        return _functions.call(self, node, scope)

    def _window(self, node: exp.Window, scope: Scope) -> Expr:
        partition = [self.expression(item, scope).sql for item in node.args.get("partition_by") or []]
        order = self.order(node.args.get("order"), scope)
        spec = node.args.get("spec")
        frame = ""
        if spec is not None:
            frame = f" {spec.args['kind']} BETWEEN {_bound(spec, 'start')} AND {_bound(spec, 'end')}"
        over = f" OVER ({'PARTITION BY ' + ', '.join(partition) if partition else ''}{order}{frame})"
        inner = node.this
        if isinstance(inner, exp.WithinGroup):
            return _aggregates.within_group(self, inner, scope, over)
        if not isinstance(inner, exp.Anonymous):
            raise unsupported(node)
        return _functions.call(self, inner, scope, over)

    def _within_group(self, node: exp.WithinGroup, scope: Scope) -> Expr:
        return _aggregates.within_group(self, node, scope, "")

    def _string_agg(self, node: exp.GroupConcat, scope: Scope) -> Expr:
        order = ""
        value_node = node.this
        if isinstance(value_node, exp.Order):
            order = self.order(value_node, scope)
            value_node = value_node.this
        value = self.expression(value_node, scope)
        separator = self.expression(node.args["separator"], scope)
        return Expr(f"string_agg({as_text(value)}, {separator.sql}{order})", character("nvarchar", -1))

    def order(self, node: exp.Order | None, scope: Scope) -> str:
        """Compile ORDER BY; NULL sorts first, as in SQL Server."""
        if node is None:
            return ""
        parts = []
        for item in node.expressions:
            direction = " DESC NULLS LAST" if item.args.get("desc") else " ASC NULLS FIRST"
            parts.append(sort_key(self.expression(item.this, scope)) + direction)
        return " ORDER BY " + ", ".join(parts)

    def _current_timestamp(self, node: exp.Expression, scope: Scope) -> Expr:
        return _functions.call(self, exp.Anonymous(this="GETDATE", expressions=[]), scope)

    def _current_user(self, node: exp.Expression, scope: Scope) -> Expr:
        return _functions.call(self, exp.Anonymous(this="USER_NAME", expressions=[]), scope)

    def _concat_literals(self, node: exp.Concat, scope: Scope) -> Expr:
        raise SqlError(102, f"Incorrect syntax near '{node.expressions[-1].name}'.", severity=15)

    _NODES: ClassVar[dict[type[exp.Expression], Callable[[Any, Any, Scope], Expr]]] = {
        exp.Literal: _literal,
        exp.National: _national,
        exp.HexString: _hex,
        exp.Null: _null,
        exp.Column: _column,
        exp.Paren: _paren,
        exp.Neg: _negative,
        exp.BitwiseNot: _bitwise_not,
        exp.Cast: _cast,
        exp.TryCast: _cast,
        exp.Convert: _convert,
        exp.Case: _case,
        exp.Subquery: _subquery,
        exp.Parameter: _parameter,
        exp.Collate: _collate,
        exp.Dot: _method,
        exp.ScopeResolution: _scope_resolution,
        exp.Anonymous: _function,
        exp.Window: _window,
        exp.WithinGroup: _within_group,
        exp.GroupConcat: _string_agg,
        exp.CurrentTimestamp: _current_timestamp,
        exp.CurrentUser: _current_user,
        exp.Concat: _concat_literals,
    }


def _exact(value: str, precision: int, scale: int) -> Expr:
    """Return a number that is no int; as text, because DuckDB reads long ones as DOUBLE."""
    if precision > 38:
        raise SqlError(
            1007,
            f"The number '{value}' is out of the range for numeric representation (maximum precision 38).",
            severity=15,
        )
    type_ = SqlType("numeric", precision=precision, scale=scale)
    return Expr(f"CAST('{value}' AS DECIMAL({precision},{scale}))", type_, nullable=False)


def sort_key(expr: Expr) -> str:
    """Return what a value sorts by: an instant by its UTC ticks, everything else as it is stored."""
    return f"({expr.sql}).ticks" if expr.kind == "datetimeoffset" else expr.sql


def text(value: str, *, national: bool) -> Expr:
    """Return a character literal."""
    length = len(value.encode("utf-16-le", "surrogatepass")) // 2 if national else len(value)
    limit = 4000 if national else 8000
    type_ = character("nvarchar" if national else "varchar", -1 if length > limit else max(length, 1))
    return Expr(text_literal(value), type_, literal=value, nullable=False)


def parse_expression(sql: str) -> exp.Expression:
    """Parse an expression that the catalog stores (a default, a computed column)."""
    parsed = parse_statement(f"SELECT {sql}")
    node: exp.Expression = parsed.expressions[0]
    return node


def unsupported(node: Any) -> SqlError:
    """Return the error for T-SQL that SQL Server knows and this double does not."""
    shown = node.sql(dialect="tsql") if isinstance(node, exp.Expression) else str(node)
    return SqlError(40517, f"The lab's SQL Server double does not support: {shown[:200]}")


def _srid(value: Expr) -> str:
    """Return the spatial reference, the first four bytes, least significant first."""
    bytes_ = [f"substr(hex(({value.sql}).bytes), {place}, 2)" for place in (7, 5, 3, 1)]
    return f"CAST('0x' || {' || '.join(bytes_)} AS INTEGER)"


def _well_known_binary(value: Expr) -> str:
    """Return a point as WKB: little-endian, type 1, x, y. The CLR form writes a geography's latitude (y) first."""
    first, second = (f"substr(hex(({value.sql}).bytes), {place}, 16)" for place in (13, 29))
    x, y = (second, first) if value.kind == "geography" else (first, second)
    return f"unhex('0101000000' || {x} || {y})"


def _bound(spec: exp.Expression, side: str) -> str:
    value = spec.args.get(side)
    if value is None:
        return "CURRENT ROW"
    shown = value.name if isinstance(value, exp.Expression) else str(value)
    return f"{shown} {spec.args.get(side + '_side') or ''}".strip()


def _like_regex(pattern: str) -> str:
    parts = re.findall(r"\[[^\]]+\]|.", pattern, re.DOTALL)
    return "".join({"%": ".*", "_": "."}.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
