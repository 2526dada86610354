"""The laws about columns: types, values, names, and how tables evolve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa

from datakit.errors import SchemaChangeRefused, ValueRefused
from datakit.model.contract import Column
from datakit.model.load import Slice
from datakit.model.manifest import LoadMode
from datakit.testing._warehouse_case import (
    COLUMNS,
    ID,
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

_VALUES: dict[str, Sequence[Any]] = {
    "boolean": [True, False],
    "int16": [-(2**15), 2**15 - 1],
    "int32": [-(2**31), 2**31 - 1],
    "int64": [-(2**63), 2**63 - 1],
    "float32": [-0.0, 1e-45, 3.4028234663852886e38, math.inf, -math.inf, math.nan],
    "float64": [-0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, math.nan, 0.1],
    "decimal(1,0)": [Decimal(-9), Decimal(9)],
    "decimal(15,2)": [Decimal("-9999999999999.99"), Decimal("0.01")],
    "decimal(19,4)": [Decimal("-922337203685477.5808"), Decimal("922337203685477.5807")],
    "decimal(38,0)": [Decimal("9" * 38), Decimal("-" + "9" * 38)],
    "decimal(38,19)": [Decimal("9" * 19 + "." + "9" * 19), Decimal("-0." + "0" * 18 + "1")],
    "decimal(38,38)": [Decimal("0." + "9" * 38), Decimal("-0." + "0" * 37 + "1")],
    "string": ["", " ", "'\"\\;--", "\t\r\n\\N", "é ß ñ 漢字 😀 \U0010ffff", "x" * 1_000_000],
    "binary": [b"", b"\0", bytes(range(256)), b"\xff" * 100_000],
    "date": [date(1, 1, 1), date(1582, 10, 10), date(1900, 2, 28), date(1970, 1, 1), date(9999, 12, 31)],
    "time": [time(0), time(23, 59, 59, 999999), time(12, 0, 0, 1)],
    "timestamp": [
        datetime(1, 1, 1),  # a timestamp has no zone
        datetime(1969, 12, 31, 23, 59, 59, 999999),
        datetime(9999, 12, 31, 23, 59, 59, 999999),
    ],
    "timestamptz": [
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
}

_WIDER = [
    ("int16", "int32", -7, -(2**31)),
    ("int16", "int64", -7, -(2**63)),
    ("int32", "int64", -7, -(2**63)),
    ("int32", "decimal(12,2)", -7, Decimal("9999999999.99")),
    ("float32", "float64", 1.5, 0.1),
    ("decimal(10,2)", "decimal(20,4)", Decimal("12345678.90"), Decimal("1234567890123456.7890")),
    ("decimal(18,0)", "decimal(38,0)", Decimal("9" * 18), Decimal("9" * 38)),
]


def every_type_keeps_every_value(case: WarehouseCase) -> None:
    """The ends of each type, NULL, and what naive paths lose; through replace, append and merge; and inspect agrees."""
    columns = (ID, *(column(f"c {type_}", type_) for type_ in _VALUES))
    longest = max(len(values) for values in _VALUES.values())
    rows = [
        (number, *(values[number] if number < len(values) else None for values in _VALUES.values()))
        for number in range(longest + 1)
    ]
    cut = batch(columns, [rows[0], *rows, rows[0]]).slice(1, len(rows))  # a slice of a batch has an offset
    with opened(case) as warehouse:
        for base, mode in enumerate((LoadMode.REPLACE, LoadMode.MERGE, LoadMode.REPLACE, LoadMode.APPEND)):
            if mode is LoadMode.APPEND:
                run(warehouse, request(case, "empty", columns=columns, base=base), [])
                base += 1  # the law's own load came in between
            wanted = request(
                case, f"run-{base}", mode, columns=columns, key=["id"] if mode is LoadMode.MERGE else [], base=base
            )
            load = warehouse.begin(wanted, Slice())
            assert load is not None  # noqa: S101
            load.write(cut)
            load.stage(len(rows))
            warehouse.commit(wanted, None)
            found = case.read(case.table)
            assert found is not None  # noqa: S101
            found = found.sort_by("id")
            for place, wanted_column in enumerate(columns):
                name = wanted_column.name
                same((name, str(wanted_column.type.arrow())), (name, str(found.schema.field(name).type)))
                same(
                    (name, repr([row[place] for row in _read_back(rows, wanted_column, place)])),
                    (name, repr(found.column(name).to_pylist())),
                )
            state = warehouse.inspect(case.table)
            same(columns, state and state.columns)


def _read_back(rows: Sequence[Sequence[Any]], wanted: Column, place: int) -> list[list[Any]]:
    """Give the expected values the shape in which Arrow returns them (a float32 is shown with its own digits)."""
    values = pa.array([row[place] for row in rows], wanted.type.arrow()).to_pylist()
    return [[None] * place + [value] for value in values]


def what_cannot_be_kept_is_refused(case: WarehouseCase) -> None:
    """U+0000 in text, times beyond the calendar: kept exactly, or refused with column and key; never changed."""
    last = 2**63 - 1
    for number, (type_, value) in enumerate(
        [
            ("string", pa.array(["ok", "a\0b"])),
            ("timestamp", pa.array([0, last], pa.int64()).view(pa.timestamp("us"))),
            ("timestamptz", pa.array([0, -last], pa.int64()).view(pa.timestamp("us", "UTC"))),
            ("date", pa.array([0, 2**31 - 1], pa.int32()).view(pa.date32())),
        ]
    ):
        columns = (ID, column("Ödd", type_))
        table = replace(case.table, table=f"refused_{number}")
        wanted = replace(request(case, "a", columns=columns, key=["id"]), table=table)
        with opened(case) as warehouse:
            load = warehouse.begin(wanted, Slice())
            assert load is not None  # noqa: S101
            try:
                load.write(pa.RecordBatch.from_arrays([pa.array([10, 4711]), value], ["id", "Ödd"]))
                load.stage(2)
            except ValueRefused as error:
                load.abort()
                true("Ödd" in str(error) and "4711" in str(error), f"column and key are named in: {error}")
                same(None, case.read(table))
            else:
                warehouse.commit(wanted, None)
                found = case.read(table)
                assert found is not None  # noqa: S101
                kept = found.sort_by("id").column("Ödd").combine_chunks()
                true(kept.equals(value.cast(kept.type)), f"{type_} is kept exactly")


def names_are_kept(case: WarehouseCase) -> None:
    """Quotes, dots, spaces, keywords, other scripts, in the names of schema, table and columns."""
    names = ['a"b', "a'b", "a.b", "a b", "[a]", "select", "naïve 漢字", "$1 ?", "%s {x}", "a;--", "X"]
    columns = (ID, *(column(name, "string") for name in names))
    table = replace(case.table, schema=f"{case.schema} \"x\" 'y'.ß", table="Order \"by\" %s 'é'.?")
    with opened(case) as warehouse:
        for base, mode in enumerate((LoadMode.MERGE, LoadMode.MERGE, LoadMode.REPLACE, LoadMode.APPEND)):
            wanted = replace(request(case, f"r-{base}", mode, columns=columns, base=base), table=table)
            wanted = replace(wanted, key=("id",) if mode is LoadMode.MERGE else ())
            run(warehouse, wanted, [(base, *names)], cursor=f"'{base}\"")
        same("'3\"", (record := warehouse.last_load(wanted.dataset, table)) and record.cursor)
        state = warehouse.inspect(table)
        same(columns, state and state.columns)
    same([(2, *names), (3, *names)], rows_of(case, "id", *names, table=table))


def a_wide_table_fits(case: WarehouseCase) -> None:
    """A thousand columns, as SQL Server allows."""
    columns = (ID, *(column(f"column_{number}", "int16") for number in range(1000)))
    row = (1, *range(1000))
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", columns=columns), [row])
        run(warehouse, request(case, "b", LoadMode.MERGE, columns=columns, key=["id"], base=1), [row])
    same([(1, 999)], rows_of(case, "id", "column_999"))


def columns_can_be_added(case: WarehouseCase) -> None:
    """With the commit, not before; earlier rows have NULL, also where the contract says NOT NULL."""
    more = (*COLUMNS, column("born", "date", nullable=False), column("_dk_row_hash", "binary"))
    day = date(2026, 7, 8)
    for mode in (LoadMode.APPEND, LoadMode.MERGE):
        table = replace(case.table, table=f"added_{mode}")
        with opened(case) as warehouse:
            run(warehouse, replace(request(case, "a", mode, key=["id"]), table=table), [(1, "one"), (2, "two")])
            wanted = replace(request(case, "b", mode, columns=more, key=["id"], base=1, add=more[2:]), table=table)
            stage(warehouse, wanted, [(2, "zwei", day, b"\1")] if mode is LoadMode.MERGE else [(3, "x", day, b"\1")])
            before = warehouse.inspect(table)
            same(COLUMNS, before and before.columns)
            warehouse.commit(wanted, None)
            after = warehouse.inspect(table)
            same(("id", "name", "born"), after and tuple(c.name for c in after.columns))
        expected = [(1, None), (2, day)] if mode is LoadMode.MERGE else [(1, None), (2, None), (3, day)]
        same(expected, rows_of(case, "id", "born", table=table))


def columns_that_nobody_asked_for_are_refused(case: WarehouseCase) -> None:
    """A load that does not fit, and may not change the table, changes nothing."""
    with opened(case) as warehouse:
        for mode in (LoadMode.APPEND, LoadMode.MERGE):
            table = replace(case.table, table=f"unasked_{mode}")
            run(warehouse, replace(request(case, "a", mode, key=["id"]), table=table), [(1, "one")])
            for number, (columns, row) in enumerate(
                [((*COLUMNS, column("born", "date")), (2, "x", None)), ((ID, column("name", "int64")), (2, 5))]
            ):
                wanted = replace(request(case, f"b{number}", mode, columns=columns, key=["id"], base=1), table=table)
                with refuses(SchemaChangeRefused, columns[-1].name):
                    run(warehouse, wanted, [row])
            same([(1, "one")], rows_of(case, table=table))


def columns_can_be_widened(case: WarehouseCase) -> None:
    """Earlier values stay, wider ones fit; through append and merge."""
    names = [f"{number}: {narrow} to {wide}" for number, (narrow, wide, *_) in enumerate(_WIDER)]
    before = (ID, *(column(name, narrow) for name, (narrow, *_) in zip(names, _WIDER, strict=True)))
    after = (ID, *(column(name, wide) for name, (_, wide, *_) in zip(names, _WIDER, strict=True)))
    for mode in (LoadMode.APPEND, LoadMode.MERGE):
        table = replace(case.table, table=f"widened_{mode}")
        with opened(case) as warehouse:
            wanted = replace(request(case, "a", mode, columns=before, key=["id"]), table=table)
            run(warehouse, wanted, [(1, *(old for *_, old, _ in _WIDER))])
            wanted = replace(request(case, "b", mode, columns=after, key=["id"], base=1, widen=after[1:]), table=table)
            run(warehouse, wanted, [(2, *(new for *_, new in _WIDER))])
            state = warehouse.inspect(table)
            same(after, state and state.columns)
        found = case.read(table)
        assert found is not None  # noqa: S101
        found = found.sort_by("id")
        for name, (_, wide, old, new) in zip(names, _WIDER, strict=True):
            expected = pa.array([old, new], column(name, wide).type.arrow()).to_pylist()
            same((name, expected), (name, found.column(name).to_pylist()))


def narrower_values_fit_into_a_wider_table(case: WarehouseCase) -> None:
    """A table that is wider than the load keeps its type."""
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", LoadMode.MERGE, key=["id"]), [(1, "one")])
        narrow = (column("id", "int32", nullable=False), NAME)
        run(warehouse, request(case, "b", LoadMode.MERGE, columns=narrow, key=["id"], base=1), [(1, "uno"), (2, "dos")])
        state = warehouse.inspect(case.table)
        same(COLUMNS, state and state.columns)
    same([(1, "uno"), (2, "dos")], rows_of(case))


def a_column_may_become_nullable_or_stop_coming(case: WarehouseCase) -> None:
    """Then it loses NOT NULL in the table, with the commit; rows that are updated keep what the load leaves out."""
    strict = (ID, column("a", "string", nullable=False), column("b", "string", nullable=False))
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", LoadMode.MERGE, columns=strict, key=["id"]), [(1, "a", "b")])
        state = warehouse.inspect(case.table)
        same(strict, state and state.columns)
        loose = (ID, column("a", "string"))
        run(warehouse, request(case, "b", LoadMode.MERGE, columns=loose, key=["id"], base=1), [(1, None), (2, "A")])
    same([(1, None, "b"), (2, "A", None)], rows_of(case, "id", "a", "b"))


def replace_takes_any_columns(case: WarehouseCase) -> None:
    """A rebuilt table has the columns, types and key of the load, whatever it had before."""
    with opened(case) as warehouse:
        run(warehouse, request(case, "a", key=["id"]), [(1, "one")])
        columns = (column("name", "int32", nullable=False), column("at", "time"))
        run(warehouse, request(case, "b", columns=columns, key=["name"], base=1), [(5, time(1, 2, 3))])
        state = warehouse.inspect(case.table)
        same((columns, ("name",)), state and (state.columns, state.key))
        same({"_dk_run_id", "_dk_loaded_at"}, state and {each.name for each in state.metadata})
    same([(5, time(1, 2, 3))], rows_of(case, "name", "at"))


def a_null_where_the_contract_has_none_is_refused(case: WarehouseCase) -> None:
    """Somewhere before the commit, and nothing changes."""
    from datakit.errors import ContractError

    strict = (ID, column("a", "string", nullable=False))
    with opened(case) as warehouse:
        with refuses(ContractError, "a"):
            run(warehouse, request(case, "a", columns=strict), [(1, None)])
        same(None, case.read(case.table))


LAWS: tuple[Law, ...] = (
    every_type_keeps_every_value,
    what_cannot_be_kept_is_refused,
    names_are_kept,
    a_wide_table_fits,
    columns_can_be_added,
    columns_that_nobody_asked_for_are_refused,
    columns_can_be_widened,
    narrower_values_fit_into_a_wider_table,
    a_column_may_become_nullable_or_stop_coming,
    replace_takes_any_columns,
    a_null_where_the_contract_has_none_is_refused,
)
