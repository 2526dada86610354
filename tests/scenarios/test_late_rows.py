"""Rows that commit late, with an older cursor value, and rows that are seen twice, because they change meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from .house import DATASETS, House


def events(house: House, warehouse: str, cursor: dict[str, str], mode: str) -> None:
    house.sql(
        "CREATE TABLE ops.Events (ID int NOT NULL PRIMARY KEY, At datetime2(3) NOT NULL, Version rowversion NOT NULL)"
    )
    house.datasets(DATASETS | {"events": {"table": "ops.Events", "key": ["ID"], "cursor": cursor}})
    house.takes(warehouse, "events", mode=mode)


def ids(house: House, warehouse: str) -> list[int]:
    return [id_ for (id_,) in house.query(warehouse, "SELECT id FROM bronze.events ORDER BY id")]


def test_merge_finds_a_row_that_became_visible_within_the_lag(house: House, warehouse: str) -> None:
    events(house, warehouse, {"column": "At", "lag": "10m"}, "merge")
    house.sql("INSERT INTO ops.Events (ID, At) VALUES (1, '2024-01-01T12:00:00')")
    house.loaded(warehouse, dataset="events")
    house.sql("INSERT INTO ops.Events (ID, At) VALUES (2, '2024-01-01T11:51:00')")
    house.loaded(warehouse, dataset="events")
    assert [1, 2] == ids(house, warehouse)
    house.is_equal(warehouse, "ops.Events", "bronze.events")


def test_append_stays_its_lag_behind_the_present_and_loses_and_doubles_nothing(house: House, warehouse: str) -> None:
    events(house, warehouse, {"column": "At", "lag": "10m"}, "append")
    now = datetime.now(UTC).replace(tzinfo=None)

    def happens(id_: int, minutes_ago: int) -> None:
        at = now - timedelta(minutes=minutes_ago)
        house.sql(f"INSERT INTO ops.Events (ID, At) VALUES ({id_}, '{at:%Y-%m-%dT%H:%M:%S}')")

    happens(1, 60)
    happens(3, 1)
    house.loaded(warehouse, dataset="events")
    assert [1] == ids(house, warehouse), "the newest row may still be joined by a late one"
    happens(2, 5)  # commits after row 3, with an older value
    assert 99 == house.load(warehouse, dataset="events").code
    events_without_lag = {"table": "ops.Events", "key": ["ID"], "cursor": {"column": "At", "lag": "1s"}}
    house.datasets(DATASETS | {"events": events_without_lag})  # as if ten minutes had passed
    house.loaded(warehouse, dataset="events")
    assert [1, 2, 3] == ids(house, warehouse)
    house.is_equal(warehouse, "ops.Events", "bronze.events")


@pytest.mark.parametrize("mode", ["merge", "append"])
def test_a_rowversion_that_an_open_transaction_holds_is_read_once_it_commits(
    house: House, warehouse: str, mode: str
) -> None:
    import pymssql

    events(house, warehouse, {"column": "Version"}, mode)
    house.sql("INSERT INTO ops.Events (ID, At) VALUES (1, '2024-01-01')")
    with pymssql.connect(
        server=house.server.host,
        port=str(house.server.port),
        user=house.server.user,
        password=house.server.password,
        database=house.database,
        autocommit=False,
        tds_version="7.4",
    ) as slow:
        slow.cursor().execute("INSERT INTO ops.Events (ID, At) VALUES (2, '2024-01-01')")
        house.sql("INSERT INTO ops.Events (ID, At) VALUES (3, '2024-01-01')")
        report = house.loaded(warehouse, dataset="events")
        assert 2 not in ids(house, warehouse)
        slow.commit()
    house.loaded(warehouse, dataset="events")
    assert [1, 2, 3] == ids(house, warehouse)
    house.is_equal(warehouse, "ops.Events", "bronze.events")
    assert report["cursor"]["column"] == "Version"


def twice(house: House, warehouse: str, at: str) -> None:
    """Show row 7 a second time, as a scan does that a change moved it ahead of; the table declares no key."""
    house.sql("CREATE TABLE ops.Heap (ID int NOT NULL, Name nvarchar(9) NULL, At datetime2(3) NOT NULL)")
    house.sql("INSERT INTO ops.Heap SELECT value, N'old', '2024-01-01' FROM GENERATE_SERIES(1, 9)")
    house.sql(f"INSERT INTO ops.Heap VALUES (7, N'new', {at})")
    cursor = {"column": "At", "lag": "10m"}
    house.datasets(DATASETS | {"heap": {"table": "ops.Heap", "key": ["ID"], "cursor": cursor}})
    house.takes(warehouse, "heap", mode="merge")


def test_of_a_row_that_changed_while_it_was_read_the_newest_version_is_merged(house: House, warehouse: str) -> None:
    twice(house, warehouse, "SYSUTCDATETIME()")
    for full in ((), ("--full",)):
        report = house.loaded(warehouse, *full, dataset="heap")
        counts = [report[name] for name in ("rows_read", "rows_written", "server_rows")]
        assert [report["rows_applied"] + 1] * 3 == counts
        rows = house.query(warehouse, "SELECT id, name FROM bronze.heap ORDER BY id")
        assert [(id_, "new" if id_ == 7 else "old") for id_ in range(1, 10)] == rows


def test_rows_that_share_a_key_and_did_not_change_meanwhile_are_refused(house: House, warehouse: str) -> None:
    twice(house, warehouse, "'2024-01-02'")
    house.load(warehouse, dataset="heap").is_refused("InvalidKey", 78, "bronze.heap", "7")
    assert "heap" not in house.tables(warehouse)
