"""The in-memory source keeps the laws of a source, and its faults do what they say."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from datakit.errors import InvalidCursor, InvalidKey, SourceUnavailable, UnsupportedType
from datakit.model.load import Slice
from datakit.model.manifest import Cursor, Dataset, LoadMode, SlicePlan
from datakit.sources import Source
from datakit.testing import ArrowSource, Fault, SourceCase, source_conformance
from datakit.testing.sources import Law

START = datetime(2024, 1, 1)
NOW = datetime(2024, 3, 1, tzinfo=UTC)


def _rows(count: int = 500) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(range(count), pa.int32()),
            "at": pa.array([START + timedelta(minutes=n // 3) for n in range(count)], pa.timestamp("us")),
            "version": pa.array([n.to_bytes(8, "big") for n in range(count)], pa.binary()),
            "name": pa.array([None if n % 7 == 0 else f"n{n}" for n in range(count)], pa.string()),
        },
        schema=pa.schema(
            [
                pa.field("id", pa.int32(), nullable=False),
                pa.field("at", pa.timestamp("us"), nullable=False),
                pa.field("version", pa.binary(), nullable=False),
                pa.field("name", pa.string()),
            ]
        ),
    )


def _source(table: pa.Table | None = None, **options: object) -> ArrowSource:
    rows = _rows() if table is None else table
    return ArrowSource({"dbo.t": rows}, keys={"dbo.t": ["id"]}, now=lambda: NOW, batch_rows=64, **options)  # type: ignore[arg-type]


DATASETS = {
    "plain": Dataset(table="dbo.t"),
    "time": Dataset(table="dbo.t", cursor=Cursor(column="at", lag="10m"), slices=SlicePlan(column="id", rows=200)),
    "identity": Dataset(table="dbo.t", cursor=Cursor(column="id"), slices=SlicePlan(column="at", rows=100)),
    "rowversion": Dataset(table="dbo.t", cursor=Cursor(column="version")),
}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("law", source_conformance(), ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_a_source(law: Law, dataset: str) -> None:
    law(SourceCase(_source, DATASETS[dataset], _rows()))


def test_it_is_a_source() -> None:
    assert isinstance(_source(), Source)


def _read(source: ArrowSource, dataset: Dataset = DATASETS["plain"], part: Slice = Slice()) -> int:  # noqa: B008
    contract = source.describe("test.rows", dataset)
    stream = source.read(dataset, contract, None, part)
    try:
        return sum(batch.num_rows for batch in stream)
    finally:
        stream.close()


def test_a_fault_happens_after_its_rows_and_then_no_more() -> None:
    source = _source()
    source.inject("dbo.t", Fault(SourceUnavailable("gone"), after_rows=100))
    contract = source.describe("test.rows", DATASETS["plain"])
    stream = source.read(DATASETS["plain"], contract, None, Slice())
    seen: list[int] = []
    with pytest.raises(SourceUnavailable, match="gone"):
        seen.extend(batch.num_rows for batch in stream)
    stream.close()
    assert sum(seen) == 100
    assert _read(source) == 500


def test_a_fault_of_one_slice_leaves_the_others_alone() -> None:
    source = _source()
    source.inject("dbo.t", Fault(SourceUnavailable("gone"), slice_index=2, times=None))
    assert _read(source, part=Slice(1, 2)) == 500
    for _ in range(2):
        with pytest.raises(SourceUnavailable):
            _read(source, part=Slice(2, 2))


def test_lost_rows_are_still_counted_by_the_server() -> None:
    source = _source()
    source.inject("dbo.t", Fault(loses=3))
    contract = source.describe("test.rows", DATASETS["plain"])
    stream = source.read(DATASETS["plain"], contract, None, Slice())
    assert sum(batch.num_rows for batch in stream) == 497
    assert stream.server_count == 500
    stream.close()


def test_a_stalled_stream_ends_when_another_thread_closes_it() -> None:
    source = _source()
    source.inject("dbo.t", Fault(stalls=True, after_rows=64))
    contract = source.describe("test.rows", DATASETS["plain"])
    stream = source.read(DATASETS["plain"], contract, None, Slice())
    batches = iter(stream)
    next(batches)
    threading.Timer(0.05, source.close).start()
    with pytest.raises(SourceUnavailable, match="closed"):
        next(batches)
    assert source.open_streams == 0


def test_an_open_stream_keeps_the_rows_it_began_with() -> None:
    source = _source()
    contract = source.describe("test.rows", DATASETS["plain"])
    stream = source.read(DATASETS["plain"], contract, None, Slice())
    source.tables["dbo.t"] = _rows(3)
    assert sum(batch.num_rows for batch in stream) == 500
    stream.close()
    assert _read(source) == 3


def test_an_append_stays_its_lag_behind_the_present() -> None:
    source = ArrowSource({"dbo.t": _rows()}, now=lambda: (START + timedelta(minutes=30)).replace(tzinfo=UTC))
    dataset = DATASETS["time"]
    contract = source.describe("test.rows", dataset)
    plan = source.plan(dataset, contract, mode=LoadMode.APPEND, since=None, slices=None)
    assert plan.window is not None
    assert plan.window.until == "2024-01-01T00:20:00"


def test_a_cursor_with_nulls_and_a_nullable_key_are_refused() -> None:
    source = _source()
    dataset = Dataset(table="dbo.t", cursor=Cursor(column="name"))
    contract = source.describe("test.rows", dataset)
    with pytest.raises(InvalidCursor):
        source.plan(dataset, contract, mode=LoadMode.MERGE, since=None, slices=None)
    with pytest.raises(InvalidKey, match="'name'"):
        source.describe("test.rows", Dataset(table="dbo.t", key=("name",)))


def test_an_arrow_type_outside_the_contract_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedType, match=r"dbo\.t\.x"):
        _source(pa.table({"x": pa.array([1], pa.uint64())})).describe("test.rows", DATASETS["plain"])
