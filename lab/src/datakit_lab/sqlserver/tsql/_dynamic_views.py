"""System views whose rows are computed when asked for: databases, sessions, row counts."""

# ruff: noqa: S608 -- every name pasted into a statement went through quote(), every value through a literal's writer

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from datakit_lab.sqlserver.backend import SqlError, SqlType
from datakit_lab.sqlserver.tsql._catalog import Catalog
from datakit_lab.sqlserver.tsql._convert import quote, text_literal
from datakit_lab.sqlserver.tsql._scope import Relation, SourceColumn
from datakit_lab.sqlserver.tsql._types import BIGINT, BIT, DATETIME, DEFAULT_COLLATION, INT, SYSNAME, character, storage

if TYPE_CHECKING:
    from datakit_lab.sqlserver.tsql._session import DuckSession

_TINYINT: Final = SqlType("tinyint")
_NAME60: Final = character("nvarchar", 60)


def values_relation(name: str, columns: list[tuple[str, SqlType]], rows: list[tuple[Any, ...]]) -> Relation:
    """Return constant rows as a relation."""
    lines = ", ".join("(" + ", ".join(_literal(value) for value in row) + ")" for row in rows)
    body = f"VALUES {lines}" if rows else f"SELECT {', '.join('NULL' for _ in columns)} WHERE FALSE"
    names = ", ".join(quote(column) for column, _ in columns)
    casts = ", ".join(
        f"CAST({quote(column)} AS {storage(type_)}){' COLLATE NOCASE' if storage(type_) == 'VARCHAR' else ''} AS "
        f"{quote(column)}"
        for column, type_ in columns
    )
    sources = tuple(SourceColumn(column, type_) for column, type_ in columns)
    return Relation(f"(SELECT {casts} FROM ({body}) AS v({names}))", sources, name)


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return str(value).upper()
    return str(value) if isinstance(value, int) else text_literal(str(value))


def _databases(session: DuckSession, database: str) -> Relation:
    del database
    columns: list[tuple[str, SqlType]] = [
        ("name", SYSNAME), ("database_id", INT), ("create_date", DATETIME), ("compatibility_level", _TINYINT),
        ("collation_name", SYSNAME),
        ("user_access_desc", _NAME60), ("is_read_only", BIT), ("state", _TINYINT), ("state_desc", _NAME60),
        ("snapshot_isolation_state", _TINYINT),
        ("snapshot_isolation_state_desc", _NAME60), ("is_read_committed_snapshot_on", BIT), ("recovery_model_desc",
        _NAME60),
    ]  # fmt: skip
    rows = [
        (
            name,
            number,
            "2024-01-01",
            160,
            DEFAULT_COLLATION,
            "MULTI_USER",
            False,
            0,
            "ONLINE",
            int(snapshot),
            "ON" if snapshot else "OFF",
            committed,
            "FULL",
        )
        for name, number in session.backend.database_ids().items()
        for snapshot, committed in [
            (session.backend.allows_snapshot(name), session.backend.reads_committed_snapshot(name))
        ]
    ]
    return values_relation("databases", columns, rows)


def _need_server_state(session: DuckSession) -> None:
    if not session.principal.view_server_state:
        raise SqlError(
            300, "VIEW SERVER STATE permission was denied on object 'server', database 'master'.", severity=14
        )


def _connections(session: DuckSession, database: str) -> Relation:
    del database
    _need_server_state(session)
    columns: list[tuple[str, SqlType]] = [
        ("session_id", INT), ("net_transport", character("nvarchar", 40)), ("protocol_type", character("nvarchar", 40)),
        ("encrypt_option", character("nvarchar", 40)), ("auth_scheme", character("nvarchar", 40)),
        ("client_net_address", character("varchar", 48)), ("net_packet_size", INT),
    ]  # fmt: skip
    rows = [
        (
            other.number,
            "TCP",
            "TSQL",
            "TRUE",
            "KERBEROS" if other.login.principal else "SQL",
            other.login.client_address,
            4096,
        )
        for other in session.backend.sessions()
    ]
    return values_relation("dm_exec_connections", columns, rows)


def _sessions(session: DuckSession, database: str) -> Relation:
    del database
    _need_server_state(session)
    levels = {"READ UNCOMMITTED": 1, "READ COMMITTED": 2, "REPEATABLE READ": 3, "SERIALIZABLE": 4, "SNAPSHOT": 5}
    columns: list[tuple[str, SqlType]] = [
        ("session_id", INT), ("host_name", SYSNAME), ("program_name", SYSNAME), ("login_name", SYSNAME), ("status",
        character("nvarchar", 30)),
        ("is_user_process", BIT), ("transaction_isolation_level", SqlType("smallint")), ("open_transaction_count", INT),
        ("database_id", SqlType("smallint")), ("row_count", BIGINT), ("original_login_name", SYSNAME),
    ]  # fmt: skip
    numbers = session.backend.database_ids()
    rows = []
    for other in session.backend.sessions():
        name = other.login.principal or other.login.user or ""
        status = "running" if other is session else "sleeping"
        level = levels[other.settings.isolation]
        rows.append(
            (
                other.number,
                other.login.host,
                other.login.application,
                name,
                status,
                True,
                level,
                other.transaction.count,
                numbers[other.database],
                other.row_count,
                name,
            )
        )
    return values_relation("dm_exec_sessions", columns, rows)


def _partitions(session: DuckSession, database: str) -> Relation:
    columns: list[tuple[str, SqlType]] = [
        ("partition_id", BIGINT), ("object_id", INT), ("index_id", INT), ("partition_number", INT), ("rows", BIGINT),
    ]  # fmt: skip
    return _counts(session, database, "partitions", columns, "rows")


def _partition_stats(session: DuckSession, database: str) -> Relation:
    columns: list[tuple[str, SqlType]] = [
        ("partition_id", BIGINT), ("object_id", INT), ("index_id", INT), ("partition_number", INT), ("row_count",
        BIGINT),
    ]  # fmt: skip
    return _counts(session, database, "dm_db_partition_stats", columns, "row_count")


def _counts(session: DuckSession, database: str, name: str, columns: list[tuple[str, SqlType]], count: str) -> Relation:
    """One row for each table, counted now: SQL Server's own number is kept up to date in the same way."""
    catalog = Catalog(session.connection, database)
    tables = catalog.rows(
        "SELECT o.object_id, s.name, o.name, (SELECT count(*) FROM lab.indexes AS i WHERE i.object_id = o.object_id) "
        "FROM lab.objects AS o JOIN lab.schemas AS s ON s.schema_id = o.schema_id WHERE o.type = 'U'"
    )
    parts = [
        f"SELECT {object_id}::BIGINT * 65536 AS partition_id, {object_id}::INTEGER AS object_id, "
        f"{min(indexes, 1)}::INTEGER AS index_id, "
        f"1::INTEGER AS partition_number, count(*) AS {count} FROM {quote(database)}.{quote(schema)}.{quote(table)}"
        for object_id, schema, table, indexes in tables
    ]
    if not parts:
        return values_relation(name, columns, [])
    sources = tuple(SourceColumn(column, type_) for column, type_ in columns)
    return Relation(f"({' UNION ALL '.join(parts)})", sources, name)


DYNAMIC_VIEWS: Final[dict[str, Callable[[DuckSession, str], Relation]]] = {
    "databases": _databases,
    "dm_exec_connections": _connections,
    "dm_exec_sessions": _sessions,
    "partitions": _partitions,
    "dm_db_partition_stats": _partition_stats,
}
