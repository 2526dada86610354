"""SELECT: names, joins, grouping and paging, from T-SQL to DuckDB."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError
from datakit_lab.sqlserver.tsql import _arithmetic
from datakit_lab.sqlserver.tsql._convert import Expr, quote
from datakit_lab.sqlserver.tsql._expressions import ExpressionCompiler, sort_key, unsupported
from datakit_lab.sqlserver.tsql._scope import Query, Relation, Scope, Source, SourceColumn, column_sql
from datakit_lab.sqlserver.tsql._types import BIGINT, INT

_SET_OPERATIONS = {exp.Union: "UNION", exp.Except: "EXCEPT", exp.Intersect: "INTERSECT"}


class QueryCompiler(ExpressionCompiler):
    """Compiles queries; the entry point of the package's translation."""

    def query(self, node: exp.Expression, parent: Scope | None = None) -> Query:
        """Compile a SELECT, a set operation or VALUES.

        :raises SqlError: as SQL Server would, or 40517 for T-SQL that the double does not know.
        """
        scope = Scope(parent=parent)
        clause = self._with(node.args.get("with_"), scope)
        if isinstance(node, exp.Subquery):
            inner = self.query(node.this, scope)
            return replace(inner, sql=f"{clause}({inner.sql}){self._tail(node, scope, inner.columns)}")
        if isinstance(node, exp.SetOperation):
            query = self._set_operation(node, scope)
        elif isinstance(node, exp.Select):
            query = self._select(node, scope)
        elif isinstance(node, exp.Values):
            query = self._values(node, scope)
        else:
            raise unsupported(node)
        return replace(query, sql=clause + query.sql) if clause else query

    def _with(self, node: exp.With | None, scope: Scope) -> str:
        if node is None:
            return ""
        parts = []
        for cte in node.expressions:
            query = self.query(cte.this, scope)
            name = cte.alias
            names = [column.name for column in cte.args["alias"].columns] or [column for column, _ in query.columns]
            relation = Relation(quote(name), _offered(query, names), name)
            scope.relations[name.casefold()] = relation
            parts.append(f"{quote(name)}({', '.join(quote(column) for column in names)}) AS ({query.sql})")
        return f"WITH {', '.join(parts)} "

    def _set_operation(self, node: exp.SetOperation, scope: Scope) -> Query:
        left, right = self.query(node.this, scope), self.query(node.expression, scope)
        if len(left.columns) != len(right.columns):
            raise SqlError(
                205,
                "All queries combined using a UNION, INTERSECT or EXCEPT operator must have an equal number of "
                "expressions in their target lists.",
            )
        sides: list[list[str]] = [[], []]
        columns = []
        for place, ((name, one), (_, other)) in enumerate(zip(left.columns, right.columns, strict=True)):
            inputs = [replace(one, sql=f"c{place}", literal=None), replace(other, sql=f"c{place}", literal=None)]
            type_, sqls = _arithmetic.unify(inputs)
            for side, sql in zip(sides, sqls, strict=True):
                side.append(sql)
            columns.append((name, Expr(quote(name), type_, utf16=one.utf16, nullable=one.nullable or other.nullable)))
        names = ", ".join(f"c{place}" for place in range(len(columns)))
        halves = [
            f"SELECT {', '.join(side)} FROM ({query.sql}) AS s({names})"
            for side, query in zip(sides, (left, right), strict=True)
        ]
        operator = _SET_OPERATIONS[type(node)] + ("" if node.args.get("distinct") else " ALL")
        outer = ", ".join(quote(name or f"c{place}") for place, (name, _) in enumerate(columns))
        sql = f"SELECT * FROM ({halves[0]} {operator} {halves[1]}) AS u({_unique(outer, columns)})"
        return Query(sql + self._tail(_with_plain_order(node), scope, tuple(columns)), tuple(columns))

    def _values(self, node: exp.Values, scope: Scope) -> Query:
        rows = [[self.expression(value, scope) for value in row.expressions] for row in node.expressions]
        columns, compiled = [], []
        for place, column in enumerate(zip(*rows, strict=True)):
            type_, sqls = _arithmetic.unify(column)
            columns.append((f"col{place}", Expr("", type_)))
            compiled.append(sqls)
        lines = ", ".join(f"({', '.join(row)})" for row in zip(*compiled, strict=True))
        return Query(f"VALUES {lines}", tuple(columns))

    def _select(self, node: exp.Select, scope: Scope) -> Query:
        if node.args.get("for_"):
            raise SqlError(40517, "The lab's SQL Server double does not support FOR XML and FOR JSON.")
        source = self._from(node, scope)
        columns = self._projections(node, scope)
        if not columns:
            raise SqlError(102, "Incorrect syntax near the keyword 'FROM'.", severity=15)
        parts = [f"{expr.sql} AS {quote(name or f'c{place}')}" for place, (name, expr) in enumerate(columns)]
        sql = f"SELECT {'DISTINCT ' if node.args.get('distinct') else ''}{', '.join(parts)}{source}"
        if where := node.args.get("where"):
            sql += f" WHERE {self.predicate(where.this, scope)}"
        if group := node.args.get("group"):
            sql += f" GROUP BY {', '.join(self.expression(item, scope).sql for item in group.expressions)}"
        if having := node.args.get("having"):
            sql += f" HAVING {self.predicate(having.this, scope)}"
        return Query(sql + self._tail(node, scope, columns), columns)

    def _projections(self, node: exp.Select, scope: Scope) -> tuple[tuple[str, Expr], ...]:
        columns: list[tuple[str, Expr]] = []
        for item in node.expressions:
            star = item.this if isinstance(item, exp.Column) else item
            if isinstance(star, exp.Star):
                columns.extend(self._star(item.table if isinstance(item, exp.Column) else "", scope))
            elif isinstance(item, exp.Alias):
                columns.append((item.alias, self._value(item.this, scope)))
            elif isinstance(item, exp.Aliases):
                raise unsupported(item)
            else:
                columns.append((item.name if isinstance(item, exp.Column) else "", self._value(item, scope)))
        return tuple(columns)

    def _value(self, node: exp.Expression, scope: Scope) -> Expr:
        """Compile a value of the select list, where T-SQL knows no search conditions."""
        if isinstance(node, (exp.Predicate, exp.Connector)) and not isinstance(node, exp.Subquery):
            raise SqlError(102, "Incorrect syntax near a search condition in the select list.", severity=15)
        return self.expression(node, scope)

    def _star(self, table: str, scope: Scope) -> list[tuple[str, Expr]]:
        qualifier = table.casefold()
        sources = [
            source
            for source in scope.sources
            if not table or source.alias.casefold() == qualifier or qualifier in source.qualifiers
        ]
        if not sources:
            if table:
                raise SqlError(
                    107,
                    f"The column prefix '{table}' does not match with a table name or alias name used in the query.",
                    severity=15,
                )
            raise SqlError(263, "Must specify table to select from.")
        return [
            (
                column.name,
                self.expression(
                    exp.column(
                        exp.to_identifier(column.name, quoted=True), exp.to_identifier(source.alias, quoted=True)
                    ),
                    scope,
                ),
            )
            for source in sources
            for column in source.columns
            if not column.hidden
        ]

    def _tail(self, node: exp.Expression, scope: Scope, columns: tuple[tuple[str, Expr], ...]) -> str:
        sql = self._order(node.args.get("order"), scope, columns)
        limit, offset = node.args.get("limit"), node.args.get("offset")
        if limit is not None:
            options = limit.args.get("limit_options")
            if options is not None and options.args.get("with_ties"):
                raise SqlError(40517, "The lab's SQL Server double does not support TOP … WITH TIES.")
            count = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression
            percent = options is not None and options.args.get("percent")
            sql += f" LIMIT {self.expression(count, Scope()).sql}{'%' if percent else ''}"
        if offset is not None:
            sql += f" OFFSET {self.expression(offset.expression, Scope()).sql}"
        return sql

    def _order(self, node: exp.Order | None, scope: Scope, columns: tuple[tuple[str, Expr], ...]) -> str:
        if node is None:
            return ""
        parts = []
        for item in node.expressions:
            direction = " DESC NULLS LAST" if item.args.get("desc") else " ASC NULLS FIRST"
            parts.append(self._order_key(item.this, scope, columns) + direction)
        return " ORDER BY " + ", ".join(parts)

    def _order_key(self, node: exp.Expression, scope: Scope, columns: tuple[tuple[str, Expr], ...]) -> str:
        if isinstance(node, exp.Literal) and not node.is_string:
            place = int(node.this)
            if not 1 <= place <= len(columns):
                raise SqlError(
                    108,
                    f"The ORDER BY position number {place} is out of range of the number of items in the select list.",
                )
            return str(place)
        if isinstance(node, exp.Column) and not node.table:
            folded = node.name.casefold()
            for place, (name, _) in enumerate(columns, 1):
                if name.casefold() == folded:
                    return str(place)
        return sort_key(self.expression(node, scope))

    # FROM

    def _from(self, node: exp.Select, scope: Scope) -> str:
        origin = node.args.get("from_")
        if origin is None:
            return ""
        sql = " FROM " + self._source(origin.this, scope)
        for join in [*(origin.this.args.get("joins") or []), *(node.args.get("joins") or [])]:
            sql += self._join(join, scope)
        return sql

    def _join(self, join: exp.Join, scope: Scope) -> str:
        target = join.this
        side = (join.args.get("side") or "").upper()
        kind = (join.args.get("kind") or "").upper()
        if isinstance(target, exp.Lateral):
            applied = "JOIN" if target.args.get("cross_apply") else "LEFT JOIN"
            derived = self._derived(target.this, target.args.get("alias"), scope, lateral=True)
            return f" {applied} LATERAL {derived} ON TRUE"
        if side in {"RIGHT", "FULL"}:
            scope.sources[:] = [replace(source, outer=True) for source in scope.sources]
        before = len(scope.sources)
        sql = self._source(target, scope)
        if side in {"LEFT", "FULL"}:
            scope.sources[before:] = [replace(source, outer=True) for source in scope.sources[before:]]
        if kind == "CROSS":
            return f" CROSS JOIN {sql}"
        condition = join.args.get("on")
        if condition is None:
            return f", {sql}"
        return f" {side + ' ' if side else ''}JOIN {sql} ON {self.predicate(condition, scope)}"

    def _source(self, node: Any, scope: Scope) -> str:
        match node:
            case exp.Table():
                return self._table(node, scope)
            case exp.Subquery() if isinstance(node.this, (exp.Table, exp.Subquery)) and not node.args.get("alias"):
                sql = self._source(node.this, scope)
                for join in node.this.args.get("joins") or []:
                    sql += self._join(join, scope)
                return f"({sql})"
            case exp.Subquery() | exp.Values():
                return self._derived(node, node.args.get("alias"), scope)
        raise unsupported(node)

    def _derived(self, node: Any, alias: exp.TableAlias | None, scope: Scope, *, lateral: bool = False) -> str:
        if alias is None and isinstance(node, exp.Subquery):
            alias = node.args.get("alias")
        inner = node.this if isinstance(node, exp.Subquery) else node
        parent = scope if lateral else Scope(parent=scope.parent, relations=scope.relations)
        query = self.query(inner, parent)
        name = alias.name if alias else f"d{len(scope.sources)}"
        names = (
            [column.name for column in alias.columns]
            if alias and alias.columns
            else [column for column, _ in query.columns]
        )
        for place, column in enumerate(names, 1):
            if not column:
                raise SqlError(8155, f"No column name was specified for column {place} of '{name}'.")
        scope.sources.append(Source(name, _offered(query, names)))
        return f"({query.sql}) AS {quote(name)}({', '.join(quote(column) for column in names)})"

    def _table(self, node: exp.Table, scope: Scope) -> str:
        cte = scope.relation(node.name) if not node.db and not isinstance(node.this, exp.Anonymous) else None
        if isinstance(node.this, exp.Anonymous):
            arguments = [self.expression(argument, scope) for argument in node.this.expressions]
            relation = self.environment.table_function(node, arguments)
        else:
            relation = cte or self.environment.relation(node)
        alias = node.alias or relation.name
        qualifiers = frozenset() if node.alias else frozenset({relation.name.casefold()})
        scope.sources.append(Source(alias, relation.columns, qualifiers))
        return f"{relation.sql} AS {quote(alias)}"


def _offered(query: Query, names: list[str]) -> tuple[SourceColumn, ...]:
    return tuple(
        SourceColumn(name, expr.type, nullable=expr.nullable, utf16=expr.utf16)
        for name, (_, expr) in zip(names, query.columns, strict=True)
    )


def _unique(outer: str, columns: list[tuple[str, Expr]]) -> str:
    """Column names of a set operation, with duplicates made different (DuckDB refuses them in an alias list)."""
    del outer
    seen: set[str] = set()
    names = []
    for place, (name, _) in enumerate(columns):
        unique = name if name and name.casefold() not in seen else f"c{place}"
        seen.add(unique.casefold())
        names.append(quote(unique))
    return ", ".join(names)


__all__ = ["QueryCompiler", "column_sql", "BIGINT", "INT"]


def _with_plain_order(node: exp.SetOperation) -> exp.SetOperation:
    """Let ``ORDER BY t.a`` of a UNION mean its column ``a``, if the first SELECT lists ``t.a``."""
    first = node.this
    while isinstance(first, (exp.SetOperation, exp.Subquery)):
        first = first.this
    order = node.args.get("order")
    if order is None or not isinstance(first, exp.Select):
        return node
    listed = {item.sql().casefold() for item in first.expressions if isinstance(item, exp.Column)}
    node = node.copy()
    for item in node.args["order"].expressions:
        if isinstance(item.this, exp.Column) and item.this.sql().casefold() in listed:
            item.set("this", exp.column(item.this.this.copy()))
    return node
