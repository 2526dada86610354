"""Credentials change while a run is under way: no query fails, nothing restarts, nothing is loaded twice."""

from __future__ import annotations

import signal

from .house import DATASETS, FINANCE, Command, House, wait_until
from .test_broken_connections import activity, is_staging

CUSTOMERS = "CREATE TABLE ops.Customers (CustomerID int NOT NULL PRIMARY KEY, Name nvarchar(40) NULL)"
TABLES = {"orders": "ops.Orders", "customers": "ops.Customers"}
"""Dataset → where it is in the source; both land in ``bronze`` under their own names."""


def run_two_datasets(house: House, **environment: str) -> Command:
    """Start what a person starts to load all of finance; return it in the middle of the first of two datasets."""
    house.sql(CUSTOMERS)
    house.sql("INSERT INTO ops.Customers VALUES (1, N'Käufer'), (2, NULL)")
    house.datasets(DATASETS | {"customers": {"table": "ops.Customers", "key": ["CustomerID"]}})
    house.takes(FINANCE, *TABLES)
    house.fill(20_000, start=1000)
    house.server.fault("stall 2 after 10000 matching Customer")
    run = house.start("run", "--warehouse", FINANCE, DATAKIT_REPORT="", **environment)
    wait_until(lambda: is_staging(house), run)
    return run


def is_complete(house: House) -> None:
    """Check that each dataset was loaded once, and is exactly what the source holds."""
    for dataset, table in TABLES.items():
        assert 1 == len(house.loads(FINANCE, dataset))
        house.is_equal(FINANCE, table, f"bronze.{dataset}")


def test_a_warehouses_password_that_is_rotated_in_the_middle_of_a_run_is_taken_by_its_next_connection(
    house: House,
) -> None:
    run = run_two_datasets(house)
    house.finance = house.finance.rotate()
    house.secrets.publish("finance-db/password", house.finance.password)
    ended = run.end()
    assert 0 == ended.code, ended.err
    assert "waiting" not in ended.err
    is_complete(house)


def test_a_password_that_is_published_after_it_has_changed_in_the_warehouse_is_waited_for(house: House) -> None:
    run = run_two_datasets(house, DATAKIT_CREDENTIALS_WAIT="10m")
    house.finance = house.finance.rotate()
    assert run.process.stderr
    lines = iter(run.process.stderr.readline, "")
    assert any("password authentication failed" in line and "waiting for the sidecar" in line for line in lines)
    house.secrets.publish("finance-db/password", house.finance.password)
    ended = run.end()
    assert 0 == ended.code, ended.err
    is_complete(house)


def test_a_run_that_waits_for_a_password_in_another_thread_ends_when_it_is_told_to(house: House) -> None:
    house.datasets({"orders": DATASETS["orders"] | {"slices": {"column": "OrderID", "rows": 50}}})
    house.fill(1000, start=1000)
    house.server.fault("stall 2 matching COUNT_BIG")  # while it plans: the connections of the slices come after it
    run = house.begin(FINANCE, DATAKIT_CREDENTIALS_WAIT="10m")
    wait_until(lambda: bool(activity(house, "application_name LIKE 'datakit %'")), run)
    house.finance = house.finance.rotate()
    assert run.process.stderr
    lines = iter(run.process.stderr.readline, "")
    assert any("waiting for the sidecar, up to 600 s" in line for line in lines)
    run.signal(signal.SIGTERM)
    run.end().is_refused("Interrupted", 75, "SIGTERM")
    assert set() == house.tables(FINANCE)
