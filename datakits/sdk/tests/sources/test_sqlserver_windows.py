"""What a window says about rows that change after it was planned, for each kind of cursor."""

from __future__ import annotations

import pytest
from datakit.model.load import Window
from datakit.model.manifest import Cursor, Dataset, LoadMode
from datakit.sources.notation import to_value
from datakit.sources.sqlserver import SqlServerSource

from .conftest import Ops, Table

# column, a value long ago, one that a change gives it now, and the lag
CURSORS = {
    "datetime2": ("datetime2(3) NOT NULL", "'2024-01-01'", "SYSUTCDATETIME()", "5m"),
    "datetime": ("datetime NOT NULL", "'2024-01-01'", "SYSUTCDATETIME()", "0s"),
    "smalldatetime": ("smalldatetime NOT NULL", "'2024-01-01'", "SYSUTCDATETIME()", "2m"),
    "date": ("date NOT NULL", "'2024-01-01'", "SYSUTCDATETIME()", "0s"),
    "datetimeoffset": ("datetimeoffset(7) NOT NULL", "'2024-01-01 12:00 +02:00'", "SYSDATETIMEOFFSET()", "5m"),
    "int": ("int NOT NULL", "5", "6", "0s"),
    "decimal": ("decimal(38,2) NOT NULL", "5.01", "5.02", "0s"),
}


def plan(source: SqlServerSource, dataset: Dataset, mode: LoadMode) -> Window:
    window = source.plan(dataset, source.describe("ops.t", dataset), mode=mode, since=None, slices=None).window
    assert window is not None
    return window


@pytest.mark.parametrize("kind", CURSORS)
def test_a_change_after_the_plan_lies_above_and_what_was_there_does_not(
    ops: Ops, source: SqlServerSource, table: Table, kind: str
) -> None:
    declared, before, now, lag = CURSORS[kind]
    dataset = Dataset(
        table=table(f"id int NOT NULL, at {declared}", f"(1, {before})"), cursor=Cursor(column="at", lag=lag)
    )
    contract = source.describe("ops.t", dataset)
    window = plan(source, dataset, LoadMode.MERGE)
    ops.run(f"INSERT INTO {dataset.table} VALUES (2, {now})")
    again = plan(source, dataset, LoadMode.MERGE)
    column = contract.column("at")
    assert column is not None
    first, changed_after, second = (
        to_value(str(text), column.type) for text in (window.until, window.changed_after, again.until)
    )
    assert first <= changed_after < second  # type: ignore[operator]  # all three have the column's type
    assert plan(source, dataset, LoadMode.APPEND).changed_after is None


def test_a_change_gets_a_rowversion_above_those_of_the_plan(ops: Ops, source: SqlServerSource, table: Table) -> None:
    dataset = Dataset(table=table("id int NOT NULL, at rowversion NOT NULL"), cursor=Cursor(column="at"))
    ops.run(f"INSERT INTO {dataset.table} (id) VALUES (1)")
    window = plan(source, dataset, LoadMode.MERGE)
    assert window.until == window.changed_after
    ops.run(f"UPDATE {dataset.table} SET id = 2")
    ((version,),) = ops.run(f"SELECT CONVERT(varchar(18), CONVERT(binary(8), at), 1) FROM {dataset.table}")
    assert str(version) > str(window.changed_after)


def test_an_empty_table_says_nothing_about_changes(source: SqlServerSource, table: Table) -> None:
    dataset = Dataset(table=table("id int NOT NULL, at datetime2(3) NOT NULL"), cursor=Cursor(column="at"))
    assert plan(source, dataset, LoadMode.MERGE).changed_after is None
