"""The SQL Server double with lineitem in it, in a process of its own, answering whole scans from memory.

What a client asks of the catalog, and small queries, the double's engine answers from tables that hold the same rows.
A SELECT of all columns in their order, with or without a range of the slice column, is answered with TDS rows that
were encoded beforehand, so that the server costs as little as a server can.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from datakit_lab.sqlserver.child import SqlServerProcess

from benchmarks import lineitem

if TYPE_CHECKING:
    from datakit_lab.sqlserver.prepared import PreparedResults
    from datakit_lab.sqlserver.tsql import DuckBackend

DATABASE: Final = "Tpch"
_USER: Final = "bench"
_MAPPED_ROWS: Final = 2_000_000
_CONVERTED: Final = re.compile(r"convert\(bigint, (-?\d+)\)")
_QUERY: Final = re.compile(r"select (?P<columns>.+?) from (?P<table>[\w.]+)(?: as \w+)?(?: where (?P<where>.+?))?;?")
_CONDITIONS: Final = re.compile(
    rf"{lineitem.SLICE_COLUMN} (>=|<|>|<=) -?\d+( and {lineitem.SLICE_COLUMN} (>=|<|>|<=) -?\d+)?"
)


class Double:
    """The running double.

    :param tables: table → rows of it.
    :param scratch: folder for what is too large to keep in memory.
    :ivar password: of the SQL login; new in every run.
    """

    host: Final = "127.0.0.1"
    database: Final = DATABASE
    user: Final = _USER

    def __init__(self, tables: Mapping[str, int], scratch: Path) -> None:
        self.tables = dict(tables)
        self.password = secrets.token_urlsafe(12)
        arguments = {"tables": self.tables, "password": self.password, "scratch": str(scratch)}
        self._process = SqlServerProcess("benchmarks.server:factory", arguments)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._process.port

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()


def factory(tables: dict[str, int], password: str, scratch: str) -> tuple[DuckBackend, PreparedResults]:
    """Make what the double serves; called in its process."""
    from datakit_lab.sqlserver.backend import ResultColumn
    from datakit_lab.sqlserver.prepared import PreparedResult, PreparedResults
    from datakit_lab.sqlserver.tsql import ColumnSpec, DuckBackend, Principal, TableSpec

    backend = DuckBackend(logins={_USER: Principal(password=password, read_only=True)})
    backend.create_database(DATABASE)
    prepared = PreparedResults()
    columns = tuple(ColumnSpec(name, type_, nullable=False) for name, type_ in lineitem.COLUMNS.items())
    described = [ResultColumn(column.name, column.sql_type(), nullable=False) for column in columns]
    for table, rows in tables.items():
        stored = backend.create_table(DATABASE, TableSpec("dbo", table, columns))
        with backend.cursor() as cursor:
            file = str(lineitem.parquet(rows))
            cursor.execute(f"INSERT INTO {stored.sql} SELECT * FROM read_parquet(?) LIMIT ?", [file, rows])
        result = PreparedResult.encode(
            described,
            lineitem.batches(rows),
            slice_column=lineitem.SLICE_COLUMN,
            folder=Path(scratch) if rows > _MAPPED_ROWS else None,
        )
        prepared.add(whole_scan_of(table), result)
    return backend, prepared


def whole_scan_of(table: str) -> Callable[[str], bool]:
    """Return what tells whether a text selects all columns of ``dbo.table``, in their order, and at most a range."""

    def matches(sql: str) -> bool:
        plain = " ".join(re.sub(r'[][";]', "", sql).lower().split())
        query = _QUERY.fullmatch(plain)
        if query is None or query["table"] not in (f"dbo.{table}", f"{DATABASE.lower()}.dbo.{table}"):
            return False
        names = [re.sub(r"^(\w+\.)*(\w+)( as \2)?$", r"\2", item.strip()) for item in query["columns"].split(",")]
        if names not in (["*"], list(lineitem.COLUMNS)):
            return False
        return query["where"] is None or bool(_CONDITIONS.fullmatch(_CONVERTED.sub(r"\1", query["where"])))

    return matches
