"""The laws about keys: what counts as one row, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from datakit.errors import InvalidKey
from datakit.model.load import Slice, Versions
from datakit.model.manifest import LoadMode
from datakit.testing._warehouse_case import (
    DATASET,
    ID,
    NAME,
    Law,
    WarehouseCase,
    column,
    opened,
    refuses,
    request,
    rows_of,
    run,
    same,
    stage,
)


def a_key_that_is_none_is_refused(case: WarehouseCase) -> None:
    """NULL or twice the same key, in every mode: the error names the columns and a value, and nothing changes."""
    key_columns = (ID, column("day", "date"), NAME)
    day = datetime(2026, 3, 4).date()
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", columns=key_columns), [(1, day, "one")])
        for mode in LoadMode:
            for rows, word in (([(7, day, "x"), (7, day, "y")], "2026-03-04"), ([(7, None, "x")], "NULL")):
                wanted = request(case, f"b-{mode}-{word}", mode, columns=key_columns, key=["id", "day"], base=1)
                with refuses(InvalidKey, "id", "day", "7", word):
                    run(warehouse, wanted, rows)
        same([(1, "one")], rows_of(case))
        same("a", (record := warehouse.last_load(DATASET, case.table)) and record.run_id)


def a_table_whose_key_is_not_unique_is_not_merged_into(case: WarehouseCase) -> None:
    """Merging into doubled rows would update both: the error names the key that is there twice."""
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", LoadMode.APPEND), [(5, "one"), (5, "two")])
        with refuses(InvalidKey, "id", "5"):
            run(warehouse, request(case, "b", LoadMode.MERGE, key=["id"], base=1), [(6, "six")])
    same([(5, "one"), (5, "two")], rows_of(case))


def of_a_row_that_changed_while_it_was_read_the_newest_version_counts(case: WarehouseCase) -> None:
    """Of whichever slice, in each load: all its rows count as brought, and one row of each key as applied."""
    wide = (column("part", "string", nullable=False), ID, NAME, column("version", "binary"))
    brought: list[list[tuple[Any, ...]]] = [
        [("x", 1, "old", b"\0\1"), ("x", 2, "only", b"\0\2"), ("x", 3, "old", b"\0\3")],
        [("x", 1, "new", b"\1\1"), ("y", 1, "other", b"\0\1"), ("x", 3, "newer", b"\1\2"), ("x", 3, None, b"\1\3")],
    ]
    expected = [
        ("x", 1, "new", b"\1\1"),
        ("x", 2, "only", b"\0\2"),
        ("x", 3, None, b"\1\3"),
        ("y", 1, "other", b"\0\1"),
    ]
    names = [each.name for each in wide]
    with opened(case) as warehouse:
        modes = {"a": LoadMode.MERGE, "b": LoadMode.MERGE, "c": LoadMode.REPLACE}
        for base, (run_id, mode) in enumerate(modes.items()):
            wanted = request(case, run_id, mode, columns=wide, key=["part", "id"], base=base, slices=2)
            wanted = replace(wanted, versions=Versions("version", b"\1\0"))
            for index in (1, 2):
                stage(warehouse, wanted, brought[index - 1], Slice(index, 2))
            record = warehouse.commit(wanted, "0x0103")
            same((7, 4), (record.rows, record.rows_applied))
            same(record, warehouse.find_load(run_id, DATASET, case.table))
            same(expected, rows_of(case, *names))
            same([run_id] * 4, [value for (value,) in rows_of(case, "_dk_run_id") or []])


def a_column_may_be_called_rowid(case: WarehouseCase) -> None:
    """What a warehouse numbers its own rows with is no name that a source could not have."""
    columns = (ID, column("rowid", "int64"), column("version", "int64"))
    wanted = request(case, "a", LoadMode.MERGE, columns=columns, key=["id"], versions=Versions("version", 10))
    with opened(case) as warehouse:
        run(warehouse, wanted, [(1, 500, 1), (2, 7, 1), (3, 1, 1)])
        again = replace(wanted, run_id="b", base_sequence=1)
        same(2, run(warehouse, again, [(2, 9, 5), (2, 500, 12), (4, 1, 11)]).rows_applied)
        same([(1, 500), (2, 500), (3, 1), (4, 1)], rows_of(case, "id", "rowid"))
        narrow = replace(again, run_id="c", base_sequence=2, columns=(ID, column("version", "int64")))
        run(warehouse, narrow, [(3, 13), (5, 13)])
        same([(1, 500), (2, 500), (3, 1), (4, 1), (5, None)], rows_of(case, "id", "rowid"))


def versions_are_compared_in_the_type_of_their_column(case: WarehouseCase) -> None:
    """The bound has the cursor's own type, whichever it is."""
    early, late, later = (
        datetime(2026, 1, 2, 3, 4, 5, 6),
        datetime(2026, 1, 2, 3, 4, 5, 7),
        datetime(2026, 1, 2, 3, 4, 5, 8),
    )
    kinds: dict[str, tuple[Any, Any, Any]] = {
        "int32": (9, 10, 11),
        "decimal(38,2)": (Decimal("9.99"), Decimal("10.00"), Decimal("10.01")),
        "date": (date(2026, 1, 2), date(2026, 1, 3), date(2026, 1, 10)),
        "timestamp": (early, late, later),
        "timestamptz": (early.replace(tzinfo=UTC), late.replace(tzinfo=UTC), later.replace(tzinfo=UTC)),
    }
    with opened(case) as warehouse:
        for type_, (below, bound, above) in kinds.items():
            table = replace(case.table, table=f"by_{type_[:11].rstrip('(')}")
            wanted = request(case, "a", LoadMode.MERGE, columns=[ID, column("at", type_)], key=["id"])
            wanted = replace(wanted, table=table, versions=Versions("at", bound))
            same(1, run(warehouse, wanted, [(1, bound), (1, above)]).rows_applied)
            same([(1, above)], rows_of(case, "id", "at", table=table))
            with refuses(InvalidKey, "id", "2"):
                run(warehouse, replace(wanted, run_id="b", base_sequence=1), [(2, below), (2, bound)])


def rows_that_share_a_key_and_are_no_versions_are_refused(case: WarehouseCase) -> None:
    """Two that did not change since the plan, that tie, or whose order is not known; and a NULL in the key as ever."""
    loose = (column("id", "int64"), NAME, column("version", "int64"))
    bad: list[tuple[list[tuple[Any, ...]], str]] = [
        ([(7, "p", 3), (7, "q", 4)], "7"),
        ([(7, "p", 4), (7, "q", 5), (7, "r", 11)], "7"),
        ([(7, "p", 11), (7, "q", 11)], "7"),
        ([(7, "p", 11), (7, "p", 11)], "7"),
        ([(7, "p", 5), (7, "p", 5), (7, "q", 11)], "7"),
        ([(7, "p", None), (7, "q", 11)], "7"),
        ([(7, "p", None), (7, "q", None)], "7"),
        ([(None, "p", 5), (None, "q", 11)], "NULL"),
    ]
    with opened(case) as warehouse:
        wanted = request(case, "a", LoadMode.MERGE, columns=loose, key=["id"], versions=Versions("version", 10))
        run(warehouse, wanted, [(1, "one", 1)])
        for mode in (LoadMode.MERGE, LoadMode.REPLACE):
            for number, (rows, word) in enumerate(bad):
                again = replace(wanted, run_id=f"b-{mode}-{number}", base_sequence=1, mode=mode)
                with refuses(InvalidKey, "id", word):
                    run(warehouse, again, [(6, "old", 5), (6, "new", 12), *rows])
        unordered = replace(wanted, run_id="c", base_sequence=1, versions=None)
        with refuses(InvalidKey, "id", "6"):
            run(warehouse, unordered, [(6, "old", 5), (6, "new", 12)])
        same([(1, "one")], rows_of(case))


LAWS: tuple[Law, ...] = (
    a_key_that_is_none_is_refused,
    a_table_whose_key_is_not_unique_is_not_merged_into,
    of_a_row_that_changed_while_it_was_read_the_newest_version_counts,
    a_column_may_be_called_rowid,
    versions_are_compared_in_the_type_of_their_column,
    rows_that_share_a_key_and_are_no_versions_are_refused,
)
