"""A load that dies before its n-th step, for every n; run as a program by test_killed_loads.py.

A step is a statement that may change something, a part of a COPY, or the end of one; to die before a question is to
die before the next change. The process that dies is a fork of this one, so that each
try costs milliseconds instead of an interpreter's start; this one itself never opens a warehouse, starts no thread,
and prints one JSON line for each step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from datakit.model.load import LoadRequest, ReadPlan, Slice
from datakit.model.manifest import LoadMode
from datakit.testing._warehouse_case import COLUMNS, DATASET, WarehouseCase, batch, column, request, run
from datakit.warehouses import Warehouse, open_warehouse

OLD = [(1, "one"), (2, "two")]
BORN = column("born", "int32")
SLICES = (Slice(1, 2), Slice(2, 2))


def new_load(case: WarehouseCase, mode: LoadMode) -> tuple[LoadRequest, list[list[tuple[Any, ...]]]]:
    """The load that dies: two slices, and for merge and append a new column."""
    wanted = request(case, "new", mode, columns=(*COLUMNS, BORN), key=("id",), base=1, slices=2, add=(BORN,))
    return replace(wanted, cursor_column="id"), [[(2, "zwei", 22), (3, "drei", 33)], [(4, "vier", 44)]]


def load(warehouse: Warehouse, wanted: LoadRequest, slices: list[list[tuple[Any, ...]]]) -> None:
    """Do what the engine does."""
    with warehouse.exclusive(DATASET, wanted.table):
        warehouse.remember_plan(wanted.run_id, DATASET, wanted.table, ReadPlan(None, SLICES))
        for slice_, rows in zip(SLICES, slices, strict=True):
            staging = warehouse.begin(wanted, slice_)
            if staging is not None:
                for row in rows:
                    staging.write(batch(wanted.columns, [row]))
                staging.stage(len(rows))
        warehouse.commit(wanted, "4")


class Steps:
    """Counts steps, and kills this process before one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def __call__(self, what: str) -> None:
        if what.lstrip().startswith(("SELECT", "BEGIN", "SET ")):
            return
        self.left -= 1
        if self.left == 0:
            sys.stderr.write(what)
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)


class CountedCursor:
    """A DuckDB connection whose statements are steps."""

    def __init__(self, connection: Any, step: Callable[[str], None]) -> None:
        self._connection = connection
        self._step = step

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, *parameters: Any) -> Any:
        self._step(sql)
        return self._connection.execute(sql, *parameters)

    def cursor(self) -> CountedCursor:
        return CountedCursor(self._connection.cursor(), self._step)

    def close(self) -> None:
        self._step("close")
        self._connection.close()


def count_steps(step: Callable[[str], None]) -> None:
    """Make every statement of both adapters a step, from now on, in this process."""
    connect = duckdb.connect
    duckdb.connect = lambda path: CountedCursor(connect(path), step)  # type: ignore[assignment, misc]
    execute, write, leave = psycopg.Connection.execute, psycopg.Copy.write, psycopg.Copy.__exit__

    def counted_execute(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        step(query.decode() if isinstance(query, bytes) else query)
        if query == "COMMIT" and getattr(step, "left", 0) == 1:
            # the next step is the last one: die with the COMMIT on its way, not knowing what became of it
            self.pgconn.send_query(b"COMMIT")
            while self.pgconn.flush():
                pass
            step("COMMIT sent, answer not read")
        return execute(self, query, *arguments, **options)

    def counted_write(self: Any, data: Any) -> None:
        step("COPY data")
        write(self, data)

    def counted_leave(self: Any, *error: Any) -> Any:
        step("COPY end")
        return leave(self, *error)

    psycopg.Connection.execute = counted_execute  # type: ignore[method-assign]
    psycopg.Copy.write = counted_write  # type: ignore[method-assign, assignment]
    psycopg.Copy.__exit__ = counted_leave  # type: ignore[method-assign]


def state(warehouse: Warehouse, case: WarehouseCase) -> dict[str, Any]:
    """What a reader sees: the table's rows, the newest load and its cursor."""
    newest = warehouse.last_load(DATASET, case.table)
    found = warehouse.inspect(case.table)
    return {
        "columns": None if found is None else [column.name for column in found.columns],
        "load": None if newest is None else [newest.run_id, newest.sequence, newest.rows, newest.cursor],
    }


def fork(work: Callable[[], None]) -> int:
    """Run ``work`` in a fork and return how it ended: an exit code, or minus a signal."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        work()
    except BaseException:  # noqa: BLE001  # the fork must never return into its parent's code
        sys.excepthook(*sys.exc_info())
        os._exit(70)
    os._exit(0)


def main(kind: str, settings: dict[str, Any], mode: LoadMode, folder: Path) -> None:
    """Try every step."""
    for number in range(1, 500):
        if kind == "duckdb":
            settings = {"path": str(folder / f"step-{number}.duckdb")}
        case = WarehouseCase(
            open=lambda: open_warehouse(kind, settings, where="test"),  # noqa: B023  # used within this round only
            read=lambda table: None,
            schema=f"step_{number}" if kind == "postgres" else "bronze",
        )
        wanted, slices = new_load(case, mode)

        def prepare() -> None:
            with closing(case.open()) as warehouse:  # noqa: B023
                run(warehouse, request(case, "old", LoadMode.REPLACE, key=["id"]), OLD, cursor="2")  # noqa: B023

        def dying() -> None:
            if kind == "postgres":
                prepare()
            count_steps(Steps(number))  # noqa: B023
            with closing(case.open()) as warehouse:  # noqa: B023
                load(warehouse, wanted, slices)  # noqa: B023

        def look_and_retry() -> None:
            with closing(case.open()) as warehouse:  # noqa: B023
                seen = state(warehouse, case)  # noqa: B023
            (folder / "seen.json").write_text(json.dumps(seen))
            seen["rows"] = rows(kind, settings, case)  # noqa: B023
            with closing(case.open()) as warehouse:  # noqa: B023
                load(warehouse, wanted, slices)  # noqa: B023
                after = state(warehouse, case)  # noqa: B023
            after["rows"] = rows(kind, settings, case)  # noqa: B023
            after["left"] = leftovers(kind, settings, case)  # noqa: B023
            (folder / "seen.json").write_text(json.dumps({"seen": seen, "after": after}))

        if kind == "duckdb":
            prepared = folder / "prepared.duckdb"
            if not prepared.exists():
                fork(prepare)
                Path(settings["path"]).rename(prepared)
            shutil.copyfile(prepared, settings["path"])
        ended = fork(dying)
        if (retried := fork(look_and_retry)) != 0:
            raise SystemExit(f"the retry after step {number} ended with {retried}")
        print(json.dumps({"step": number, "ended": ended} | json.loads((folder / "seen.json").read_text())), flush=True)
        if kind == "duckdb":
            Path(settings["path"]).unlink()
        if ended == 0:
            return
    raise SystemExit("the load never ended")


def rows(kind: str, settings: dict[str, Any], case: WarehouseCase) -> list[Any]:
    """Read the table without the adapter."""
    return query(kind, settings, f"SELECT * FROM {case.schema}.things ORDER BY id")


def leftovers(kind: str, settings: dict[str, Any], case: WarehouseCase) -> list[Any]:
    """Read what a finished load should have cleared away."""
    return [
        *query(
            kind,
            settings,
            f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{case.schema}' "
            "AND table_name LIKE '_dk_staging%'",
        ),
        *query(kind, settings, f"SELECT run_id FROM {case.schema}._dk_runs"),
        *query(kind, settings, f"SELECT run_id FROM {case.schema}._dk_slices"),
    ]


def query(kind: str, settings: dict[str, Any], sql: str) -> list[Any]:
    """Run a query on a connection of the test's own; values as text."""
    if kind == "duckdb":
        with duckdb.connect(settings["path"]) as connection:
            found = connection.execute(f"SELECT CAST(COLUMNS(*) AS VARCHAR) FROM ({sql})").fetchall()
    else:
        with psycopg.connect(os.environ["TEST_DSN"]) as connection:
            found = connection.execute(sql.encode()).fetchall()
    return [[None if value is None else str(value) for value in row] for row in found]


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), LoadMode(sys.argv[3]), Path(sys.argv[4]))
