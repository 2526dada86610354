"""What a user of the engine sees: rows, once, whole; and an honest report."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta

import pyarrow as pa
import pytest
from datakit.errors import (
    ConfigurationError,
    InvalidCursor,
    InvalidKey,
    LoadInProgress,
    NothingToDo,
    RowsLost,
    SourceUnavailable,
    WarehouseUnavailable,
)
from datakit.model.manifest import Cursor, LoadMode, SchemaPolicy
from datakit.testing.arrow_source import Fault

from .conftest import TABLE, Bench, flights


def test_a_first_load_creates_the_table_with_rows_and_metadata(bench: Bench) -> None:
    report = bench.run("run-1")

    assert (report.status, report.rows_read, report.rows_written, report.server_rows) == ("loaded", 100, 100, 100)
    assert list(range(1, 101)) == bench.ids()
    metadata = "_dk_run_id, _dk_source, _dk_datakit"
    assert bench.query(f"SELECT DISTINCT {metadata} FROM bronze.flights") == [
        ("run-1", "airline.flights", "sqlserver-bronze@1.0.0")
    ]
    assert bench.query("SELECT count(DISTINCT _dk_loaded_at) FROM bronze.flights") == [(1,)]


def test_a_second_merge_reads_the_lag_again_and_updates_and_inserts(bench: Bench) -> None:
    bench.run("run-1")
    changed = flights(50, start=1, minute=10, delay=99)
    bench.source.tables["ops.Flights"] = pa.concat_tables(
        [changed, flights(100).slice(50), flights(5, start=101, minute=11)]
    )

    report = bench.run("run-2")

    assert list(range(1, 106)) == bench.ids()
    assert bench.query("SELECT count(*) FROM bronze.flights WHERE arr_delay = 99") == [(50,)]
    assert report.cursor is not None
    assert "2025-12-31T23:56:39" in (report.cursor.since or "").replace(" ", "T")


def test_a_row_that_commits_late_with_an_older_cursor_is_not_lost_by_merge(bench: Bench) -> None:
    bench.run("run-1")
    late = flights(1, start=500, minute=1)
    newer = flights(1, start=501, minute=4)
    bench.source.tables["ops.Flights"] = pa.concat_tables([flights(100), late, newer])

    bench.run("run-2")

    assert {500, 501} <= set(bench.ids())


def test_a_row_that_commits_late_with_an_older_cursor_is_not_lost_by_append(bench: Bench) -> None:
    bench.source.now = lambda: datetime.fromisoformat("2026-01-01T00:06:30+00:00")
    bench.run("run-1", mode=LoadMode.APPEND)
    assert len(bench.ids()) == 91, "rows younger than the lag wait for the next load"
    late = flights(1, start=500, minute=1).set_column(
        1, pa.field("ModifiedAt", pa.timestamp("us"), nullable=False), [[datetime(2026, 1, 1, 0, 1, 31)]]
    )
    bench.source.tables["ops.Flights"] = pa.concat_tables([flights(100), late])
    bench.source.now = lambda: datetime.fromisoformat("2026-01-01T12:00:00+00:00")

    bench.run("run-2", mode=LoadMode.APPEND)

    assert [*range(1, 101), 500] == bench.ids()


def test_the_same_run_never_loads_twice(bench: Bench) -> None:
    bench.run("run-1", mode=LoadMode.APPEND)
    reads = len(bench.source.reads)

    report = bench.run("run-1", mode=LoadMode.APPEND)

    assert (report.status, report.rows_written) == ("already_loaded", 100)
    assert reads == len(bench.source.reads), "a finished run must not even touch the source"
    assert len(bench.ids()) == 100


def test_nothing_new_is_skipped_and_leaves_no_trace(bench: Bench) -> None:
    bench.run("run-1", mode=LoadMode.APPEND)
    with pytest.raises(NothingToDo, match="nothing is newer"):
        bench.run("run-2", mode=LoadMode.APPEND)

    assert bench.query("SELECT run_id FROM bronze._dk_loads") == [("run-1",)]


def test_an_empty_source_makes_an_empty_table(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = flights(0)
    report = bench.run("run-1")

    assert (report.status, report.rows_written) == ("loaded", 0)
    assert bench.ids() == []

    bench.source.tables["ops.Flights"] = flights(3)
    assert bench.run("run-2").rows_written == 3


def test_replace_swaps_the_table_and_keeps_the_cursor_for_later(bench: Bench) -> None:
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = flights(10, start=1000, minute=60)

    report = bench.run("run-2", full=True, mode=LoadMode.APPEND)

    assert list(range(1000, 1010)) == bench.ids()
    assert LoadMode.REPLACE is report.mode
    with pytest.raises(NothingToDo):
        bench.run("run-3", mode=LoadMode.APPEND)


def test_a_lost_row_is_an_error_and_nothing_is_committed(bench: Bench) -> None:
    bench.source.inject("ops.Flights", Fault(loses=1, times=None))

    with pytest.raises(RowsLost, match="sent 100 rows, 99 were read"):
        bench.run("run-1")

    assert "flights" not in bench.tables()


def test_a_dropped_connection_starts_the_slice_again_and_the_load_stays_exact(bench: Bench) -> None:
    bench.source.inject("ops.Flights", Fault(error=SourceUnavailable("dropped"), after_rows=50, slice_index=2))

    report = bench.run("run-1", parallel=4)

    assert (report.rows_read, bench.progress.rows) == (100, 100)
    assert list(range(1, 101)) == bench.ids()


def test_a_source_that_keeps_dropping_fails_and_a_retry_with_the_same_run_continues(bench: Bench) -> None:
    bench.source.inject("ops.Flights", Fault(error=SourceUnavailable("dropped"), slice_index=4, times=3))
    with pytest.raises(SourceUnavailable):
        bench.run("run-1", parallel=4)
    assert "flights" not in bench.tables()

    bench.source.reads.clear()
    report = bench.run("run-1", parallel=4)

    assert report.status == "loaded"
    assert list(range(1, 101)) == bench.ids()
    assert len(bench.source.reads) < 4, "slices that were staged are not read again"


def test_slices_on_other_machines_share_one_plan_and_commit_together(bench: Bench) -> None:
    assert bench.run("run-1", slice="plan", parallel=4).slices == 4
    bench.source.tables["ops.Flights"] = flights(100)
    for index in (3, 1, 4):
        assert bench.run("run-1", slice=f"{index}/4").status == "staged"

    with pytest.raises(RowsLost):
        bench.run("run-1", slice="commit")
    assert "flights" not in bench.tables()

    bench.run("run-1", slice="2/4")
    report = bench.run("run-1", slice="commit")

    assert (report.status, report.rows_written) == ("loaded", 100)
    assert list(range(1, 101)) == bench.ids()
    assert bench.run("run-1", slice="commit").status == "already_loaded"


def test_a_slice_that_runs_twice_counts_once(bench: Bench) -> None:
    for part in ("1/2", "1/2", "2/2", "2/2", "commit"):
        bench.run("run-1", slice=part)

    assert list(range(1, 101)) == bench.ids()


def test_a_slice_of_another_count_is_refused(bench: Bench) -> None:
    bench.run("run-1", slice="1/4")
    with pytest.raises(ConfigurationError, match="planned in 4 slices, not 3"):
        bench.run("run-1", slice="1/3")


def test_slices_staged_before_another_run_committed_are_not_committed(bench: Bench) -> None:
    bench.run("run-1", slice="1/2")
    bench.run("run-2")
    bench.run("run-1", slice="2/2")
    with pytest.raises(RowsLost, match="1"):
        bench.run("run-1", slice="commit")

    bench.run("run-1", slice="1/2")
    assert "loaded" == bench.run("run-1", slice="commit").status
    assert list(range(1, 101)) == bench.ids()


def test_a_commit_without_a_plan_is_refused(bench: Bench) -> None:
    with pytest.raises(ConfigurationError, match="has no plan"):
        bench.run("run-1", slice="commit")


def test_two_runs_of_one_dataset_at_once_never_interleave(bench: Bench) -> None:
    with bench.warehouse().exclusive("airline.flights", TABLE), pytest.raises((LoadInProgress, WarehouseUnavailable)):
        bench.run("run-2")
    assert bench.run("run-2").status == "loaded"


def test_duplicate_keys_are_refused_by_merge_with_an_example(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = pa.concat_tables([flights(3), flights(1, start=2)])
    with pytest.raises(InvalidKey, match="flight_id"):
        bench.run("run-1")
    assert "flights" not in bench.tables()


def moved(*rows: pa.Table) -> pa.Table:
    """What a scan along the cursor sees of a table in which these rows moved ahead of it after it had seen them."""
    return pa.concat_tables([flights(100), *rows])


def test_of_a_row_that_was_updated_while_it_was_read_the_newest_version_is_merged(bench: Bench) -> None:
    minutes = int(timedelta(hours=12) / timedelta(minutes=1))
    bench.source.tables["ops.Flights"] = moved(
        flights(1, start=7, minute=minutes - 5, delay=77), flights(1, start=7, minute=minutes + 1, delay=78)
    )
    report = bench.run("run-1")
    assert (102, 102, 102, 100) == (report.rows_read, report.rows_written, report.server_rows, report.rows_applied)
    assert list(range(1, 101)) == bench.ids()
    assert [(78,)] == bench.query("SELECT arr_delay FROM bronze.flights WHERE flight_id = 7")
    assert [(102, 100)] == bench.query("SELECT rows, rows_applied FROM bronze._dk_loads")
    again = bench.run("run-1")
    assert ("already_loaded", 102, 100) == (again.status, again.rows_written, again.rows_applied)


def test_rows_that_share_a_key_and_were_not_changed_meanwhile_are_no_versions(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = moved(flights(1, start=7, minute=600))
    with pytest.raises(InvalidKey, match="2 rows of one key"):
        bench.run("run-1")
    assert "flights" not in bench.tables()


@pytest.mark.parametrize("mode", [LoadMode.APPEND, LoadMode.REPLACE])
def test_only_a_merge_knows_versions(bench: Bench, mode: LoadMode) -> None:
    minutes = int(timedelta(hours=11, minutes=50) / timedelta(minutes=1))
    bench.source.tables["ops.Flights"] = moved(flights(1, start=7, minute=minutes))
    bench.settings = replace(
        bench.settings, dataset=bench.settings.dataset.model_copy(update={"cursor": Cursor(column="ModifiedAt")})
    )
    with pytest.raises(InvalidKey, match="2 rows of one key"):
        bench.run("run-1", mode=mode)


def test_a_rebuild_under_merge_knows_versions_too(bench: Bench) -> None:
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = moved(flights(1, start=7, minute=720, delay=77))
    report = bench.run("run-2", full=True)
    assert (LoadMode.REPLACE, 101, 100) == (report.mode, report.rows_written, report.rows_applied)
    assert [(77,)] == bench.query("SELECT arr_delay FROM bronze.flights WHERE flight_id = 7")


def test_a_cursor_that_ran_backwards_is_refused(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = flights(3, minute=60)
    bench.run("run-1")
    bench.source.tables["ops.Flights"] = flights(3)
    with pytest.raises(InvalidCursor, match="below"):
        bench.run("run-2")


def test_another_cursor_than_last_time_is_refused_until_a_full_run(bench: Bench) -> None:
    bench.run("run-1")
    by_id = replace(
        bench.settings, dataset=bench.settings.dataset.model_copy(update={"cursor": Cursor(column="FlightID")})
    )
    bench.settings = by_id
    with pytest.raises(InvalidCursor, match="continued from ModifiedAt"):
        bench.run("run-2")

    bench.run("run-3", full=True)
    bench.source.tables["ops.Flights"] = flights(102)
    assert bench.run("run-4").status == "loaded"
    assert len(bench.ids()) == 102


def test_the_row_hash_is_the_same_for_the_same_values_and_tells_null_from_empty(bench: Bench) -> None:
    bench.run("run-1", row_hash=True)
    first = bench.query("SELECT flight_id, _dk_row_hash FROM bronze.flights ORDER BY 1")
    bench.run("run-2", row_hash=True, full=True)

    assert first == bench.query("SELECT flight_id, _dk_row_hash FROM bronze.flights ORDER BY 1")
    assert len({digest for _, digest in first}) == 100


def test_the_report_says_what_was_read_and_from_where_to_where(bench: Bench) -> None:
    report = bench.run("run-1")
    assert report.cursor is not None
    assert (report.cursor.column, report.cursor.since) == ("ModifiedAt", None)
    assert "00:01:39" in (report.cursor.until or "")
    assert report.bytes > 0
    assert report.rows_per_second
    assert report.seconds <= (report.ended_at - report.started_at) / timedelta(seconds=1) + 0.1


def test_a_source_that_stalls_ends_when_another_slice_fails(bench: Bench) -> None:
    bench.source.inject("ops.Flights", Fault(stalls=True, slice_index=1))
    bench.source.inject("ops.Flights", Fault(error=InvalidKey("broken"), slice_index=2))
    done = threading.Event()

    def load() -> None:
        with pytest.raises(InvalidKey, match="broken"):
            bench.run("run-1", parallel=2)
        done.set()

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert done.is_set(), "a stalled slice must not keep a failed run alive"


def test_a_full_append_stays_behind_the_present_too_so_that_no_row_is_lost_or_doubled_after_it(bench: Bench) -> None:
    bench.source.now = lambda: datetime.fromisoformat("2026-01-01T00:06:30+00:00")
    bench.run("run-1", mode=LoadMode.APPEND, full=True)
    assert 91 == len(bench.ids())
    bench.source.now = lambda: datetime.fromisoformat("2026-01-01T12:00:00+00:00")

    bench.run("run-2", mode=LoadMode.APPEND)

    assert list(range(1, 101)) == bench.ids()


@pytest.mark.parametrize("full", [False, True])
def test_an_append_does_not_continue_from_a_merge_nor_from_its_rebuild(bench: Bench, full: bool) -> None:
    bench.run("run-1", full=full)
    bench.source.tables["ops.Flights"] = flights(120)
    with pytest.raises(InvalidCursor, match="mode was changed to append; run run-1"):
        bench.run("run-2", mode=LoadMode.APPEND)
    assert list(range(1, 101)) == bench.ids()

    bench.run("run-3", mode=LoadMode.APPEND, full=True)
    assert list(range(1, 121)) == bench.ids()
    with pytest.raises(NothingToDo):
        bench.run("run-4", mode=LoadMode.APPEND)


def test_a_retry_whose_last_slice_is_empty_commits_what_an_earlier_try_staged(bench: Bench) -> None:
    bench.run("run-1")
    gap = pa.concat_tables([flights(1, start=200, minute=9), flights(1, start=600, minute=9)])
    bench.source.tables["ops.Flights"] = pa.concat_tables([flights(100), gap])
    bench.source.inject("ops.Flights", Fault(error=SourceUnavailable("dropped"), slice_index=3, times=3))
    with pytest.raises(SourceUnavailable):
        bench.run("run-2", parallel=4)

    assert "loaded" == bench.run("run-2", parallel=4).status
    assert {200, 600} <= set(bench.ids())


def test_more_workers_than_slices_have_nothing_to_do_and_harm_nothing(bench: Bench) -> None:
    bench.source.tables["ops.Flights"] = flights(2)
    for index in (1, 2, 3, 4):
        assert "staged" == bench.run("run-1", slice=f"{index}/4").status

    assert ("loaded", 2) == (bench.run("run-1", slice="commit").status, len(bench.ids()))


def test_the_commit_of_slices_that_found_nothing_new_finds_nothing_either(bench: Bench) -> None:
    bench.run("run-1", mode=LoadMode.APPEND)
    for step in ("plan", "1/2", "2/2", "commit"):
        with pytest.raises(NothingToDo):
            bench.run("run-2", mode=LoadMode.APPEND, slice=step)


def test_a_row_hash_that_is_asked_for_later_comes_under_any_policy(bench: Bench) -> None:
    bench.run("run-1")
    bench.run("run-2", row_hash=True, schema_changes=SchemaPolicy.FREEZE)
    assert [(100,)] == bench.query("SELECT count(_dk_row_hash) FROM bronze.flights")


def test_a_row_hash_follows_its_row_also_when_it_is_no_longer_asked_for(bench: Bench) -> None:
    bench.run("run-1", row_hash=True)
    before = dict(bench.query("SELECT flight_id, _dk_row_hash FROM bronze.flights"))
    bench.source.tables["ops.Flights"] = flights(100, delay=6)

    bench.run("run-2", row_hash=False)

    after = dict(bench.query("SELECT flight_id, _dk_row_hash FROM bronze.flights"))
    assert not set(before.values()) & set(after.values()), "a hash must not outlive the values it was made of"


def test_a_warehouse_that_always_replaces_asks_nothing_of_the_cursor(bench: Bench) -> None:
    bench.run("run-1", mode=LoadMode.REPLACE, dataset=bench.settings.dataset.model_copy(update={"cursor": None}))
    with pytest.raises(InvalidCursor, match="continued from no cursor"):
        bench.run("run-2")
    assert "loaded" == bench.run("run-3", full=True).status
    assert "loaded" == bench.run("run-4").status
