"""The SQL Server source keeps the laws of a source, against the double, through Microsoft's driver, by Kerberos."""

from __future__ import annotations

import pyarrow as pa
import pytest
from datakit.model.load import Slice
from datakit.model.manifest import Cursor, Dataset, SlicePlan
from datakit.sources import Source
from datakit.testing import SourceCase, source_conformance
from datakit.testing.sources import Law

from .conftest import ROWS, Ops

DATASETS = {
    "plain": Dataset(table="dbo.Events"),
    "time": Dataset(table="dbo.Events", cursor=Cursor(column="at", lag="10s"), slices=SlicePlan(column="id", rows=200)),
    "legacy": Dataset(table="dbo.Events", cursor=Cursor(column="legacy"), slices=SlicePlan(column="at", rows=200)),
    "identity": Dataset(table="dbo.Events", cursor=Cursor(column="id"), slices=SlicePlan(column="legacy", rows=100)),
    "rowversion": Dataset(table="dbo.Events", cursor=Cursor(column="version")),
    "day": Dataset(table="dbo.Events", cursor=Cursor(column="day"), slices=SlicePlan(column="day", rows=100)),
    "query": Dataset(
        sql="events.sql", key=("id",), cursor=Cursor(column="at"), slices=SlicePlan(column="id", rows=200)
    ),
}


@pytest.fixture
def case(ops: Ops, request: pytest.FixtureRequest) -> SourceCase:
    """One dataset, with the rows that the double's table was made of."""
    (ops.base / "events.sql").write_text(
        "WITH e AS (SELECT * FROM dbo.Events)\nSELECT id, at, version, name, amount FROM e; -- all of them\n"
    )
    dataset = DATASETS[request.param]
    source: Source = ops.open()
    contract = source.describe("ops.events", dataset)
    stream = source.read(dataset, contract, None, Slice())
    rows = pa.Table.from_batches(list(stream), stream.schema)
    source.close()
    assert rows.num_rows == ROWS
    assert sum(rows["id"].to_pylist()) == sum(range(ROWS))
    return SourceCase(ops.open, dataset, rows, "ops.events")


@pytest.mark.parametrize("case", DATASETS, indirect=True)
@pytest.mark.parametrize("law", source_conformance(), ids=lambda law: law.__name__)
def test_it_keeps_the_laws_of_a_source(law: Law, case: SourceCase) -> None:
    law(case)


def test_it_is_a_source(ops: Ops) -> None:
    source = ops.open()
    assert isinstance(source, Source)
    source.close()
