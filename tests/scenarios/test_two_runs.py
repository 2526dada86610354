"""Two runs of one dataset at once, and one run whose slices are loaded by several processes."""

from __future__ import annotations

from .house import FINANCE, MARKETING, House, wait_until
from .test_broken_connections import is_staging


def test_of_two_runs_at_once_one_is_refused_and_the_other_is_whole(house: House, warehouse: str) -> None:
    house.loaded(warehouse, run_id="first")
    house.fill(30_000, start=1000, at="2024-02-01")
    runs = {run_id: house.begin(warehouse, run_id=run_id) for run_id in ("left", "right")}
    ended = {run_id: run.end() for run_id, run in runs.items()}
    for one in ended.values():
        if one.code:
            one.is_refused("LoadInProgress" if warehouse == FINANCE else one.error["type"], 75)
            assert one.error["type"] in {"LoadInProgress", "WarehouseUnavailable"}
    done = {run_id for run_id, one in ended.items() if one.code == 0}
    assert done
    assert {"first", *done} == set(house.loads(warehouse))
    house.is_equal(warehouse)
    for run_id, one in ended.items():  # what was refused is temporary: its retry succeeds
        if one.code:
            house.loaded(warehouse, run_id=run_id)
    house.is_equal(warehouse)


def test_the_run_that_is_refused_names_the_one_that_holds_the_table(house: House) -> None:
    house.fill(20_000, start=1000)
    house.server.fault("stall 60 after 10000 matching Customer")
    holder = house.begin(FINANCE, run_id="holder")
    wait_until(lambda: is_staging(house), holder)
    house.load(FINANCE, run_id="other").is_refused("LoadInProgress", 75, "bronze.orders", "datakit", "since")
    holder.kill()
    house.server.fault("clear")
    house.loaded(FINANCE, run_id="other")
    house.is_equal(FINANCE)


def test_a_duckdb_file_that_another_process_has_open_is_temporary_and_its_process_is_named(house: House) -> None:
    house.fill(20_000, start=1000)
    house.server.fault("stall 60 after 10000 matching Customer")
    holder = house.begin(MARKETING, run_id="holder")
    wait_until(lambda: house.duckdb.exists() and house.duckdb.stat().st_size > 0, holder)
    house.located(marketing={"wait": "1s"})
    other = house.load(MARKETING, run_id="other")
    other.is_refused(other.error["type"], 75, str(house.duckdb), str(holder.process.pid))
    holder.kill()
    house.server.fault("clear")
    house.loaded(MARKETING, run_id="other")
    house.is_equal(MARKETING)


def test_two_warehouses_load_the_same_dataset_at_once(house: House) -> None:
    house.fill(20_000, start=1000)
    for run in [house.begin(FINANCE), house.begin(MARKETING)]:
        ended = run.end()
        assert 0 == ended.code, ended.err
    assert house.landed(FINANCE) == house.landed(MARKETING)
    house.is_equal(FINANCE)


def test_slices_load_in_processes_of_their_own_and_one_that_failed_is_tried_again(house: House) -> None:
    house.loaded(FINANCE, run_id="first")
    old = house.landed(FINANCE)
    house.fill(40_000, start=1000, at="2024-02-01")
    plan = house.loaded(FINANCE, "--slice", "plan", "--parallel", "4", run_id="shared")
    assert ("planned", 4) == (plan["status"], plan["slices"])

    house.server.fault("drop after 500 matching Customer times 3")  # whichever comes first gives up after three
    slices = {index: house.begin(FINANCE, "--slice", f"{index}/4", run_id="shared") for index in (4, 2, 1, 3)}
    ended = {index: run.end() for index, run in slices.items()}
    house.server.fault("clear")
    early = house.load(FINANCE, "--slice", "commit", run_id="shared")
    failed = [index for index, one in ended.items() if one.code]
    if failed:
        assert early.code not in {0, 99}
        assert (old, ["first"]) == (house.landed(FINANCE), house.loads(FINANCE))
    for index in failed:
        ended[index].is_refused("SourceUnavailable", 75)
    again = {index: house.loaded(FINANCE, "--slice", f"{index}/4", run_id="shared") for index in failed}
    if failed:
        done = house.loaded(FINANCE, "--slice", "commit", run_id="shared")
        assert "loaded" == done["status"]
    assert ["first", "shared"] == house.loads(FINANCE)
    written = {**{index: one.report for index, one in ended.items() if not one.code}, **again}
    assert {1, 2, 3, 4} == set(written)
    house.is_equal(FINANCE)
    late = house.loaded(FINANCE, "--slice", "2/4", run_id="shared")
    assert "already_loaded" == late["status"]


def test_a_slice_that_was_killed_is_loaded_once_by_its_retry(house: House) -> None:
    house.fill(40_000, start=1000)
    house.loaded(FINANCE, "--slice", "plan", "--parallel", "2", run_id="shared")
    house.loaded(FINANCE, "--slice", "1/2", run_id="shared")
    house.server.fault("stall 60 after 10000 matching Customer")
    victim = house.begin(FINANCE, "--slice", "2/2", run_id="shared")
    wait_until(lambda: is_staging(house), victim)
    victim.kill()
    house.server.fault("clear")
    early = house.load(FINANCE, "--slice", "commit", run_id="shared")
    assert early.code not in {0, 99}
    assert "orders" not in house.tables(FINANCE)
    house.loaded(FINANCE, "--slice", "2/2", run_id="shared")
    house.loaded(FINANCE, "--slice", "1/2", run_id="shared")
    house.loaded(FINANCE, "--slice", "commit", run_id="shared")
    house.is_equal(FINANCE)
