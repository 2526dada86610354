"""The seam of the double: the wire (TDS) on one side, whoever answers queries on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class SqlType:
    """A T-SQL type as the wire sends it.

    :ivar name: lower case, as in ``sys.types``: ``int``, ``nvarchar``, ``datetime2`` …
    :ivar length: characters for (n)(var)char, bytes for (var)binary, -1 for (max), None where it means nothing.
    :ivar collation: SQL Server's name of it, for character types.
    """

    name: str
    length: int | None = None
    precision: int | None = None
    scale: int | None = None
    collation: str | None = None


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """One column of a result set."""

    name: str
    type: SqlType
    nullable: bool = True
    identity: bool = False
    computed: bool = False


@dataclass(frozen=True, slots=True)
class ResultSet:
    """Rows for the client. ``batches`` hold one array per column, of any Arrow type the wire can encode for it.

    The wire accepts, beside the obvious type: int64 ticks of 100 ns since 0001-01-01 for datetime2, int64 ticks of
    100 ns since midnight for time, struct<ticks: int64 (UTC), offset: int16 (minutes)> for datetimeoffset, binary
    (raw UTF-16LE) for nvarchar and nchar, 16 raw bytes or text for uniqueidentifier, text for xml.
    """

    columns: tuple[ResultColumn, ...]
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class RowsAffected:
    """A statement without a result set is done; ``count`` None sends DONE without a count (SET, DDL, NOCOUNT)."""

    count: int | None


@dataclass(frozen=True, slots=True)
class Info:
    """A message that is no error (PRINT, USE)."""

    number: int
    text: str
    severity: int = 0
    state: int = 1


@dataclass(frozen=True, slots=True)
class DatabaseChanged:
    """USE: the wire sends ENVCHANGE."""

    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ReturnValue:
    """An output parameter of an RPC."""

    name: str
    type: SqlType
    value: Any


Answer = ResultSet | RowsAffected | Info | DatabaseChanged | ReturnValue


class SqlError(Exception):
    """An ERROR token: SQL Server's number, severity (11-25; 20 and more end the connection), state and text."""

    def __init__(self, number: int, text: str, *, severity: int = 16, state: int = 1, line: int = 1) -> None:
        super().__init__(text)
        self.number = number
        self.text = text
        self.severity = severity
        self.state = state
        self.line = line


@dataclass(frozen=True, slots=True)
class Login:
    """Who connects. ``principal`` for Kerberos (``user@REALM``), ``user`` and ``password`` for a SQL login."""

    principal: str | None
    user: str | None
    password: str | None
    database: str | None
    application: str
    host: str
    client_address: str
    read_only_intent: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of sp_executesql and its kind, already decoded."""

    name: str
    type: SqlType
    value: Any
    output: bool = False


class Session(Protocol):
    """One connection's state. The wire calls it from one worker thread at a time, ``cancel`` from any.

    :ivar row_count: the rows of the statement before, as ``@@ROWCOUNT`` says; the wire sets it after every answer
        with a count, before it asks for the next, also for results that the session did not make.
    """

    database: str
    row_count: int

    def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> Iterator[Answer]:
        """Run one batch; answers come in order, lazily.

        :raises SqlError: at any point; earlier answers stay valid.
        """

    def describe(self, sql: str, parameters: Sequence[Parameter] = ()) -> tuple[ResultColumn, ...]:
        """Return the columns of the first result set without running the batch; empty if it has none."""

    def begin(self, isolation: int) -> None:
        """Begin a transaction (TM request); ``isolation`` is TDS's byte, 0 for the current level."""

    def commit(self) -> None:
        """Commit the transaction."""

    def rollback(self) -> None:
        """Roll the transaction back."""

    def cancel(self) -> None:
        """Attention: stop what runs."""

    def close(self) -> None:
        """The connection is gone."""


class Backend(Protocol):
    """Whoever answers queries."""

    def open_session(self, login: Login) -> Session:
        """Check the login and its database.

        :raises SqlError: 18456 login failed, 4060 database missing, 916 no right to it.
        """
