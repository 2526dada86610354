"""The laws about loads: what a commit does, and what nothing else does."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from datakit.errors import LoadInProgress, RowsLost
from datakit.model.load import LoadRecord, ReadPlan, Slice, Window
from datakit.model.manifest import LoadMode
from datakit.testing._warehouse_case import (
    COLUMNS,
    DATASET,
    ID,
    LOADED_AT,
    NAME,
    Law,
    WarehouseCase,
    batch,
    column,
    opened,
    refuses,
    request,
    rows_of,
    run,
    same,
    stage,
    true,
)

TWO = [(1, "one"), (2, None)]


def an_empty_warehouse_knows_nothing(case: WarehouseCase) -> None:
    """Questions about what is not there are answered with None, and create nothing."""
    with opened(case) as warehouse:
        same(None, warehouse.inspect(case.table))
        same(None, warehouse.last_load(DATASET, case.table))
        same(None, warehouse.find_load("run", DATASET, case.table))
        same(None, warehouse.stored_plan("run", DATASET, case.table))
        warehouse.discard("run", DATASET, case.table)
    same(None, case.read(case.table))


def the_first_load_creates_schema_and_table(case: WarehouseCase) -> None:
    """In every mode; with the metadata columns, the load log and the cursor."""
    for number, mode in enumerate(LoadMode):
        table = replace(case.table, table=f"first_{mode}")
        wanted = replace(request(case, f"run-{number}", mode, key=["id"]), table=table, cursor_column="id")
        wanted = replace(wanted, bounded=mode is LoadMode.APPEND)
        with opened(case) as warehouse:
            before = datetime.now(UTC)
            record = run(warehouse, wanted, TWO, cursor="0x00FF")
            true(
                before - timedelta(minutes=1) < record.loaded_at < before + timedelta(minutes=10),
                "loaded_at is the time of the commit, in UTC",
            )
            same(
                LoadRecord(
                    run_id=wanted.run_id,
                    dataset=DATASET,
                    table=table,
                    mode=mode,
                    datakit="test-bronze@1.2.3",
                    rows=2,
                    rows_applied=2,
                    cursor_column="id",
                    cursor="0x00FF",
                    bounded=mode is LoadMode.APPEND,
                    sequence=1,
                    loaded_at=record.loaded_at,
                ),
                record,
            )
            same(record, warehouse.last_load(DATASET, table))
            same(record, warehouse.find_load(wanted.run_id, DATASET, table))
            same(None, warehouse.find_load("another", DATASET, table))
        expected = [(1, "one", wanted.run_id, LOADED_AT), (2, None, wanted.run_id, LOADED_AT)]
        same(expected, rows_of(case, "id", "name", "_dk_run_id", "_dk_loaded_at", table=table))


def replace_replaces(case: WarehouseCase) -> None:
    """The old rows are there until the commit, and gone after it; so are columns that the load does not bring."""
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", columns=(*COLUMNS, column("old", "date"))), [(1, "one", None)])
        wanted = request(case, "b", base=1)
        stage(warehouse, wanted, [(3, "three")])
        same([(1, "one")], rows_of(case))
        same(2, warehouse.commit(wanted, None).sequence)
    same([(3, "three")], rows_of(case))


def replace_by_nothing_empties(case: WarehouseCase) -> None:
    """A load of no rows is a load: the table is there, with its columns and without rows."""
    with opened(case) as warehouse:
        same(0, run(warehouse, request(case, "a"), []).rows)
        same([], rows_of(case))
        run(warehouse, request(case, "b", base=1), TWO)
        run(warehouse, request(case, "c", base=2), [])
        same([], rows_of(case))
        state = warehouse.inspect(case.table)
        same(COLUMNS, state and state.columns)


def append_adds(case: WarehouseCase) -> None:
    """Also rows that are there already: append is a log."""
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", LoadMode.APPEND, key=["id"]), TWO)
        run(warehouse, request(case, "b", LoadMode.APPEND, key=["id"], base=1), [(2, "two"), (3, "three")])
    same([("a", 1), ("a", 2), ("b", 2), ("b", 3)], rows_of(case, "_dk_run_id", "id"))


def merge_updates_and_inserts(case: WarehouseCase) -> None:
    """Rows with a known key get every value of the load, NULL too; others are inserted; the rest stays."""
    wide = (column("part", "string", nullable=False), ID, NAME, column("at", "timestamp"))
    moment = datetime(2026, 5, 6, 7, 8, 9, 123456)  # a timestamp has no zone
    with opened(case) as warehouse:
        wanted = request(case, "a", LoadMode.MERGE, columns=wide, key=["part", "id"])
        run(warehouse, wanted, [("x", 1, "one", moment), ("x", 2, "two", moment), ("y", 1, "uno", moment)])
        wanted = request(case, "b", LoadMode.MERGE, columns=wide, key=["part", "id"], base=1)
        same(2, run(warehouse, wanted, [("x", 2, None, None), ("y", 2, "dos", moment)]).rows)
        run(warehouse, request(case, "c", LoadMode.MERGE, columns=wide, key=["part", "id"], base=2), [])
    expected = [("x", 1, "one", "a"), ("x", 2, None, "b"), ("y", 1, "uno", "a"), ("y", 2, "dos", "b")]
    same(expected, rows_of(case, "part", "id", "name", "_dk_run_id"))


def merge_of_nothing_but_keys(case: WarehouseCase) -> None:
    """A table whose columns are all in its key can be merged."""
    with opened(case) as warehouse:
        wanted = request(case, "a", LoadMode.MERGE, columns=[ID], key=["id"], constants={})
        run(warehouse, wanted, [(1,), (2,)])
        run(warehouse, replace(wanted, run_id="b", base_sequence=1), [(2,), (3,)])
    same([(1,), (2,), (3,)], rows_of(case, "id"))


def modes_may_change_between_loads(case: WarehouseCase) -> None:
    """A table that was replaced can be merged into, and the other way round."""
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", key=["id"]), TWO)
        run(warehouse, request(case, "b", LoadMode.MERGE, key=["id"], base=1), [(2, "two"), (3, "three")])
        same([(1, "one"), (2, "two"), (3, "three")], rows_of(case))
        run(warehouse, request(case, "c", key=["id"], base=2), TWO)
        run(warehouse, request(case, "d", LoadMode.MERGE, key=["id"], base=3), [(2, "zwei")])
    same([(1, "one"), (2, "zwei")], rows_of(case))


def a_committed_run_is_never_loaded_again(case: WarehouseCase) -> None:
    """However often it is retried, by whichever handle; its record is returned."""
    for mode in LoadMode:
        table = replace(case.table, table=f"again_{mode}")
        wanted = replace(request(case, "a", mode, key=["id"]), table=table)
        with opened(case) as warehouse:
            first = run(warehouse, wanted, TWO, cursor="7")
            same(None, warehouse.begin(wanted, Slice()))
            same(first, run(warehouse, wanted, TWO, cursor="8"))
        with opened(case) as warehouse:
            same(first, run(warehouse, wanted, TWO, cursor="9"))
            same(first, warehouse.last_load(DATASET, table))
        same([(1, "one"), (2, None)], rows_of(case, table=table))


def slices_commit_together(case: WarehouseCase) -> None:
    """A slice is staged once, survives the process, and shows nothing before the commit, which waits for all."""
    slices = [Slice(index, 3) for index in (1, 2, 3)]
    for mode in LoadMode:
        table = replace(case.table, table=f"slices_{mode}")
        wanted = replace(request(case, "a", mode, key=["id"], slices=3), table=table)
        with opened(case) as warehouse:
            true(stage(warehouse, wanted, [(1, "one")], slices[0]), "slice 1 is staged")
            true(stage(warehouse, wanted, [], slices[2]), "slice 3 is staged, without rows")
            same(None, warehouse.begin(wanted, slices[0]))
        with opened(case) as warehouse:
            same(None, warehouse.begin(wanted, slices[2]))
            with refuses(RowsLost, "slice 2"):
                warehouse.commit(wanted, None)
            same(None, case.read(table))
            same(None, warehouse.last_load(DATASET, table))
            true(stage(warehouse, wanted, [(2, None)], slices[1]), "slice 2 is staged")
            same(2, warehouse.commit(wanted, None).rows)
        same([(1, "one"), (2, None)], rows_of(case, table=table))


def slices_load_in_parallel(case: WarehouseCase) -> None:
    """Threads stage slices at the same time, batch by batch."""
    wanted = request(case, "a", key=["id"], slices=4)
    together = threading.Barrier(4)

    def work(index: int) -> None:
        load = warehouse.begin(wanted, Slice(index, 4))
        true(load is not None, "the slice is new")
        assert load is not None  # noqa: S101  # for the type checker; the line above tells people
        together.wait(60)
        for start in range(0, 5000, 1000):
            load.write(batch(COLUMNS, [(index * 10_000 + start + i, "x") for i in range(1000)]))
        load.stage(5000)

    with opened(case) as warehouse:
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(work, index) for index in (1, 2, 3, 4)]:
                done.result()
        same(20_000, warehouse.commit(wanted, None).rows)
    expected = sorted((index * 10_000 + i, "x") for index in (1, 2, 3, 4) for i in range(5000))
    same(expected, sorted(rows_of(case) or []))


def an_aborted_slice_leaves_nothing(case: WarehouseCase) -> None:
    """``abort`` may come before the first row, in the middle, twice; the slice can be tried again."""
    wanted = request(case, "a")
    with opened(case) as warehouse:
        for rows in (0, 1, 3):
            load = warehouse.begin(wanted, Slice())
            true(load is not None, "an aborted slice is not staged")
            assert load is not None  # noqa: S101  # for the type checker; the line above tells people
            for number in range(rows):
                load.write(batch(COLUMNS, [(number, "lost")]))
            load.abort()
            load.abort()
        stage(warehouse, wanted, TWO)
        same(2, warehouse.commit(wanted, None).rows)
    same([(1, "one"), (2, None)], rows_of(case))


def lost_rows_are_noticed(case: WarehouseCase) -> None:
    """``stage`` compares its count with what staging holds, and keeps nothing if they differ."""
    wanted = request(case, "a")
    with opened(case) as warehouse:
        load = warehouse.begin(wanted, Slice())
        assert load is not None  # noqa: S101
        load.write(batch(COLUMNS, TWO))
        with refuses(RowsLost, "3", "2"):
            load.stage(3)
        load.abort()
        true(stage(warehouse, wanted, TWO), "the slice is not staged")
        same(2, warehouse.commit(wanted, None).rows)


def a_run_keeps_its_first_plan(case: WarehouseCase) -> None:
    """Whoever comes later gets the stored one, also when two come at once."""
    table = case.table
    plans = [
        ReadPlan(
            Window("ModifiedAt", f"2026-01-0{n}", None, since_inclusive=True),
            (Slice(1, 2, "id", None, "5"), Slice(2, 2, "id", "5", None)),
            estimated_rows=n,
            base_sequence=n,
            fingerprint="é'\"",
        )
        for n in range(1, 5)
    ]
    with opened(case) as warehouse:
        together = threading.Barrier(len(plans))

        def work(plan: ReadPlan) -> ReadPlan:
            together.wait(60)
            return warehouse.remember_plan("run", DATASET, table, plan)

        with ThreadPoolExecutor(len(plans)) as pool:
            stored = list(pool.map(work, plans))
        true(stored[0] in plans, "the stored plan is one of those")
        same([stored[0]] * len(plans), stored)
        same(stored[0], warehouse.stored_plan("run", DATASET, table))
        other = ReadPlan(None, (), empty=True)
        same(other, warehouse.remember_plan("other", DATASET, table, other))
    with opened(case) as warehouse:
        same(stored[0], warehouse.stored_plan("run", DATASET, table))
        warehouse.discard("run", DATASET, table)
        same(None, warehouse.stored_plan("run", DATASET, table))
        same(other, warehouse.stored_plan("other", DATASET, table))


def a_discarded_run_starts_anew(case: WarehouseCase) -> None:
    """``discard`` forgets what was staged, and touches no other run."""
    with opened(case) as warehouse:
        mine, other = request(case, "mine"), request(case, "other")
        stage(warehouse, mine, [(1, "lost")])
        stage(warehouse, other, TWO)
        warehouse.discard("mine", DATASET, case.table)
        true(stage(warehouse, mine, [(9, "nine")]), "nothing is staged")
        same(None, warehouse.begin(other, Slice()))
        warehouse.commit(mine, None)
    same([(9, "nine")], rows_of(case))


def a_load_from_an_old_base_is_refused(case: WarehouseCase) -> None:
    """A run that began before the newest commit cannot commit, and says who did."""
    with opened(case) as warehouse:
        late = request(case, "late")
        stage(warehouse, late, [(9, "nine")])
        run(warehouse, request(case, "quick"), TWO)
        with refuses(LoadInProgress, "quick"):
            warehouse.commit(late, None)
        with refuses(LoadInProgress):
            warehouse.commit(request(case, "early", base=5), None)
        same([(1, "one"), (2, None)], rows_of(case))


def of_two_commits_from_one_base_one_wins(case: WarehouseCase) -> None:
    """Racing threads, each with its own handle: one record, one table, the other is refused."""
    wanted = [request(case, name, LoadMode.APPEND) for name in ("a", "b")]
    with opened(case) as first, opened(case) as second:
        for warehouse, mine in zip((first, second), wanted, strict=True):
            stage(warehouse, mine, [(1, mine.run_id)])
        together = threading.Barrier(2)

        def work(warehouse_and_request: tuple[object, object]) -> str:
            place = 0 if warehouse_and_request[0] is first else 1
            together.wait(60)
            try:
                return (first, second)[place].commit(wanted[place], None).run_id
            except LoadInProgress:
                return "refused"

        with ThreadPoolExecutor(2) as pool:
            results = sorted(pool.map(work, zip((first, second), wanted, strict=True)))
        true(results in (["a", "refused"], ["b", "refused"]), f"one wins: {results}")
        same([(1, results[0])], rows_of(case))
        same(results[0], (record := first.last_load(DATASET, case.table)) and record.run_id)


def a_table_is_held_by_one_run(case: WarehouseCase) -> None:
    """The second is refused at once; other tables are free; the end of the first, also by an error, frees it."""
    other = replace(case.table, table="other")
    with opened(case) as first, opened(case) as second:
        try:
            with first.exclusive(DATASET, case.table):
                with refuses(LoadInProgress, "things"), second.exclusive(DATASET, case.table):
                    pass
                with refuses(LoadInProgress), first.exclusive("test.another", case.table):
                    pass
                with second.exclusive(DATASET, other):
                    pass
                raise _OnPurposeError
        except _OnPurposeError:
            pass
        with second.exclusive(DATASET, case.table):
            pass


def a_warehouse_can_be_closed_twice(case: WarehouseCase) -> None:
    """Also one that never connected."""
    warehouse = case.open()
    warehouse.close()
    warehouse.close()
    warehouse = case.open()
    run(warehouse, request(case, "a"), TWO)
    warehouse.close()
    warehouse.close()
    same([(1, "one"), (2, None)], rows_of(case))


class _OnPurposeError(Exception):
    """Raised by a law to see what an error leaves behind."""


LAWS: tuple[Law, ...] = (
    an_empty_warehouse_knows_nothing,
    the_first_load_creates_schema_and_table,
    replace_replaces,
    replace_by_nothing_empties,
    append_adds,
    merge_updates_and_inserts,
    merge_of_nothing_but_keys,
    modes_may_change_between_loads,
    a_committed_run_is_never_loaded_again,
    slices_commit_together,
    slices_load_in_parallel,
    an_aborted_slice_leaves_nothing,
    lost_rows_are_noticed,
    a_run_keeps_its_first_plan,
    a_discarded_run_starts_anew,
    a_load_from_an_old_base_is_refused,
    of_two_commits_from_one_base_one_wins,
    a_table_is_held_by_one_run,
    a_warehouse_can_be_closed_twice,
)
