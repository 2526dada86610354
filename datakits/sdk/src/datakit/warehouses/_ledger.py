"""The ``_dk_`` tables of a warehouse: committed loads, runs under way, staged slices.

They live in the schema of the tables that they are about, so that one backup or one grant covers both. The SQL is
the part that DuckDB and PostgreSQL have in common, parameters written ``$1``; who executes it owns the transaction.
"""

# ruff: noqa: S608 -- the names pasted into statements are this module's own, and the schema is quoted

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from datakit.model.load import LoadRecord, LoadRequest, ReadPlan, Slice, TableName, Window
from datakit.model.manifest import LoadMode
from datakit.warehouses._identifiers import quote

Execute = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]
"""Run one statement with its parameters and return its rows, none for a statement that has no result."""

LOADS: Final = "_dk_loads"
RUNS: Final = "_dk_runs"
SLICES: Final = "_dk_slices"

_TABLES: Final = {
    # The newest row of a table is its state: cursor and sequence. UNIQUE and PRIMARY KEY are what makes a second
    # commit of one run, and two commits from one base, impossible whatever the code above does.
    LOADS: """(
        run_id TEXT NOT NULL, dataset TEXT NOT NULL, table_name TEXT NOT NULL, mode TEXT NOT NULL,
        datakit TEXT NOT NULL, rows BIGINT NOT NULL, rows_applied BIGINT NOT NULL, cursor_column TEXT,
        cursor_value TEXT, bounded BOOLEAN NOT NULL, sequence BIGINT NOT NULL, key_columns TEXT NOT NULL,
        started_at TIMESTAMPTZ NOT NULL, loaded_at TIMESTAMPTZ NOT NULL,
        PRIMARY KEY (dataset, table_name, sequence), UNIQUE (run_id, dataset, table_name))""",
    RUNS: """(
        run_id TEXT NOT NULL, dataset TEXT NOT NULL, table_name TEXT NOT NULL, read_plan TEXT,
        staging TEXT NOT NULL, shape TEXT, started_at TIMESTAMPTZ NOT NULL,
        PRIMARY KEY (run_id, dataset, table_name))""",
    SLICES: """(
        run_id TEXT NOT NULL, dataset TEXT NOT NULL, table_name TEXT NOT NULL, slice INTEGER NOT NULL,
        slices INTEGER NOT NULL, rows BIGINT NOT NULL, staged_at TIMESTAMPTZ NOT NULL,
        PRIMARY KEY (run_id, dataset, table_name, slice))""",
}

# times are read as text, which needs no time zone database on this side
_RECORD: Final = (
    "run_id, mode, datakit, rows, rows_applied, cursor_column, cursor_value, bounded, sequence, CAST(loaded_at AS TEXT)"
)
_ONE: Final = "run_id = $1 AND dataset = $2 AND table_name = $3"


@dataclass(frozen=True, slots=True)
class RunUnderWay:
    """One row of ``_dk_runs``.

    :ivar started_at: tells the run from one of the same id that was discarded and began anew.
    """

    run_id: str
    staging: TableName
    started_at: str


class Ledger:
    """The ``_dk_`` tables of one schema, through one transaction."""

    def __init__(self, execute: Execute, schema: str) -> None:
        self._execute = execute
        self._schema = quote(schema)

    def _name(self, table: str) -> str:
        return f"{self._schema}.{quote(table)}"

    def create(self) -> None:
        """Create the tables that are missing. Not safe against another creator: the caller sees to that."""
        for table, definition in _TABLES.items():
            self._execute(f"CREATE TABLE IF NOT EXISTS {self._name(table)} {definition}", ())

    # loads

    def last(self, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the newest load of the table."""
        return self._record("ORDER BY sequence DESC LIMIT 1", dataset, table)

    def find(self, run_id: str, dataset: str, table: TableName) -> LoadRecord | None:
        """Return the load that this run committed."""
        return self._record("AND run_id = $3", dataset, table, run_id)

    def _record(self, condition: str, dataset: str, table: TableName, *more: str) -> LoadRecord | None:
        rows = self._execute(
            f"SELECT {_RECORD} FROM {self._name(LOADS)} WHERE dataset = $1 AND table_name = $2 {condition}",
            (dataset, table.table, *more),
        )
        if not rows:
            return None
        run_id, mode, datakit, count, applied, column, cursor, bounded, sequence, loaded_at = rows[0]
        when = datetime.fromisoformat(loaded_at).astimezone(UTC)
        return LoadRecord(
            run_id, dataset, table, LoadMode(mode), datakit, count, applied, column, cursor, bounded, sequence, when
        )

    def key_of(self, table: TableName) -> tuple[tuple[str, ...], LoadMode] | None:
        """Return key and mode of the newest load of the table, by whichever dataset, or None."""
        rows = self._execute(
            # clocks of the machines that load may differ: only between datasets is there nothing but the time
            f"SELECT key_columns, mode FROM {self._name(LOADS)} AS l WHERE table_name = $1 AND sequence = "
            f"(SELECT max(sequence) FROM {self._name(LOADS)} WHERE table_name = $1 AND dataset = l.dataset) "
            "ORDER BY loaded_at DESC LIMIT 1",
            (table.table,),
        )
        return (tuple(json.loads(rows[0][0])), LoadMode(rows[0][1])) if rows else None

    def record(self, request: LoadRequest, rows: int, applied: int, cursor: str | None) -> LoadRecord:
        """Write the load log's row and return it.

        :param rows: how many rows the load brought; ``applied``: how many of them the table got.
        """
        started = self._execute(
            f"SELECT CAST(started_at AS TEXT) FROM {self._name(RUNS)} WHERE {_ONE}",
            _of(request),
        )
        now = datetime.now(UTC)
        record = LoadRecord(
            request.run_id,
            request.dataset,
            request.table,
            request.mode,
            request.datakit,
            rows,
            applied,
            request.cursor_column,
            cursor,
            request.bounded,
            request.base_sequence + 1,
            now,
        )
        self._execute(
            f"INSERT INTO {self._name(LOADS)} (run_id, dataset, table_name, mode, datakit, rows, rows_applied, "
            "cursor_column, cursor_value, bounded, sequence, key_columns, started_at, loaded_at) VALUES "
            "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, CAST($13 AS TIMESTAMPTZ), CAST($14 AS TIMESTAMPTZ))",
            (
                *_of(request),
                str(request.mode),
                request.datakit,
                rows,
                applied,
                request.cursor_column,
                cursor,
                request.bounded,
                record.sequence,
                json.dumps(request.key),
                started[0][0] if started else now.isoformat(),
                now.isoformat(),
            ),
        )
        return record

    # runs under way

    def open_run(self, run_id: str, dataset: str, table: TableName, staging: TableName, plan: ReadPlan | None) -> None:
        """Note that the run is under way, with its plan if it has none yet."""
        self._execute(
            f"INSERT INTO {self._name(RUNS)} AS r (run_id, dataset, table_name, staging, read_plan, started_at) "
            "VALUES ($1, $2, $3, $4, $5, CAST($6 AS TIMESTAMPTZ)) ON CONFLICT (run_id, dataset, table_name) "
            "DO UPDATE SET read_plan = coalesce(r.read_plan, excluded.read_plan)",
            (run_id, dataset, table.table, staging.table, _plan_to_json(plan), datetime.now(UTC).isoformat()),
        )

    def plan(self, run_id: str, dataset: str, table: TableName) -> ReadPlan | None:
        """Return the plan of a run under way."""
        rows = self._execute(
            f"SELECT read_plan FROM {self._name(RUNS)} WHERE {_ONE}",
            (run_id, dataset, table.table),
        )
        return _plan_from_json(rows[0][0]) if rows and rows[0][0] is not None else None

    def other_runs(self, request: LoadRequest) -> list[RunUnderWay]:
        """Return other runs of the same load.

        In the transaction of the load's commit they are those that it makes obsolete: each began from an older base.
        After it, one of them may have begun from this very commit.
        """
        rows = self._execute(
            f"SELECT run_id, staging, CAST(started_at AS TEXT) FROM {self._name(RUNS)} "
            "WHERE dataset = $1 AND table_name = $2 AND run_id <> $3",
            (request.dataset, request.table.table, request.run_id),
        )
        return [RunUnderWay(run_id, TableName(request.table.schema, staging), since) for run_id, staging, since in rows]

    def still_is(self, run: RunUnderWay, dataset: str, table: TableName) -> bool:
        """Lock the run's row until the transaction ends; False if it has ended, or was discarded and began anew."""
        return bool(
            self._execute(
                f"UPDATE {self._name(RUNS)} SET staging = staging WHERE {_ONE} AND CAST(started_at AS TEXT) = $4 "
                "RETURNING 1",
                (run.run_id, dataset, table.table, run.started_at),
            )
        )

    def shape(self, request: LoadRequest) -> str | None:
        """Return the shape that the run's staging table was created with, None before that."""
        rows = self._execute(
            f"SELECT shape FROM {self._name(RUNS)} WHERE {_ONE}",
            _of(request),
        )
        return rows[0][0] if rows else None

    def set_shape(self, request: LoadRequest, shape: str) -> None:
        """Note the shape of the run's staging table."""
        self._execute(
            f"UPDATE {self._name(RUNS)} SET shape = $4 WHERE {_ONE}",
            (*_of(request), shape),
        )

    def close_run(self, run_id: str, dataset: str, table: TableName) -> None:
        """Forget the run: plan and marks."""
        for name in (SLICES, RUNS):
            self._execute(
                f"DELETE FROM {self._name(name)} WHERE {_ONE}",
                (run_id, dataset, table.table),
            )

    # staged slices

    def is_staged(self, request: LoadRequest, slice_: Slice) -> bool:
        """Whether this slice is completely staged."""
        return bool(
            self._execute(
                f"SELECT 1 FROM {self._name(SLICES)} WHERE {_ONE} AND slice = $4",
                (*_of(request), slice_.index),
            )
        )

    def mark_staged(self, request: LoadRequest, slice_: Slice, rows: int) -> None:
        """Mark the slice as staged; a second mark violates the primary key."""
        self._execute(
            f"INSERT INTO {self._name(SLICES)} (run_id, dataset, table_name, slice, slices, rows, staged_at) "
            "VALUES ($1, $2, $3, $4, $5, $6, CAST($7 AS TIMESTAMPTZ))",
            (*_of(request), slice_.index, slice_.count, rows, datetime.now(UTC).isoformat()),
        )

    def staged(self, request: LoadRequest) -> dict[int, int]:
        """Return slice → rows of every staged slice."""
        rows = self._execute(
            f"SELECT slice, rows FROM {self._name(SLICES)} WHERE {_ONE}",
            _of(request),
        )
        return dict(rows)

    def unmark(self, request: LoadRequest) -> None:
        """Forget every mark of the run, because its rows are gone; the plan stays."""
        self._execute(
            f"DELETE FROM {self._name(SLICES)} WHERE {_ONE}",
            _of(request),
        )


def _of(request: LoadRequest) -> tuple[str, str, str]:
    return request.run_id, request.dataset, request.table.table


def _plan_to_json(plan: ReadPlan | None) -> str | None:
    return None if plan is None else json.dumps(asdict(plan), ensure_ascii=False)


def _plan_from_json(text: str) -> ReadPlan:
    stored = json.loads(text)
    window, slices = stored.pop("window"), stored.pop("slices")
    return ReadPlan(
        window=None if window is None else Window(**window), slices=tuple(Slice(**part) for part in slices), **stored
    )
