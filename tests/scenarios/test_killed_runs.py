"""kill -9 and SIGTERM at chosen and random moments of a whole run: the old state or the new one, exact at last."""

from __future__ import annotations

import random
import signal
import time

import psycopg
import pytest

from .house import FINANCE, MARKETING, Command, House, wait_until
from .test_broken_connections import is_staging, is_waiting

GROWN = 60_000
"""Rows that the second load brings: enough for a second of reading and writing."""


def grow(house: House) -> None:
    """Load what is there; then let many orders arrive, and all earlier ones change."""
    for warehouse in (FINANCE, MARKETING):
        house.loaded(warehouse, run_id="first")
    house.sql("UPDATE ops.Orders SET Amount = Amount + 1, ModifiedAt = '2024-03-01'")
    house.fill(GROWN, start=1000, at="2024-02-01")


def is_old_or_new_then_exact(house: House, warehouse: str, old: object, run_id: str) -> bool:
    """Check the state after a kill, and after the retry; return whether the killed run had committed."""
    committed = house.loads(warehouse)[-1] == run_id
    new = house.source()
    assert (new if committed else old) == house.landed(warehouse)
    report = house.loaded(warehouse, run_id=run_id)
    assert ("already_loaded" if committed else "loaded") == report["status"]
    assert [run_id] == house.loads(warehouse)[1:]
    assert new == house.landed(warehouse)
    assert {"orders"} == house.tables(warehouse), "nothing of the killed run is left"
    return committed


def stalled(house: House, warehouse: str, run_id: str) -> Command:
    """Start a run and return while it waits for the source, in the middle of its rows."""
    house.server.fault("stall 60 after 30000 matching Customer")
    run = house.begin(warehouse, run_id=run_id)
    if warehouse == FINANCE:
        wait_until(lambda: is_staging(house), run)
    else:  # nobody else can look into its file now, but the file grows
        size = house.duckdb.stat().st_size
        wal = house.duckdb.with_name(f"{house.duckdb.name}.wal")
        wait_until(lambda: house.duckdb.stat().st_size > size or (wal.exists() and wal.stat().st_size > 0), run)
    time.sleep(0.5)
    return run


def test_a_run_that_is_killed_while_rows_arrive_leaves_the_old_table(house: House, warehouse: str) -> None:
    grow(house)
    old = house.landed(warehouse)
    stalled(house, warehouse, "second").kill()
    house.server.fault("clear")
    assert not is_old_or_new_then_exact(house, warehouse, old, "second")


def test_a_run_that_is_killed_in_its_commit_leaves_the_old_table(house: House) -> None:
    grow(house)
    old = house.landed(FINANCE)
    with psycopg.connect(house.finance.dsn()) as reader:
        reader.execute("LOCK TABLE bronze.orders IN ACCESS EXCLUSIVE MODE")
        run = house.begin(FINANCE, run_id="second")
        wait_until(lambda: is_waiting(house), run)
        run.kill()
    wait_until(lambda: not is_waiting(house))
    # The server may finish the commit of a client that died after it had sent it; here it had not.
    assert not is_old_or_new_then_exact(house, FINANCE, old, "second")


def test_a_run_that_is_asked_to_end_leaves_the_warehouse_as_it_was_and_a_report(house: House, warehouse: str) -> None:
    grow(house)
    old = house.landed(warehouse)
    run = stalled(house, warehouse, "second")
    run.signal(signal.SIGTERM)
    ended = run.end(60)
    ended.is_refused("Interrupted", 75, "SIGTERM")
    assert ["first"] == house.loads(warehouse)
    assert {"orders"} == house.tables(warehouse), "nothing of the interrupted run is left"
    house.server.fault("clear")
    assert not is_old_or_new_then_exact(house, warehouse, old, "second")


def kill_at_random(house: House, warehouse: str, times: int, seed: int) -> None:
    """Let a run die at random moments, each time from the same state of the source's life."""
    chance = random.Random(seed)
    house.fill(GROWN, start=1000)
    began = time.monotonic()
    house.loaded(warehouse, run_id="0")
    whole = time.monotonic() - began
    for number in range(1, times + 1):
        old = house.landed(warehouse)
        run_id = str(number)
        house.sql(
            f"UPDATE ops.Orders SET Quantity = {number}, ModifiedAt = DATEADD(hour, {number}, ModifiedAt)"
            f" WHERE OrderID % {times} <> {number % times}"
        )
        run = house.begin(warehouse, run_id=run_id)
        time.sleep(chance.uniform(0.25, 1.15) * whole)
        run.kill()
        committed = run_id in house.loads(warehouse)
        new = house.source()
        assert (new if committed else old) == house.landed(warehouse), f"killed in run {number}"
        report = house.loaded(warehouse, run_id=run_id)
        assert ("already_loaded" if committed else "loaded") == report["status"]
        assert new == house.landed(warehouse), f"retry of run {number}"
        assert [str(before) for before in range(number + 1)] == house.loads(warehouse)


def test_a_run_that_is_killed_at_a_few_random_moments_is_old_or_new_and_then_exact(
    house: House, warehouse: str
) -> None:
    kill_at_random(house, warehouse, times=3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a hundred loads, on a machine that may be busy
def test_a_run_that_is_killed_at_many_random_moments_is_old_or_new_and_then_exact(house: House, warehouse: str) -> None:
    kill_at_random(house, warehouse, times=20, seed=2)
