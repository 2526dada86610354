"""T-SQL's scalar functions in DuckDB, by name, each with the type that T-SQL gives its result."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql import _arithmetic, _datefunctions
from datakit_lab.sqlserver.tsql._aggregates import AGGREGATES
from datakit_lab.sqlserver.tsql._comparisons import comparable
from datakit_lab.sqlserver.tsql._convert import Expr, as_number, as_text, blob_literal, convert, text_literal
from datakit_lab.sqlserver.tsql._scope import Scope
from datakit_lab.sqlserver.tsql._types import (
    BIGINT,
    BINARY,
    CHARACTER,
    FLOAT,
    INT,
    NATIONAL,
    TYPES,
    character,
    storage,
)

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._expressions import ExpressionCompiler


def call(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope, over: str = "") -> Expr:
    """Compile a call.

    :param over: the OVER clause in DuckDB, if the call is a window function.
    :raises SqlError: 195 for an unknown function, 174 for a wrong number of arguments.
    """
    name = node.name.upper()
    if handler := AGGREGATES.get(name):
        return handler(compiler, node, scope, over)
    if name == "IIF":
        return _iif(compiler, node, scope)
    if name in _datefunctions.FUNCTIONS:
        part = node.expressions[0].name if node.expressions else ""
        rest = [compiler.expression(argument, scope) for argument in node.expressions[1:]]
        return _datefunctions.call(name, part, rest)
    if name in TYPES:  # sqlglot reads {d '2020-01-01'} as DATE('2020-01-01')
        return convert(compiler.expression(node.expressions[0], scope), SqlType(name))
    arguments = [compiler.expression(argument, scope) for argument in node.expressions]
    if plain := _PLAIN.get(name):
        lowest, highest, build = plain
        if not lowest <= len(arguments) <= highest:
            raise SqlError(174, f"The {name.lower()} function requires {lowest} argument(s).", severity=15)
        return build(arguments)
    if (known := compiler.environment.system_function(name, arguments)) is not None:
        return known
    raise SqlError(195, f"'{node.name}' is not a recognized built-in function name.", severity=15)


def clr_static(type_name: str, method: str, arguments: list[Expr]) -> Expr:
    """Compile ``hierarchyid::GetRoot()`` and the like: constants that the lab can store.

    :raises SqlError: 6506 for a method that the lab does not have.
    """
    if type_name.lower() == "hierarchyid" and method == "GetRoot":
        return Expr("{'wkt': '/', 'bytes': ''::BLOB}", SqlType("hierarchyid"))
    raise SqlError(
        6506, f"Could not find method '{method}' for type '{type_name}' in this double ({len(arguments)} arguments)."
    )


def _iif(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope) -> Expr:
    condition = compiler.predicate(node.expressions[0], scope)
    type_, sqls = _arithmetic.unify([compiler.expression(argument, scope) for argument in node.expressions[1:3]])
    return Expr(f"(CASE WHEN {condition} THEN {sqls[0]} ELSE {sqls[1]} END)", type_)


# scalars: minimum and maximum of arguments, and how the call is built


def _isnull(arguments: list[Expr]) -> Expr:
    first, second = arguments
    if first.type is None:
        return second
    other = second.sql if first.utf16 and second.utf16 else convert(second, first.type).sql
    return Expr(
        f"coalesce({first.sql}, {other})", first.type, utf16=first.utf16, nullable=first.nullable and second.nullable
    )


def _coalesce(arguments: list[Expr]) -> Expr:
    type_, sqls = _arithmetic.unify(arguments)
    return Expr(f"coalesce({', '.join(sqls)})", type_, nullable=all(argument.nullable for argument in arguments))


def _nullif(arguments: list[Expr]) -> Expr:
    left, right = comparable(*arguments)
    return Expr(f"(CASE WHEN {left} = {right} THEN NULL ELSE {arguments[0].sql} END)", arguments[0].type)


def _len(arguments: list[Expr]) -> Expr:
    value = arguments[0]
    if value.utf16:
        return Expr(f"CAST(octet_length({value.sql}) // 2 AS INTEGER)", INT)
    if value.kind in BINARY:
        return Expr(f"CAST(octet_length({value.sql}) AS INTEGER)", INT)
    return Expr(f"CAST(utf16_length(rtrim({as_text(value)}, ' ')) AS INTEGER)", INT)


def _datalength(arguments: list[Expr]) -> Expr:
    value = arguments[0]
    if value.utf16 or value.kind in BINARY:
        sql = f"octet_length({value.sql})"
    elif value.kind in NATIONAL:
        sql = f"(utf16_length({value.sql}) * 2)"
    elif value.kind in CHARACTER:
        sql = f"length({value.sql})"
    elif value.kind in {"hierarchyid", "geography", "geometry"}:
        sql = f"octet_length(({value.sql}).bytes)"
    elif value.kind == "xml":
        sql = f"(utf16_length({value.sql}) * 2)"
    else:
        size = {"time": 5, "datetime2": 8, "datetimeoffset": 10}.get(value.kind) or TYPES[
            value.kind or "int"
        ].max_length
        sql = f"CASE WHEN {value.sql} IS NULL THEN NULL ELSE {size} END"
    big = value.type is not None and value.type.length == -1
    return Expr(f"CAST({sql} AS {'BIGINT' if big else 'INTEGER'})", BIGINT if big else INT)


def _textual(name: str) -> Callable[[list[Expr]], Expr]:
    def build(arguments: list[Expr]) -> Expr:
        first = arguments[0]
        sqls = [as_text(first), *(as_text(item) if item.kind in CHARACTER else item.sql for item in arguments[1:])]
        type_ = first.type if first.kind in CHARACTER and first.type else character("varchar", 8000)
        if type_.name in {"char", "nchar"}:
            type_ = character("varchar" if type_.name == "char" else "nvarchar", type_.length or 1, type_.collation)
        return Expr(f"{name}({', '.join(sqls)})", type_, nullable=first.nullable)

    return build


def _trim(name: str) -> Callable[[list[Expr]], Expr]:
    build = _textual(name)
    return lambda arguments: build([*arguments, Expr("' '")])


def _replace(arguments: list[Expr]) -> Expr:
    return Expr(f"replace({', '.join(as_text(item) for item in arguments)})", _any_text(arguments[0]))


def _any_text(value: Expr) -> SqlType:
    national = value.kind in NATIONAL
    return character("nvarchar" if national else "varchar", 4000 if national else 8000)


def _concat(arguments: list[Expr]) -> Expr:
    texts = [
        Expr(f"coalesce({as_text(item)}, '')", item.type if item.kind in CHARACTER else character("varchar", 60))
        for item in arguments
    ]
    return _arithmetic.concatenate(texts)


def _concat_ws(arguments: list[Expr]) -> Expr:
    return Expr(f"concat_ws({', '.join(as_text(item) for item in arguments)})", character("nvarchar", 4000))


def _charindex(arguments: list[Expr]) -> Expr:
    needle, hay = f"lower({as_text(arguments[0])})", f"lower({as_text(arguments[1])})"
    if len(arguments) == 3:
        start = arguments[2].sql
        found = f"strpos(substr({hay}, {start}), {needle})"
        return Expr(f"CAST(CASE WHEN {found} = 0 THEN 0 ELSE {found} + {start} - 1 END AS INTEGER)", INT)
    return Expr(f"CAST(strpos({hay}, {needle}) AS INTEGER)", INT)


def _substring(arguments: list[Expr]) -> Expr:
    value, start, length = arguments
    if value.kind in BINARY:
        hexed = f"substr(hex({value.sql}), ({start.sql}) * 2 - 1, ({length.sql}) * 2)"
        return Expr(f"unhex({hexed})", SqlType("varbinary", length=value.type.length if value.type else 8000))
    return Expr(f"substr({as_text(value)}, CAST({start.sql} AS BIGINT), CAST({length.sql} AS BIGINT))", _varying(value))


def _varying(value: Expr) -> SqlType:
    length = value.type.length if value.type and value.kind in CHARACTER else 8000
    return character("nvarchar" if value.kind in NATIONAL else "varchar", length or 1)


def _char(arguments: list[Expr]) -> Expr:
    return Expr(f"chr(CAST({arguments[0].sql} AS INTEGER))", character("varchar", 1))


def _nchar(arguments: list[Expr]) -> Expr:
    number = arguments[0].literal
    if isinstance(number, int) and 0xD800 <= number <= 0xDFFF:
        raw = chr(number).encode("utf-16-le", "surrogatepass")
        return Expr(blob_literal(raw), character("nvarchar", 1), utf16=True)
    return Expr(f"chr(CAST({arguments[0].sql} AS INTEGER))", character("nvarchar", 1))


def _quotename(arguments: list[Expr]) -> Expr:
    return Expr(f"('[' || replace({as_text(arguments[0])}, ']', ']]') || ']')", character("nvarchar", 258))


def _hashbytes(arguments: list[Expr]) -> Expr:
    algorithm = str(arguments[0].literal or "").upper()
    function = {"SHA2_256": ("sha256", 32), "SHA1": ("sha1", 20), "SHA": ("sha1", 20), "MD5": ("md5", 16)}.get(
        algorithm
    )
    if function is None:
        raise SqlError(40517, f"The lab's SQL Server double does not support HASHBYTES('{algorithm}').")
    raw = convert(arguments[1], SqlType("varbinary", length=-1)).sql
    return Expr(f"unhex({function[0]}({raw}))", SqlType("varbinary", length=8000))


def _same(sql: str) -> Callable[[list[Expr]], Expr]:
    """A numeric function whose result has the argument's type."""

    def build(arguments: list[Expr]) -> Expr:
        value = arguments[0]
        called = sql.format(as_number(value), *(item.sql for item in arguments[1:]))
        return Expr(f"CAST({called} AS {storage(value.type)})" if value.type else called, value.type)

    return build


def _float(sql: str) -> Callable[[list[Expr]], Expr]:
    return lambda arguments: Expr(sql.format(*(as_number(item) for item in arguments)), FLOAT)


def _round(arguments: list[Expr]) -> Expr:
    function = "trunc" if len(arguments) > 2 and arguments[2].literal != 0 else "round"
    return _same(f"{function}({{}}, CAST({arguments[1].sql} AS INTEGER))")(arguments[:1])


def _isnumeric(arguments: list[Expr]) -> Expr:
    return Expr(f"CAST(TRY_CAST({as_text(arguments[0])} AS DOUBLE) IS NOT NULL AS INTEGER)", INT, nullable=False)


def _guid(arguments: list[Expr]) -> Expr:
    del arguments
    return Expr("uuid()", SqlType("uniqueidentifier"), nullable=False)


def _checksum(arguments: list[Expr]) -> Expr:
    return Expr(
        f"CAST(CAST(hash({', '.join(item.sql for item in arguments)}) % 4294967296 AS BIGINT) - 2147483648 AS INTEGER)",
        INT,
    )


def _variant_property(arguments: list[Expr]) -> Expr:
    if str(arguments[1].literal).lower() != "basetype":
        raise SqlError(40517, f"The lab's SQL Server double does not support SQL_VARIANT_PROPERTY({arguments[1].sql}).")
    return Expr(f"({arguments[0].sql}).base", character("nvarchar", 128))


def _choose(arguments: list[Expr]) -> Expr:
    type_, sqls = _arithmetic.unify(arguments[1:])
    cases = " ".join(f"WHEN {place} THEN {sql}" for place, sql in enumerate(sqls, 1))
    return Expr(f"(CASE {arguments[0].sql} {cases} END)", type_)


def _unary_constant(sql: str, type_: SqlType) -> Callable[[list[Expr]], Expr]:
    def build(arguments: list[Expr]) -> Expr:
        del arguments
        return Expr(sql, type_, nullable=False)

    return build


_PLAIN: Final[dict[str, tuple[int, int, Callable[[list[Expr]], Expr]]]] = {
    "ISNULL": (2, 2, _isnull),
    "COALESCE": (2, 64, _coalesce),
    "NULLIF": (2, 2, _nullif),
    "LEN": (1, 1, _len),
    "DATALENGTH": (1, 1, _datalength),
    "LOWER": (1, 1, _textual("lower")),
    "UPPER": (1, 1, _textual("upper")),
    "LTRIM": (1, 1, _trim("ltrim")),
    "RTRIM": (1, 1, _trim("rtrim")),
    "TRIM": (1, 1, _trim("trim")),
    "LEFT": (2, 2, _textual("left")),
    "RIGHT": (2, 2, _textual("right")),
    "REVERSE": (1, 1, _textual("reverse")),
    "REPLICATE": (2, 2, _textual("repeat")),
    "REPLACE": (3, 3, _replace),
    "SUBSTRING": (3, 3, _substring),
    "CONCAT": (2, 254, _concat),
    "CONCAT_WS": (3, 254, _concat_ws),
    "CHARINDEX": (2, 3, _charindex),
    "CHAR": (1, 1, _char),
    "NCHAR": (1, 1, _nchar),
    "ASCII": (1, 1, lambda a: Expr(f"CAST(ascii({as_text(a[0])}) AS INTEGER)", INT)),
    "UNICODE": (1, 1, lambda a: Expr(f"CAST(unicode({as_text(a[0])}) AS INTEGER)", INT)),
    "SPACE": (1, 1, lambda a: Expr(f"repeat(' ', CAST({a[0].sql} AS BIGINT))", character("varchar", 8000))),
    "STR": (
        1,
        3,
        lambda a: Expr(f"lpad(CAST(CAST(round({a[0].sql}) AS BIGINT) AS VARCHAR), 10, ' ')", character("varchar", 10)),
    ),
    "QUOTENAME": (1, 2, _quotename),
    "HASHBYTES": (2, 2, _hashbytes),
    "ABS": (1, 1, _same("abs({})")),
    "CEILING": (1, 1, _same("ceil({})")),
    "FLOOR": (1, 1, _same("floor({})")),
    "SIGN": (1, 1, _same("sign({})")),
    "ROUND": (2, 3, _round),
    "SQRT": (1, 1, _float("sqrt({})")),
    "EXP": (1, 1, _float("exp({})")),
    "LOG": (1, 1, _float("ln({})")),
    "LOG10": (1, 1, _float("log10({})")),
    "POWER": (2, 2, _same("pow({}, {})")),
    "SIN": (1, 1, _float("sin({})")),
    "COS": (1, 1, _float("cos({})")),
    "PI": (0, 0, _unary_constant("pi()", FLOAT)),
    "RAND": (0, 1, _unary_constant("random()", FLOAT)),
    "ISNUMERIC": (1, 1, _isnumeric),
    "NEWID": (0, 0, _guid),
    "NEWSEQUENTIALID": (0, 0, _guid),
    "CHECKSUM": (1, 254, _checksum),
    "BINARY_CHECKSUM": (1, 254, _checksum),
    "SQL_VARIANT_PROPERTY": (2, 2, _variant_property),
    "CHOOSE": (2, 254, _choose),
    "SWITCHOFFSET": (2, 2, _datefunctions.switch_offset),
    "TYPE_NAME": (
        1,
        1,
        lambda a: Expr(f"(SELECT name FROM sys.types WHERE user_type_id = {a[0].sql})", character("nvarchar", 128)),
    ),
    "ISDATE": (1, 1, lambda a: Expr(f"CAST(TRY_CAST({as_text(a[0])} AS TIMESTAMP) IS NOT NULL AS INTEGER)", INT)),
    "CURRENT_TIMEZONE": (
        0,
        0,
        _unary_constant(text_literal("(UTC) Coordinated Universal Time"), character("varchar", 60)),
    ),
}
