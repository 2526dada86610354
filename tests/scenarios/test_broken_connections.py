"""The source or the warehouse goes away in the middle: old or new, never between, and the retry is exact."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest

from .house import FINANCE, MARKETING, House, wait_until

pytestmark = pytest.mark.slow

TEMPORARY = 75


def test_a_source_that_drops_the_connection_once_is_read_again_and_the_load_is_exact(
    house: House, warehouse: str
) -> None:
    house.fill(20_000, start=1000)
    house.server.fault("drop after 9000 matching Orders")
    report = house.loaded(warehouse)
    assert ("loaded", 20_100, 20_100) == (report["status"], report["rows_read"], report["rows_written"])
    house.is_equal(warehouse)


def test_a_source_that_keeps_dropping_is_temporary_and_the_same_run_id_completes_it(
    house: House, warehouse: str
) -> None:
    house.loaded(warehouse, run_id="first")
    before = house.source()
    house.fill(5000, start=1000, at="2024-02-01")
    house.server.fault("drop after 3000 matching Customer always")
    failed = house.load(warehouse, run_id="second")
    failed.is_refused("SourceUnavailable", TEMPORARY, "ops.Orders", "the connection dropped")
    assert (before, ["first"]) == (house.landed(warehouse), house.loads(warehouse))
    house.server.fault("clear")
    house.loaded(warehouse, run_id="second")
    assert ["first", "second"] == house.loads(warehouse)
    house.is_equal(warehouse)


def test_a_deadlock_in_the_middle_of_a_read_is_read_again(house: House, warehouse: str) -> None:
    house.server.fault("error 1205 after 40 matching Customer")
    house.loaded(warehouse)
    house.is_equal(warehouse)


def test_a_server_at_its_limit_of_sessions_is_temporary_and_named(house: House) -> None:
    house.server.fault("error 10928 at login always")
    house.load(MARKETING).is_refused(
        "SourceUnavailable", TEMPORARY, f"localhost:{house.server.port}", "limit of sessions"
    )
    assert set() == house.tables(MARKETING)


def test_a_postgresql_that_is_killed_at_commit_keeps_the_old_table_and_the_retry_is_exact(house: House) -> None:
    house.loaded(FINANCE, run_id="first")
    before = house.landed(FINANCE)
    house.sql("UPDATE ops.Orders SET Amount = Amount + 1, ModifiedAt = '2024-03-01'")
    with closing(psycopg.connect(house.finance.dsn())) as reader:
        reader.execute("LOCK TABLE bronze.orders IN ACCESS EXCLUSIVE MODE")
        run = house.begin(FINANCE, run_id="second")
        wait_until(lambda: is_waiting(house), run)
        house.finance.server.kill()
        run.end().is_refused("WarehouseUnavailable", TEMPORARY, "localhost")
    house.finance.server.start()
    assert (before, ["first"]) == (house.landed(FINANCE), house.loads(FINANCE))
    house.loaded(FINANCE, run_id="second")
    assert ["first", "second"] == house.loads(FINANCE)
    house.is_equal(FINANCE)


def test_a_postgresql_that_restarts_while_rows_arrive_costs_a_retry_and_no_row(house: House) -> None:
    house.loaded(FINANCE, run_id="first")
    before = house.landed(FINANCE)
    house.fill(60_000, start=1000, at="2024-02-01")
    house.server.fault("stall 8 after 50000 matching Customer")  # the batches before it are being copied
    run = house.begin(FINANCE, run_id="second")
    wait_until(lambda: bool(activity(house, "query ILIKE 'COPY %' AND state = 'active'")), run)
    house.finance.server.stop("immediate")
    house.finance.server.start()
    run.end().is_refused("WarehouseUnavailable", TEMPORARY)
    assert (before, ["first"]) == (house.landed(FINANCE), house.loads(FINANCE))
    house.server.fault("clear")
    house.loaded(FINANCE, run_id="second")
    house.is_equal(FINANCE)


def test_one_warehouse_is_down_and_the_other_is_loaded(house: House) -> None:
    house.finance.server.stop()
    down, up = house.begin(FINANCE), house.begin(MARKETING)
    down.end().is_refused("WarehouseUnavailable", TEMPORARY, f"localhost:{house.finance.port}")
    assert 0 == up.end().code
    house.is_equal(MARKETING)
    house.finance.server.start()
    house.loaded(FINANCE)
    house.is_equal(FINANCE)


def is_waiting(house: House) -> bool:
    """Whether a session of the database waits for a lock of a table."""
    return bool(activity(house, "wait_event_type = 'Lock' AND wait_event = 'relation'"))


def is_staging(house: House) -> bool:
    """Whether a run has opened its staging table in PostgreSQL, and reads the source."""
    return any(name.startswith("_dk_staging_") for name in house.tables(FINANCE))


def activity(house: House, condition: str) -> int:
    with house.finance.server.connect() as connection:
        row = connection.execute(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{house.finance.name}' AND {condition}".encode()
        ).fetchone()
    return int(row[0]) if row else 0
