"""What one connection does with each request: batches, procedure calls, transactions. Runs in its worker thread."""

# ruff: noqa: ARG002 - all handlers of procedures have one signature

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from datakit_lab.sqlserver import tokens
from datakit_lab.sqlserver.answers import Dropped, Run, return_value
from datakit_lab.sqlserver.backend import (
    Parameter,
    ResultColumn,
    ResultSet,
    ReturnValue,
    Session,
    SqlError,
)
from datakit_lab.sqlserver.decoding import Reader, skip_headers
from datakit_lab.sqlserver.describe import describe_result
from datakit_lab.sqlserver.faults import Faults
from datakit_lab.sqlserver.login import Malformed
from datakit_lab.sqlserver.packets import Buffer, Message, Packet
from datakit_lab.sqlserver.prepared import PreparedResults
from datakit_lab.sqlserver.rpc import (
    INT,
    Call,
    Statement,
    Statements,
    declared_names,
    named,
    read_calls,
    text_of,
)
from datakit_lab.sqlserver.tokens import Change, Done, DoneStatus

_FAULT = re.compile(r"\s*EXEC(?:UTE)?\s+lab_fault\s+N?'(?P<text>(?:[^']|'')*)'\s*;?\s*", re.IGNORECASE)
_BEGIN, _COMMIT, _ROLLBACK, _SAVE = 5, 7, 8, 9
_FATAL_SEVERITY = 20
_DEADLOCK = 1205


@dataclass(frozen=True, slots=True)
class Shared:
    """What all connections of one server share."""

    prepared: PreparedResults
    faults: Faults


class Requests:
    """Answers one connection's requests.

    :ivar fatal: an error ended the connection; close it after what was yielded.
    """

    def __init__(self, session: Session, shared: Shared, tds_version: int, cancelled: threading.Event) -> None:
        self.session = session
        self.fatal = False
        self._shared = shared
        self._tds_version = tds_version
        self._cancelled = cancelled
        self._statements = Statements()
        self._transaction: int | None = None
        self._transactions = 0

    def reset(self, session: Session) -> bytes:
        """Go on with a fresh session (sp_reset_connection); return the token that says so."""
        self.session = session
        self._statements.clear()
        self._transaction = None
        return tokens.environment_bytes(Change.RESET, b"", b"")

    def answer(self, message: Message) -> Iterator[Buffer]:
        """Yield the tokens that answer one message.

        :raises Dropped: a fault.
        """
        kind = Done.PROCEDURE if message.kind == Packet.RPC else Done.STATEMENT
        try:
            yield from self._dispatch(message)
        except SqlError as error:
            yield from self._error(error, kind)
        except Malformed as reason:
            self.fatal = True
            text = f"The incoming TDS protocol stream is incorrect: {reason}"
            yield from self._error(SqlError(4002, text, severity=20), kind)
        except Dropped:
            raise
        except Exception as reason:  # noqa: BLE001 - a backend's bug must reach the client
            text = f"The double failed: {type(reason).__name__}: {reason}"
            yield from self._error(SqlError(50000, text, severity=17), kind)

    def _dispatch(self, message: Message) -> Iterator[Buffer]:
        if message.kind == Packet.BATCH:
            reader = Reader(message.body)
            skip_headers(reader)
            yield from self._batch(reader.rest().decode("utf-16-le", "surrogatepass"))
        elif message.kind == Packet.RPC:
            calls = read_calls(message.body)
            for i, call in enumerate(calls):
                yield from self._call(call, more=i + 1 < len(calls))
        elif message.kind == Packet.TRANSACTION:
            yield from self._manage(Reader(message.body))
        elif message.kind == Packet.BULK:
            raise SqlError(4819, "This double takes no bulk copy.")
        else:
            raise Malformed(f"a message of type {message.kind:#04x} has no place here")

    def _error(self, error: SqlError, kind: Done) -> Iterator[bytes]:
        yield tokens.error(error.number, error.text, severity=error.severity, state=error.state, line=error.line)
        if error.number == _DEADLOCK and self._transaction is not None:
            self.session.rollback()
            yield self._transaction_ended(Change.ROLLBACK)
        yield tokens.done(kind, DoneStatus.ERROR)
        self.fatal = self.fatal or error.severity >= _FATAL_SEVERITY

    def _run(self, sql: str, parameters: Sequence[Parameter], kind: Done) -> Run:
        return Run(
            self.session,
            sql,
            parameters,
            kind=kind,
            prepared=self._shared.prepared,
            faults=self._shared.faults,
            cancelled=self._cancelled,
            tds_version=self._tds_version,
        )

    def _batch(self, sql: str) -> Iterator[Buffer]:
        control = _FAULT.fullmatch(sql)
        if control:
            self._set_fault(control["text"].replace("''", "'"))
            yield tokens.done(Done.STATEMENT, DoneStatus.FINAL)
            return
        yield from self._run(sql, (), Done.STATEMENT).tokens()

    def _set_fault(self, text: str) -> None:
        try:
            self._shared.faults.command(text)
        except ValueError as reason:
            raise SqlError(50000, str(reason)) from reason

    # -- procedures ------------------------------------------------------------------------------------------------

    def _call(self, call: Call, *, more: bool) -> Iterator[Buffer]:
        name = call.procedure.strip("[]").rpartition(".")[2].lower()
        handlers = {
            "sp_executesql": self._execute_sql,
            "sp_prepare": self._prepare,
            "sp_prepexec": self._prepare_and_execute,
            "sp_execute": self._execute_prepared,
            "sp_unprepare": self._unprepare,
            "sp_describe_first_result_set": self._describe,
            "lab_fault": self._lab_fault,
        }
        outputs: list[tuple[int, ReturnValue]] = []
        if name in handlers:
            yield from handlers[name](call, outputs)
        else:
            yield from self._other(call, outputs)
        yield tokens.return_status(0)
        for ordinal, value in outputs:
            yield return_value(ordinal, value)
        yield tokens.done(Done.PROCEDURE, DoneStatus.MORE if more else DoneStatus.FINAL)

    def _statement(
        self, sql: str, values: Sequence[Parameter], offset: int, outputs: list[tuple[int, ReturnValue]]
    ) -> Iterator[Buffer]:
        """Run a statement of a procedure; its outputs take the place of the parameters they were given as."""
        run = self._run(sql, values, Done.IN_PROCEDURE)
        yield from run.tokens()
        places = {value.name.lower(): i for i, value in enumerate(values)}
        outputs += [(offset + places.get(output.name.lower(), 0), output) for output in run.outputs]

    def _execute_sql(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        sql = text_of(call.parameters, 0, call.procedure)
        declared = declared_names(text_of(call.parameters, 1, call.procedure)) if len(call.parameters) > 1 else ()
        yield from self._statement(sql, named(call.parameters[2:], declared), 2, outputs)

    def _prepare(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        statement = self._keep(call, outputs)
        columns = self._columns(statement.sql, tuple(Parameter(name, INT, None) for name in statement.declared))
        if columns:
            yield tokens.column_metadata(columns)
            yield tokens.done(Done.IN_PROCEDURE, DoneStatus.MORE)

    def _prepare_and_execute(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        statement = self._keep(call, outputs)
        yield from self._statement(statement.sql, named(call.parameters[3:], statement.declared), 3, outputs)

    def _keep(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Statement:
        declared = declared_names(text_of(call.parameters, 1, call.procedure))
        statement = Statement(text_of(call.parameters, 2, call.procedure), declared)
        outputs.append((0, ReturnValue(call.parameters[0].name, INT, self._statements.add(statement))))
        return statement

    def _execute_prepared(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        statement = self._statements.get(call.parameters[0].value if call.parameters else None)
        yield from self._statement(statement.sql, named(call.parameters[1:], statement.declared), 1, outputs)

    def _unprepare(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        self._statements.remove(call.parameters[0].value if call.parameters else None)
        return iter(())

    def _describe(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        sql = text_of(call.parameters, 0, call.procedure)
        names = declared_names(text_of(call.parameters, 1, call.procedure)) if len(call.parameters) > 1 else ()
        result = describe_result(self._columns(sql, tuple(Parameter(name, INT, None) for name in names)))
        yield from self._made(result)

    def _lab_fault(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        self._set_fault(text_of(call.parameters, 0, call.procedure))
        return iter(())

    def _other(self, call: Call, outputs: list[tuple[int, ReturnValue]]) -> Iterator[Buffer]:
        """Hand any other procedure to the backend as ``EXEC`` with its parameters by name."""
        values = named(call.parameters, [f"@P{i}" for i in range(1, len(call.parameters) + 1)])
        given = [
            (f"{value.name}={value.name}" if original.name else value.name) + (" OUTPUT" if value.output else "")
            for original, value in zip(call.parameters, values, strict=True)
        ]
        yield from self._statement(f"EXEC {call.procedure} {', '.join(given)}".rstrip(), values, 0, outputs)

    def _columns(self, sql: str, parameters: tuple[Parameter, ...]) -> tuple[ResultColumn, ...]:
        return self._shared.prepared.describe(sql) or self.session.describe(sql, parameters)

    def _made(self, result: ResultSet) -> Iterator[Buffer]:
        from datakit_lab.sqlserver.encoding import RowEncoder

        yield tokens.column_metadata(result.columns)
        rows = 0
        for batch in result.batches:
            for block in RowEncoder(result.columns).blocks(batch):
                rows += block.rows
                yield block.data
        yield tokens.done(Done.IN_PROCEDURE, DoneStatus.MORE | DoneStatus.COUNT, rows, tokens.SELECT_COMMAND)

    # -- transactions ----------------------------------------------------------------------------------------------

    def _manage(self, reader: Reader) -> Iterator[Buffer]:
        skip_headers(reader)
        kind = reader.number(2)
        if kind == _BEGIN:
            yield self._begin(reader.number(1))
        elif kind in (_COMMIT, _ROLLBACK):
            reader.b_varchar()
            flags = reader.number(1) if not reader.exhausted else 0
            if kind == _COMMIT:
                self.session.commit()
                yield self._transaction_ended(Change.COMMIT)
            else:
                self.session.rollback()
                yield self._transaction_ended(Change.ROLLBACK)
            if flags & 1:
                yield self._begin(reader.number(1))
        elif kind == _SAVE:
            yield from self._run(f"SAVE TRANSACTION [{reader.b_varchar()}]", (), Done.STATEMENT).tokens()
            return
        else:
            raise SqlError(8180, f"Transaction manager request {kind} is not served by this double.")
        yield tokens.done(Done.STATEMENT, DoneStatus.FINAL)

    def _begin(self, isolation: int) -> bytes:
        self.session.begin(isolation)
        self._transactions += 1
        self._transaction = self._transactions
        return tokens.environment_bytes(Change.BEGIN, struct.pack("<Q", self._transaction), b"")

    def _transaction_ended(self, change: Change) -> bytes:
        ended, self._transaction = self._transaction, None
        return tokens.environment_bytes(change, b"", struct.pack("<Q", ended or 0))
