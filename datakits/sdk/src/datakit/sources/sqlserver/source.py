"""The SQL Server source: describe, plan and read."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from datakit.errors import ConfigurationError, ContractMismatch, InvalidCursor, InvalidFile, InvalidKey, ValueRefused
from datakit.model.contract import Contract
from datakit.model.environment import SourceSystem
from datakit.model.load import ReadPlan, Slice, Window
from datakit.model.manifest import Dataset, Isolation, LoadMode
from datakit.sources.notation import can_slice, cut
from datakit.sources.sqlserver.arrays import Converter, guard_expression
from datakit.sources.sqlserver.catalog import LiveRelation, read_query, read_table
from datakit.sources.sqlserver.driver import Connection, Connector
from datakit.sources.sqlserver.names import ObjectName, quote
from datakit.sources.sqlserver.stream import SqlServerStream
from datakit.sources.sqlserver.type_table import Field, fields_of
from datakit.sources.sqlserver.values import OrderedColumn
from datakit.sources.sqlserver.windows import conditions, plan_window

_LEVELS: Final = {
    Isolation.SNAPSHOT: "SNAPSHOT",
    Isolation.READ_COMMITTED: "READ COMMITTED",
    Isolation.REPEATABLE_READ: "REPEATABLE READ",
    Isolation.SERIALIZABLE: "SERIALIZABLE",
    Isolation.READ_UNCOMMITTED: "READ UNCOMMITTED",
}


class SqlServerSource:
    """A :class:`datakit.sources.Source`. One connection answers questions about the catalog; each stream has its own.

    :param where: the file and key that ``system`` comes from, for errors.
    :param base: folder that ``sql`` paths are relative to.
    """

    def __init__(self, system: SourceSystem, *, isolation: Isolation, where: str, base: str | None) -> None:
        self._connector = Connector(system, where=where)
        self._isolation = isolation
        self._base = Path(base or ".")
        self._lock = threading.Lock()
        self._catalog: Connection | None = None
        self._level: str | None = None
        self._known: dict[str, LiveRelation] = {}
        self._streams: set[SqlServerStream] = set()

    def describe(self, name: str, dataset: Dataset) -> Contract:
        """Implement :meth:`datakit.sources.Source.describe`.

        Hidden columns (a temporal table's period) are left out, unless the cursor, the key or the slices name them.
        """
        live = self._live(dataset)
        asked = {*dataset.key, *_columns_of(dataset)}
        fields = _fields(live, dataset, subject=_subject(dataset))
        kept = [field for field in fields if not _is_hidden(live, field) or field.column.name in asked]
        if not kept:
            raise ContractMismatch("it has no column", subject=_subject(dataset))
        key = dataset.key or live.key
        _check_key(key, kept, subject=_subject(dataset))
        return Contract(dataset=name, key=key, columns=tuple(field.column for field in kept))

    def plan(
        self,
        dataset: Dataset,
        contract: Contract,  # noqa: ARG002  # the catalog is newer, and knows the exact types
        *,
        mode: LoadMode,
        since: str | None,
        slices: int | None,
    ) -> ReadPlan:
        """Implement :meth:`datakit.sources.Source.plan`.

        Slices have equal ranges between the lowest and the highest value of their column.
        """
        live = self._known.get(_subject(dataset)) or self._live(dataset)
        window, empty = None, False
        if dataset.cursor is not None:
            with self._lock:
                window, empty = plan_window(
                    self._connection(), live, dataset.cursor, mode, since, where=_subject(dataset)
                )
        whole = window is None or window.since is None
        cuts: tuple[Slice, ...] = (Slice(),)
        if dataset.slices is not None and not empty:
            cuts = self._cut(dataset, live, window, slices)
        return ReadPlan(window, cuts, estimated_rows=live.rows if whole else None, empty=empty)

    def read(self, dataset: Dataset, contract: Contract, window: Window | None, slice_: Slice) -> SqlServerStream:
        """Implement :meth:`datakit.sources.Source.read`."""
        subject = _subject(dataset)
        live = self._known.get(subject) or self._live(dataset)
        known = {field.column.name: field for field in _fields(live, dataset, subject=subject)}
        if missing := [column.name for column in contract.columns if column.name not in known]:
            raise ContractMismatch(
                f"the contract has the column {missing[0]!r}, which the source has not",
                subject=subject,
                cause="it was renamed or dropped after the contract was written",
                fix="see what drifted: datakit contract check",
            )
        where = _conditions(live, window, slice_, subject=subject)
        fields = self._narrow(live, [known[column.name] for column in contract.columns], where, subject=subject)
        guards = tuple(guard for field in fields for guard in field.guards)
        expressions = [f"{field.expression} AS {quote(field.column.name)}" for field in fields]
        if guards:
            expressions.append(f"{guard_expression(guards)} AS {quote(_free_name(known))}")
        sql = f"{live.relation.select(expressions, where)};\nSELECT ROWCOUNT_BIG() AS [rows];"
        converter = Converter(fields, guards, contract.key, contract.arrow_schema(), subject)

        def verify(field: Field) -> None:
            self._refuse_half_pairs(live, field, fields, contract.key, where, subject)

        stream = SqlServerStream(self._open_reader, sql, converter, verify, self._forget)
        with self._lock:
            self._streams.add(stream)
        return stream

    def close(self) -> None:
        """Implement :meth:`datakit.sources.Source.close`."""
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.close()
        with self._lock:
            connection, self._catalog = self._catalog, None
        if connection is not None:
            connection.close()

    def check(self) -> None:
        """Connect, or say why not.

        :raises DatakitError: as :func:`datakit.sources.open_source` says.
        """
        with self._lock:
            self._connection()

    def _forget(self, stream: SqlServerStream) -> None:
        with self._lock:
            self._streams.discard(stream)

    def _connection(self) -> Connection:
        if self._catalog is None:
            self._catalog = self._connector.connect()
        return self._catalog

    def _open_reader(self, stop: threading.Event | None = None) -> Connection:
        connection = self._connector.connect(stop=stop)
        try:
            connection.rows(f"SET TRANSACTION ISOLATION LEVEL {self._isolation_level(connection)}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _isolation_level(self, connection: Connection) -> str:
        if self._isolation is not Isolation.AUTO:
            return _LEVELS[self._isolation]
        if self._level is None:
            rows = connection.rows("SELECT d.snapshot_isolation_state FROM sys.databases AS d WHERE d.name = DB_NAME()")
            self._level = "SNAPSHOT" if rows and rows[0][0] == 1 else "READ COMMITTED"
        return self._level

    def _live(self, dataset: Dataset) -> LiveRelation:
        with self._lock:
            connection = self._connection()
            if dataset.table is not None:
                live = read_table(connection, ObjectName.parse(dataset.table))
            else:
                live = read_query(connection, self._read_sql(dataset), subject=_subject(dataset))
            # A run describes first and then reads many slices: they need not ask the catalog again.
            self._known[_subject(dataset)] = live
            return live

    def _read_sql(self, dataset: Dataset) -> str:
        path = self._base / str(dataset.sql)
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidFile(
                f"the query cannot be read: {getattr(error, 'strerror', None) or error}",
                subject=str(path),
                fix="sql is a path relative to datakit.yaml",
            ) from None

    def _cut(
        self, dataset: Dataset, live: LiveRelation, window: Window | None, wanted: int | None
    ) -> tuple[Slice, ...]:
        if dataset.slices is None:
            raise AssertionError("called only for a dataset with slices")
        subject = _subject(dataset)
        column = _slice_column(live, dataset.slices.column, subject=subject)
        where = [] if window is None else conditions(window, _ordered(live, window.column, subject))
        expressions = [column.as_text(f"{function}({column.quoted})") for function in ("MIN", "MAX")]
        if wanted is None:
            expressions.append("COUNT_BIG(*)")
        query = live.relation.select(expressions, where)
        with self._lock:
            row = self._connection().rows(query, subject=subject)[0]
        count = wanted if wanted is not None else -(-int(row[2]) // dataset.slices.rows)
        if row[0] is None or count <= 1:
            return (Slice(),)
        return cut(dataset.slices.column, column.type, str(row[0]), str(row[1]), count)

    def _narrow(
        self, live: LiveRelation, fields: Sequence[Field], where: Sequence[str], *, subject: str
    ) -> tuple[Field, ...]:
        """Read (max) columns as bounded ones where this slice holds only short values.

        The driver fetches a (max) value in pieces of its own, one call each, and keeps Python's lock while it waits
        for the network; bounded columns it fetches by the block. Looking for the longest value costs the server one
        more pass over the slice, so it is done for tables, and not for views and queries, which may be costly to run.
        """
        wide = [field for field in fields if field.can_narrow]
        if not wide or live.rows is None:
            return tuple(fields)
        longest = [f"MAX(DATALENGTH({field.expression}))" for field in wide]
        with self._lock:
            row = self._connection().rows(live.relation.select(longest, where), subject=subject)[0]
        bounded = {field.column.name: field.narrowed(int(size or 0)) for field, size in zip(wide, row, strict=True)}
        return tuple(bounded.get(field.column.name, field) for field in fields)

    def _refuse_half_pairs(
        self,
        live: LiveRelation,
        field: Field,
        fields: Sequence[Field],
        key: Sequence[str],
        where: Sequence[str],
        subject: str,
    ) -> None:
        """Look at the server's own bytes of a column in which U+FFFD arrived: is one of them half a surrogate pair?

        The driver replaces such a half by U+FFFD without a word. Most often the replacement character is really
        what is stored, so the column is read again, as bytes, only then.

        :raises ValueRefused: names the column and the row.
        """
        keys = [other for other in fields if other.column.name in key]
        expressions = [f"CONVERT(varbinary(max), {field.expression})", *(other.expression for other in keys)]
        connection = self._open_reader()
        try:
            for raw, *values in connection.iterate(live.relation.select(expressions, where), subject=subject):
                if raw is not None and _has_half_pair(bytes(raw)):
                    names = ", ".join(
                        f"{other.column.name}={value!r}" for other, value in zip(keys, values, strict=True)
                    )
                    raise ValueRefused(
                        f"column {field.column.name!r} holds half a surrogate pair, which is no Unicode text; row "
                        f"{names or '(the dataset has no key)'}",
                        subject=subject,
                        cause="the text was cut in the middle of a character outside the basic plane, such as an emoji",
                        fix="correct the row, or read with sql: and CONVERT(varbinary(max), …) to keep the bytes",
                    )
        finally:
            connection.close()


def _has_half_pair(raw: bytes) -> bool:
    try:
        raw.decode("utf-16-le")
    except UnicodeDecodeError:
        return True
    return False


def _subject(dataset: Dataset) -> str:
    return dataset.table or str(dataset.sql)


def _columns_of(dataset: Dataset) -> list[str]:
    return [part.column for part in (dataset.cursor, dataset.slices) if part is not None]


def _fields(live: LiveRelation, dataset: Dataset, *, subject: str) -> list[Field]:
    fields = [
        field
        for column in live.columns
        for field in fields_of(
            column, sub_microsecond=dataset.sub_microsecond, keep_offset=dataset.keep_offset, where=subject
        )
    ]
    names = [field.column.name for field in fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"two columns are called {twice[0]!r}",
            subject=subject,
            cause="a query selects it twice, or a second column (NAME_offset, NAME_ns) meets one of the source",
            fix="rename one with sql: … AS",
        )
    return fields


def _is_hidden(live: LiveRelation, field: Field) -> bool:
    column = live.column(field.column.name)
    return column is not None and column.hidden


def _check_key(key: Sequence[str], fields: Sequence[Field], *, subject: str) -> None:
    known = {field.column.name: field.column for field in fields}
    for name in key:
        if name not in known:
            raise InvalidKey(
                f"the key names {name!r}, which is not a column",
                subject=subject,
                fix=f"choose from: {', '.join(known)}",
            )
        if known[name].nullable:
            raise InvalidKey(
                f"the key column {name!r} may be NULL",
                subject=subject,
                fix="choose NOT NULL columns, or read with sql: and ISNULL(column, …) it there",
            )


def _ordered(live: LiveRelation, name: str, subject: str) -> OrderedColumn:
    column = live.column(name)
    if column is None:
        raise InvalidCursor("the column of the plan does not exist any more", subject=f"{subject}.{name}")
    return OrderedColumn.of(column, where=subject)


def _slice_column(live: LiveRelation, name: str, *, subject: str) -> OrderedColumn:
    column = _ordered(live, name, subject)
    if not can_slice(column.type):
        raise InvalidKey(
            f"a {column.column.declared} column cannot be cut into slices",
            subject=f"{subject}.{name}",
            fix="choose an integer or time column",
        )
    if column.column.nullable:
        raise InvalidKey(
            "the slices' column may be NULL, and such a row would be in no slice",
            subject=f"{subject}.{name}",
            fix="choose a NOT NULL column, best the leading column of the key",
        )
    return column


def _conditions(live: LiveRelation, window: Window | None, slice_: Slice, *, subject: str) -> list[str]:
    found = [] if window is None else conditions(window, _ordered(live, window.column, subject))
    if slice_.column is not None:
        column = _ordered(live, slice_.column, subject)
        if slice_.lower is not None:
            found.append(f"{column.quoted} >= {column.literal(slice_.lower)}")
        if slice_.upper is not None:
            found.append(f"{column.quoted} < {column.literal(slice_.upper)}")
    return found


def _free_name(known: dict[str, Any]) -> str:
    name = "_dk_guard"
    while name in known:
        name += "_"
    return name
