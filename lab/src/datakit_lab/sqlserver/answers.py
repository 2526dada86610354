"""From what a session answers to the tokens of the wire, lazily and with counts that drivers rely on."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from datakit_lab.sqlserver import tokens
from datakit_lab.sqlserver.backend import (
    Answer,
    DatabaseChanged,
    Info,
    Parameter,
    ResultColumn,
    ResultSet,
    ReturnValue,
    RowsAffected,
    Session,
    SqlError,
    SqlType,
)
from datakit_lab.sqlserver.encoding import RowEncoder
from datakit_lab.sqlserver.faults import Fault, Faults
from datakit_lab.sqlserver.packets import Buffer
from datakit_lab.sqlserver.prepared import PreparedResults, RowRange
from datakit_lab.sqlserver.tokens import SELECT_COMMAND, Done, DoneStatus
from datakit_lab.sqlserver.typeinfo import b_varchar, canonical, type_info, user_type

_ALIAS = re.compile(r"\bAS\s+(?:\[((?:[^\]]|\]\])+)\]|(\w+))", re.IGNORECASE)
_NULL_BITMAPS_SINCE = 0x730B0003
_NOTHING_DONE = tokens.done(Done.STATEMENT, DoneStatus.FINAL)


class Dropped(Exception):
    """A fault says that the connection drops here."""


class Run:
    """One batch (or the statement of one call) on its way to the client.

    :param kind: DONE for a batch, DONEINPROC within a procedure.
    :ivar outputs: output parameters, which the wire sends after the procedure's status.
    """

    def __init__(
        self,
        session: Session,
        sql: str,
        parameters: Sequence[Parameter],
        *,
        kind: Done,
        prepared: PreparedResults,
        faults: Faults,
        cancelled: threading.Event,
        tds_version: int,
    ) -> None:
        self.outputs: list[ReturnValue] = []
        self._session = session
        self._sql = sql
        self._parameters = parameters
        self._kind = kind
        self._prepared = prepared
        self._faults = faults
        self._waiting: list[Fault] = []
        self._cancelled = cancelled
        self._null_bitmaps = tds_version >= _NULL_BITMAPS_SINCE
        self._rows = 0

    def tokens(self) -> Iterator[Buffer]:
        """Yield tokens in order. A statement's DONE waits until it is known whether more follows.

        :raises SqlError: from the session; what was yielded before stays valid, and every DONE of it is closed.
        :raises Dropped: a fault.
        """
        self._waiting = list(self._faults.take("query", self._sql))
        held: bytes | None = None
        try:
            self._strike()
            answers = self._answers()
            while True:
                try:
                    answer = next(answers, None)
                except SqlError:
                    if held:
                        yield held
                    raise
                if answer is None:
                    break
                if held:
                    yield held
                    held = None
                count, command = None, 0
                if isinstance(answer, RowRange | ResultSet):
                    before = self._rows
                    yield from (
                        self._prepared_rows(answer) if isinstance(answer, RowRange) else self._result_rows(answer)
                    )
                    count, command = self._rows - before, SELECT_COMMAND
                elif isinstance(answer, RowsAffected):
                    count = answer.count
                else:
                    yield from self._message(answer)
                    continue
                if count is not None:
                    self._session.row_count = count
                held = self._done(count, command)
            if self._kind is Done.STATEMENT:
                # nothing follows, so the last DONE loses its MORE
                yield bytes([held[0], held[1] & ~DoneStatus.MORE]) + held[2:] if held else _NOTHING_DONE
            elif held:
                yield held
        finally:
            self._faults.give_back(self._waiting)

    def _answers(self) -> Iterator[Answer | RowRange]:
        try:
            found = self._prepared.find(self._sql, self._parameters)
        except ValueError as reason:
            raise SqlError(8114, str(reason)) from reason
        if found is None:
            yield from self._session.execute(self._sql, self._parameters)
            return
        rows, rest = found
        yield rows
        if rest.strip():
            yield _row_count(rows.rows, rest)

    def _done(self, count: int | None, command: int) -> bytes:
        status = DoneStatus.MORE if count is None else DoneStatus.MORE | DoneStatus.COUNT
        return tokens.done(self._kind, status, count or 0, command)

    def _message(self, answer: Answer) -> Iterator[bytes]:
        if isinstance(answer, Info):
            yield tokens.info(answer.number, answer.text, severity=answer.severity, state=answer.state)
        elif isinstance(answer, DatabaseChanged):
            yield tokens.environment_text(tokens.Change.DATABASE, answer.after, answer.before)
            yield tokens.info(5701, f"Changed database context to '{answer.after}'.", state=2)
        elif isinstance(answer, ReturnValue):
            self.outputs.append(answer)

    def _result_rows(self, result: ResultSet) -> Iterator[Buffer]:
        try:
            yield tokens.column_metadata(result.columns)
        except ValueError as reason:
            raise SqlError(8180, str(reason)) from reason
        encoder = RowEncoder(result.columns, null_bitmaps=self._null_bitmaps)
        for batch in result.batches:
            rest: pa.RecordBatch = batch
            while rest.num_rows:
                part = rest.slice(0, self._allowed(rest.num_rows))
                for block in encoder.blocks(part):
                    yield block.data
                self._rows += part.num_rows
                rest = rest.slice(part.num_rows)
                self._strike()

    def _prepared_rows(self, rows: RowRange) -> Iterator[Buffer]:
        yield rows.result.metadata
        while rows.rows:
            part = replace(rows, stop=rows.start + self._allowed(rows.rows))
            yield from part.chunks()
            self._rows += part.rows
            rows = replace(rows, start=part.stop)
            self._strike()

    def _allowed(self, rows: int) -> int:
        """Return how many of the next rows may go out before a fault strikes."""
        return min(rows, self._waiting[0].after_rows - self._rows) if self._waiting else rows

    def _strike(self) -> None:
        while self._waiting and self._waiting[0].after_rows <= self._rows:
            fault = self._waiting.pop(0)
            if fault.action == "drop":
                raise Dropped
            if fault.action == "stall":
                self._cancelled.wait(fault.seconds)
            else:
                raise fault.error(database=self._session.database)


def return_value(ordinal: int, value: ReturnValue) -> bytes:
    """Return a RETURNVALUE token.

    :raises SqlError: the value does not fit its type.
    """
    sql_type = canonical(value.type)
    name = value.name if value.name.startswith("@") or not value.name else f"@{value.name}"
    column = ResultColumn(name, sql_type)
    array = pa.array([value.value if not hasattr(value.value, "bytes_le") else str(value.value)])
    batch = pa.RecordBatch.from_arrays([array], names=["value"])
    (block,) = RowEncoder([column], null_bitmaps=False).blocks(batch)
    return (
        b"\xac"
        + ordinal.to_bytes(2, "little")
        + b_varchar(name)
        + b"\x01"
        + user_type(sql_type).to_bytes(4, "little")
        + b"\x00\x00"
        + type_info(sql_type)
        + block.data[1:].tobytes()  # without the ROW token
    )


def _row_count(rows: int, sql: str) -> ResultSet:
    """Answer ``SELECT ROWCOUNT_BIG() [AS name]`` after prepared rows: the session did not run them, so cannot know."""
    alias = _ALIAS.search(sql)
    name = alias[1].replace("]]", "]") if alias and alias[1] else alias[2] if alias else ""
    column = ResultColumn(name, SqlType("bigint" if "_BIG" in sql.upper() else "int"), nullable=False)
    return ResultSet((column,), iter([pa.record_batch([pa.array([rows], pa.int64())], names=["rows"])]))
