"""A backend for the wire's tests: it answers texts with Arrow tables, and remembers what it was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from datakit_lab.sqlserver.backend import (
    Answer,
    Login,
    Parameter,
    ResultColumn,
    ResultSet,
    RowsAffected,
    SqlError,
    SqlType,
)

PASSWORD = "Pässw0rd;{}€"


@dataclass
class Table:
    columns: tuple[ResultColumn, ...]
    batches: Callable[[], Iterator[pa.RecordBatch]]

    @staticmethod
    def of(columns: dict[str, tuple[SqlType, pa.Array]], *, nullable: bool = True) -> Table:
        described = tuple(ResultColumn(name, kind, nullable=nullable) for name, (kind, _) in columns.items())
        batch = pa.RecordBatch.from_arrays([array for _, array in columns.values()], names=list(columns))
        return Table(described, lambda: iter([batch]))


@dataclass
class TablesBackend:
    tables: dict[str, Table] = field(default_factory=dict)
    answers: dict[str, Callable[[TableSession], Iterator[Answer]]] = field(default_factory=dict)
    sessions: list[TableSession] = field(default_factory=list)

    def open_session(self, login: Login) -> TableSession:
        if login.principal is None and login.password != PASSWORD:
            raise SqlError(18456, f"Login failed for user '{login.user}'.", severity=14)
        if login.database == "missing":
            raise SqlError(4060, 'Cannot open database "missing" requested by the login.', severity=11)
        session = TableSession(self, login)
        self.sessions.append(session)
        return session


class TableSession:
    def __init__(self, backend: TablesBackend, login: Login) -> None:
        self.backend = backend
        self.login = login
        self.database = login.database or "master"
        self.row_count = 0
        self.asked: list[str] = []
        self.parameters: list[tuple[Parameter, ...]] = []
        self.transactions: list[str] = []
        self.cancelled = threading.Event()
        self.closed = False

    def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> Iterator[Answer]:
        self.asked.append(sql)
        self.parameters.append(tuple(parameters))
        self.cancelled.clear()
        text = sql.strip().rstrip(";")
        if text in self.backend.answers:
            yield from self.backend.answers[text](self)
        elif text in self.backend.tables:
            table = self.backend.tables[text]
            yield ResultSet(table.columns, table.batches())
        elif "ROWCOUNT" in text.upper():
            yield one(SqlType("bigint"), pa.array([self.row_count], pa.int64()))
        elif text.startswith("SELECT parameters"):
            columns = tuple(ResultColumn(p.name, p.type) for p in parameters)
            arrays = [pa.array([str(p.value) if hasattr(p.value, "bytes_le") else p.value]) for p in parameters]
            yield ResultSet(columns, iter([pa.RecordBatch.from_arrays(arrays, names=[p.name for p in parameters])]))
        elif text.upper().startswith(("SET ", "BEGIN", "COMMIT", "ROLLBACK", "IF @@", "USE ", "DECLARE")):
            yield RowsAffected(None)
        elif text == "SELECT auth":
            yield one(SqlType("nvarchar", 100), pa.array([self.login.principal or self.login.user]))
        elif text == "WAIT":
            self.cancelled.wait(30)
            raise SqlError(3617, "cancelled")
        else:
            raise SqlError(208, f"Invalid object name '{text}'.")

    def describe(self, sql: str, parameters: Sequence[Parameter] = ()) -> tuple[ResultColumn, ...]:
        table = self.backend.tables.get(sql.strip())
        return table.columns if table else ()

    def begin(self, isolation: int) -> None:
        self.transactions.append(f"begin {isolation}")

    def commit(self) -> None:
        self.transactions.append("commit")

    def rollback(self) -> None:
        self.transactions.append("rollback")

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed = True


def one(kind: SqlType, array: pa.Array, name: str = "value") -> ResultSet:
    batch = pa.RecordBatch.from_arrays([array], names=[name])
    return ResultSet((ResultColumn(name, kind),), iter([batch]))


def endless(rows: int = 1000, pause: float = 0.0) -> Table:
    """A result that never ends, to be cancelled or dropped."""

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        while True:
            yield pa.RecordBatch.from_arrays([pa.array(range(start, start + rows), pa.int64())], names=["n"])
            start += rows
            time.sleep(pause)

    return Table((ResultColumn("n", SqlType("bigint"), nullable=False),), batches)
