"""What a query may ask of the session and the catalog around it: tables, ``@@`` values, OBJECT_ID and the like."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer
# ruff: noqa: ARG002, ARG005 -- the tables of functions call them all with one signature

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlglot import exp

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql import _temporal as temporal
from datakit_lab.sqlserver.tsql._catalog import Catalog, StoredTable
from datakit_lab.sqlserver.tsql._convert import Expr, as_text, blob_literal, quote, text_literal
from datakit_lab.sqlserver.tsql._dialect import parse_statement
from datakit_lab.sqlserver.tsql._dynamic_views import DYNAMIC_VIEWS
from datakit_lab.sqlserver.tsql._scope import Relation, SourceColumn
from datakit_lab.sqlserver.tsql._system_views import SYSTEM_VIEWS
from datakit_lab.sqlserver.tsql._types import BIGINT, DATETIME, DATETIME2, DATETIMEOFFSET, INT, SYSNAME, character

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._session import DuckSession

VERSION: Final = (
    "Microsoft SQL Server 2022 (RTM) - 16.0.1000.6 (X64) \n"
    "\tA double of it for laptops and tests: datakit-lab on DuckDB"
)


class Surroundings:
    """Implements :class:`~._scope.Environment` for one session."""

    def __init__(self, session: DuckSession) -> None:
        self._session: DuckSession = session

    @property
    def database(self) -> str:
        """The current database."""
        return self._session.database

    def catalog(self, database: str | None = None) -> Catalog:
        """Return the catalog of a database, the current one by default."""
        return Catalog(self._session.connection, database or self._session.database)

    def stored(self, database: str, schema: str, name: str) -> StoredTable:
        """Return a table or view.

        :raises SqlError: 208 there is none.
        """
        if database:
            database = self._session.backend.check_access(self._session.principal, database)
        found = self.catalog(database or None).find(schema or "dbo", name)
        if found is None:
            shown = ".".join(part for part in (database, schema, name) if part)
            raise SqlError(208, f"Invalid object name '{shown}'.", state=1)
        return found

    def relation(self, table: exp.Table) -> Relation:
        """Return a table, a view or a system view.

        :raises SqlError: 208 unknown object, 229 no right to it.
        """
        schema, name, database = table.db, table.name, table.catalog
        if (temporary := self._session.temporary(table)) is not None:
            return temporary.relation()
        if schema.casefold() in {"sys", "information_schema"} or (
            not schema and name.casefold().startswith("sysobjects")
        ):
            return self._system(schema.casefold(), name, database)
        found = self.stored(database, schema, name)
        if not self._session.principal.may_read(found.database, found.schema, found.name):
            raise SqlError(
                229,
                f"The SELECT permission was denied on the object '{found.name}', database '{found.database}', "
                f"schema '{found.schema}'.",
                severity=14,
                state=5,
            )
        if found.kind == "V" and found.definition is not None:
            query = self._session.compiler().query(parse_statement(found.definition))
            columns = tuple(
                SourceColumn(column.source.name, expr.type, nullable=expr.nullable, utf16=expr.utf16)
                for column, (_, expr) in zip(found.columns, query.columns, strict=False)
            )
            names = ", ".join(quote(column.name) for column in columns)
            return Relation(f"(SELECT * FROM ({query.sql}) AS v({names}))", columns, found.name)
        return found.relation()

    def _system(self, schema: str, name: str, database: str) -> Relation:
        if database:
            database = self._session.backend.check_access(self._session.principal, database)
        database = database or self.database
        wanted = f"is_{name}".casefold() if schema == "information_schema" else name.casefold()
        if dynamic := DYNAMIC_VIEWS.get(wanted):
            return dynamic(self._session, database)
        known = {view.casefold(): view for view in SYSTEM_VIEWS}
        if wanted not in known:
            raise SqlError(208, f"Invalid object name '{schema}.{name}'.")
        view = f"{quote(database)}.sys.{quote(known[wanted])}"
        return Relation(view, self._session.backend.system_columns(known[wanted], database), name)

    def table_function(self, table: exp.Table, arguments: Sequence[object]) -> Relation:
        """Return the rows of a table-valued system function.

        :raises SqlError: 208 there is no such function here.
        """
        name = table.this.name.casefold()
        values = [argument for argument in arguments if isinstance(argument, Expr)]
        if name == "dm_exec_describe_first_result_set":
            from datakit_lab.sqlserver.tsql._procedures import described_relation

            return described_relation(self._session, str(_constant(values[0])))
        if name == "generate_series":
            bounds = ", ".join(value.sql for value in values)
            return Relation(
                f"(SELECT unnest(generate_series({bounds})) AS value)",
                (SourceColumn("value", BIGINT, nullable=False),),
                "generate_series",
            )
        if name == "string_split":
            sql = f"(SELECT unnest(string_split({as_text(values[0])}, {values[1].sql})) AS value)"
            return Relation(sql, (SourceColumn("value", character("nvarchar", 4000)),), "string_split")
        shown = ".".join(part for part in (table.db, table.this.name) if part)
        raise SqlError(208, f"Invalid object name '{shown}'.")

    def variable(self, name: str) -> Expr:
        """Return a variable or parameter.

        :raises SqlError: 137 it is not declared.
        """
        return self._session.variables.expression(name)

    def global_variable(self, name: str) -> Expr:
        """Return ``@@NAME``.

        :raises SqlError: 137 there is none.
        """
        session = self._session
        integers = {
            "ROWCOUNT": session.row_count,
            "TRANCOUNT": session.transaction.count,
            "ERROR": 0,
            "MAX_PRECISION": 38,
            "DATEFIRST": 7,
            "TEXTSIZE": 2147483647,
            "LOCK_TIMEOUT": -1,
            "OPTIONS": 5496,
            "NESTLEVEL": 0,
            "FETCH_STATUS": 0,
            "CONNECTIONS": session.number,
        }
        if name in integers:
            return Expr(str(integers[name]), INT, nullable=False)
        if name == "SPID":
            return Expr(f"{session.number}::SMALLINT", SqlType("smallint"), nullable=False)
        if name == "IDENTITY":
            return Expr(
                "NULL::DECIMAL(38,0)" if session.last_identity is None else f"{session.last_identity}::DECIMAL(38,0)",
                SqlType("numeric", precision=38, scale=0),
            )
        if name == "DBTS":
            return _rowversion(session.backend.rowversions.last(session, self.database))
        texts = {"VERSION": VERSION, "SERVERNAME": "LAB", "SERVICENAME": "MSSQLSERVER", "LANGUAGE": "us_english"}
        if name in texts:
            return Expr(text_literal(texts[name]), character("nvarchar", 300), nullable=False)
        raise SqlError(137, f'Must declare the scalar variable "@@{name}".', severity=15)

    def system_function(self, name: str, arguments: Sequence[object]) -> Expr | None:
        """Return a function of the session or the catalog; None if there is none of that name."""
        function = _FUNCTIONS.get(name)
        if function is None:
            return None
        return function(self, [argument for argument in arguments if isinstance(argument, Expr)])

    # functions

    def _now(self, type_: SqlType) -> Expr:
        # fixed when the statement is compiled: T-SQL gives one value to a whole statement, too
        ticks = temporal.datetime_ticks(dt.datetime.now(dt.UTC).replace(tzinfo=None))
        if type_.name == "datetime":
            return Expr(temporal.datetime_sql(temporal.timestamp_literal(ticks)), type_, nullable=False)
        if type_.name == "datetimeoffset":
            return Expr(f'struct_pack(ticks := {ticks}::BIGINT, "offset" := 0::SMALLINT)', type_, nullable=False)
        return Expr(f"{ticks}::BIGINT", type_, nullable=False)

    def _row_count_big(self, arguments: list[Expr]) -> Expr:
        return Expr(f"{self._session.row_count}::BIGINT", BIGINT, nullable=False)

    def _db_name(self, arguments: list[Expr]) -> Expr:
        if not arguments:
            return Expr(text_literal(self.database), SYSNAME)
        rows = self._session.backend.database_ids()
        name = next((database for database, number in rows.items() if str(number) == arguments[0].sql), None)
        return Expr("NULL::VARCHAR" if name is None else text_literal(name), SYSNAME)

    def _db_id(self, arguments: list[Expr]) -> Expr:
        wanted = str(arguments[0].literal) if arguments else self.database
        rows = {name.casefold(): number for name, number in self._session.backend.database_ids().items()}
        number = rows.get(wanted.casefold())
        return Expr("NULL::SMALLINT" if number is None else f"{number}::SMALLINT", SqlType("smallint"))

    def _login_name(self, arguments: list[Expr]) -> Expr:
        login = self._session.login
        return Expr(text_literal(_windows_name(login.principal) if login.principal else login.user or ""), SYSNAME)

    def _user_name(self, arguments: list[Expr]) -> Expr:
        return Expr("'dbo'" if not self._session.principal.read_only else self._login_name([]).sql, SYSNAME)

    def _object_id(self, arguments: list[Expr]) -> Expr:
        name = arguments[0]
        lab = f"{quote(self.database)}.lab"
        if isinstance(name.literal, str) or name.sql.startswith("CAST($"):
            text = name.literal if isinstance(name.literal, str) else self._session.constant(name)
            parts = split_name(str(text))
            found = None
            if len(parts) <= 3 and parts:
                database = parts[-3] if len(parts) == 3 else ""
                found = self._find_object(database, parts[-2] if len(parts) > 1 else "dbo", parts[-1])
            return Expr("NULL::INTEGER" if found is None else f"{found}::INTEGER", INT)
        spelled = f"SELECT o.object_id FROM {lab}.objects AS o JOIN {lab}.schemas AS s ON s.schema_id = o.schema_id"
        forms = "'[' || s.name || '].[' || o.name || ']'", "s.name || '.' || o.name", "s.name || '.[' || o.name || ']'"
        return Expr(f"({spelled} WHERE {as_text(name)} IN ({', '.join(forms)}))", INT)

    def _find_object(self, database: str, schema: str, name: str) -> int | None:
        if schema.casefold() == "sys":
            return -1 if name.casefold() in {view.casefold() for view in (*SYSTEM_VIEWS, *DYNAMIC_VIEWS)} else None
        if database and database.casefold() not in {known.casefold() for known in self._session.backend.database_ids()}:
            return None
        found = self.catalog(self._session.backend.spelling(database) if database else None).find(schema or "dbo", name)
        return found.object_id if found else None

    def _lookup(self, sql: str, type_: SqlType) -> Callable[[list[Expr]], Expr]:
        lab = f"{quote(self.database)}.lab."
        return lambda arguments: Expr(
            "(" + sql.replace("lab.", lab).format(*(item.sql for item in arguments)) + ")", type_
        )

    def _has_perms(self, arguments: list[Expr]) -> Expr:
        name, kind = arguments[0].literal, str(arguments[1].literal or "").upper()
        if kind == "DATABASE":
            database = str(name) if name else self.database
            allowed = database.casefold() in {
                known.casefold() for known in self._session.backend.database_ids()
            } and self._session.principal.may_open(database)
            return Expr("1" if allowed else "0", INT)
        if kind in {"", "SERVER"} or name is None:
            return Expr("1" if self._session.principal.view_server_state else "0", INT)
        parts = split_name(str(name))
        schema, table = (parts[-2] if len(parts) > 1 else "dbo"), parts[-1]
        if self._find_object(parts[-3] if len(parts) > 2 else "", schema, table) is None:
            return Expr("NULL::INTEGER", INT)
        return Expr(
            "1"
            if self._session.principal.may_read(parts[-3] if len(parts) > 2 else self.database, schema, table)
            else "0",
            INT,
        )

    def _server_property(self, arguments: list[Expr]) -> Expr:
        known: dict[str, Any] = {
            "productversion": "16.0.1000.6", "productlevel": "RTM", "edition": "Developer Edition (64-bit)",
            "engineedition": 3,
            "servername": "LAB", "machinename": "LAB", "collation": "SQL_Latin1_General_CP1_CI_AS",
            "productmajorversion": "16",
            "productminorversion": "0", "isintegratedsecurityonly": 0, "ishadrenabled": 0, "isclustered": 0,
            "resourceversion": "16.00.1000",
        }  # fmt: skip
        value = known.get(str(arguments[0].literal).casefold())
        if value is None:
            return Expr("NULL::VARCHAR", character("nvarchar", 128))
        return (
            Expr(str(value), INT) if isinstance(value, int) else Expr(text_literal(value), character("nvarchar", 128))
        )

    def _database_property(self, arguments: list[Expr]) -> Expr:
        name, wanted = str(arguments[0].literal), str(arguments[1].literal).casefold()
        values = {
            "collation": "SQL_Latin1_General_CP1_CI_AS",
            "status": "ONLINE",
            "updateability": "READ_WRITE",
            "recovery": "FULL",
        }
        if (
            name.casefold() not in {known.casefold() for known in self._session.backend.database_ids()}
            or wanted not in values
        ):
            return Expr("NULL::VARCHAR", character("nvarchar", 128))
        return Expr(text_literal(values[wanted]), character("nvarchar", 128))

    def _min_active(self, arguments: list[Expr]) -> Expr:
        return _rowversion(self._session.backend.rowversions.min_active(self._session, self.database), nullable=False)

    def _connection_property(self, arguments: list[Expr]) -> Expr:
        wanted = str(arguments[0].literal).casefold()
        values = {
            "auth_scheme": "KERBEROS" if self._session.login.principal else "SQL",
            "net_transport": "TCP",
            "protocol_type": "TSQL",
            "client_net_address": self._session.login.client_address,
        }
        return Expr(text_literal(values[wanted]) if wanted in values else "NULL::VARCHAR", character("nvarchar", 128))

    def _column_property(self, arguments: list[Expr]) -> Expr:
        wanted = str(arguments[2].literal).casefold()
        fields = {"isidentity": "is_identity", "iscomputed": "is_computed", "ishidden": "is_hidden",
        "allowsnull": "is_nullable",
                  "issparse": "is_sparse", "precision": '"precision"', "scale": "scale",
                  "columnid": "column_id"}  # fmt: skip
        if wanted not in fields:
            return Expr("NULL::INTEGER", INT)
        return self._lookup(
            f"SELECT CAST({fields[wanted]} AS INTEGER) FROM lab.columns WHERE object_id = {{0}} AND name = {{1}}", INT
        )(arguments)

    def _col_length(self, arguments: list[Expr]) -> Expr:
        object_id = self._object_id(arguments[:1])
        sql = "SELECT max_length FROM lab.columns WHERE object_id = {0} AND name = {1}"
        return self._lookup(sql, SqlType("smallint"))([object_id, arguments[1]])


def _rowversion(value: int, *, nullable: bool = True) -> Expr:
    return Expr(blob_literal(value.to_bytes(8, "big")), SqlType("binary", length=8), nullable=nullable)


def _windows_name(principal: str) -> str:
    """``user@REALM.EXAMPLE`` as Windows shows it: ``REALM\\user``."""
    user, _, realm = principal.partition("@")
    return f"{realm.split('.')[0].upper()}\\{user}"


def _constant(value: Expr) -> object:
    if value.literal is None:
        raise SqlError(40517, "The lab's SQL Server double wants a literal here.")
    return value.literal


def split_name(text: str) -> list[str]:
    """Cut ``[my db].[dbo].[a.b]`` into its parts; an omitted part is empty."""
    parts = re.findall(r"\[((?:[^\]]|\]\])*)\]|\"((?:[^\"]|\"\")*)\"|([^.\[\]\"]+)|(?<=\.)(?=\.)", text)
    return [first.replace("]]", "]") or second.replace('""', '"') or third.strip() for first, second, third in parts]


def _lookup(sql: str, type_: SqlType = SYSNAME) -> Callable[[Surroundings, list[Expr]], Expr]:
    return lambda surroundings, arguments: surroundings._lookup(sql, type_)(arguments)


_FUNCTIONS: Final[dict[str, Callable[[Surroundings, list[Expr]], Expr]]] = {
    "ROWCOUNT_BIG": Surroundings._row_count_big,
    "DB_NAME": Surroundings._db_name,
    "DB_ID": Surroundings._db_id,
    "SUSER_SNAME": Surroundings._login_name,
    "SUSER_NAME": Surroundings._login_name,
    "ORIGINAL_LOGIN": Surroundings._login_name,
    "SYSTEM_USER": Surroundings._login_name,
    "USER_NAME": Surroundings._user_name,
    "OBJECT_ID": Surroundings._object_id,
    "HAS_PERMS_BY_NAME": Surroundings._has_perms,
    "SERVERPROPERTY": Surroundings._server_property,
    "DATABASEPROPERTYEX": Surroundings._database_property,
    "CONNECTIONPROPERTY": Surroundings._connection_property,
    "MIN_ACTIVE_ROWVERSION": Surroundings._min_active,
    "COLUMNPROPERTY": Surroundings._column_property,
    "COL_LENGTH": Surroundings._col_length,
    "OBJECT_NAME": _lookup("SELECT name FROM lab.objects WHERE object_id = {0}"),
    "OBJECT_SCHEMA_NAME": _lookup(
        "SELECT s.name FROM lab.schemas AS s JOIN lab.objects AS o ON o.schema_id = s.schema_id WHERE o.object_id = {0}"
    ),
    "SCHEMA_NAME": lambda s, a: (
        s._lookup("SELECT name FROM lab.schemas WHERE schema_id = {0}", SYSNAME)(a) if a else Expr("'dbo'", SYSNAME)
    ),
    "SCHEMA_ID": _lookup("SELECT schema_id FROM lab.schemas WHERE name = {0}", INT),
    "COL_NAME": _lookup("SELECT name FROM lab.columns WHERE object_id = {0} AND column_id = {1}"),
    "IS_SRVROLEMEMBER": lambda s, a: Expr("0", INT),
    "IS_MEMBER": lambda s, a: Expr("0", INT),
    "HOST_NAME": lambda s, a: Expr(text_literal(s._session.login.host), character("nvarchar", 128)),
    "APP_NAME": lambda s, a: Expr(text_literal(s._session.login.application), character("nvarchar", 128)),
    "SCOPE_IDENTITY": lambda s, a: s.global_variable("IDENTITY"),
    "XACT_STATE": lambda s, a: Expr(f"{int(s._session.transaction.count > 0)}::SMALLINT", SqlType("smallint")),
    "SYSUTCDATETIME": lambda s, a: s._now(DATETIME2),
    "SYSDATETIME": lambda s, a: s._now(DATETIME2),
    "SYSDATETIMEOFFSET": lambda s, a: s._now(DATETIMEOFFSET),
    "GETDATE": lambda s, a: s._now(DATETIME),
    "GETUTCDATE": lambda s, a: s._now(DATETIME),
}
