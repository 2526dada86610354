"""A source in memory, a real DuckDB warehouse, and the engine between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from datakit.ingest import Ingestion, Interrupts, ReportDraft, Settings
from datakit.model.contract import Contract
from datakit.model.load import TableName
from datakit.model.manifest import Cursor, Dataset, LoadMode, Naming, SchemaPolicy, SlicePlan
from datakit.model.run import RunReport, RunRequest
from datakit.testing.arrow_source import ArrowSource
from datakit.warehouses import Warehouse, open_warehouse

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
TABLE = TableName("bronze", "flights")


def flights(rows: int, *, start: int = 1, minute: int = 0, delay: int | None = 5) -> pa.Table:
    """Rows ``start`` and on, one modified each second from ``minute`` minutes after 2026-01-01 on."""
    ids = range(start, start + rows)
    modified = [datetime(2026, 1, 1) + timedelta(minutes=minute, seconds=i) for i in range(rows)]
    return pa.table(
        {
            "FlightID": pa.array(ids, pa.int64()),
            "ModifiedAt": pa.array(modified, pa.timestamp("us")),
            "ArrDelay": pa.array([delay] * rows, pa.int32()),
        },
        schema=pa.schema(
            [
                pa.field("FlightID", pa.int64(), nullable=False),
                pa.field("ModifiedAt", pa.timestamp("us"), nullable=False),
                pa.field("ArrDelay", pa.int32()),
            ]
        ),
    )


class Quiet:
    """Progress for tests: remembers what it was told."""

    def __init__(self) -> None:
        self.rows = 0
        self.stages: list[str] = []

    def start(self, title: str, estimated_rows: int | None) -> None:
        self.title, self.estimated_rows = title, estimated_rows

    def advance(self, rows: int, size: int) -> None:
        self.rows += rows

    def stage(self, what: str) -> None:
        self.stages.append(what)

    def stop(self) -> None:
        self.stages.append("stopped")


@dataclass
class Bench:
    """One dataset, ``airline.flights``, on its way into one DuckDB file."""

    path: Path
    source: ArrowSource
    settings: Settings
    progress: Quiet = field(default_factory=Quiet)

    def run(self, run_id: str = "run-1", **changes: Any) -> RunReport:
        """Run the engine; ``changes`` go to the settings, ``full``, ``slice`` and ``parallel`` to the request."""
        request = RunRequest(
            run_id=run_id,
            dataset="airline.flights",
            warehouse="finance",
            **{name: changes.pop(name) for name in ("full", "slice", "parallel") if name in changes},
        )
        settings = replace(self.settings, request=request, **changes)
        draft = ReportDraft(request)
        self.progress = Quiet()
        with closing(self.warehouse()) as warehouse:
            ingestion = Ingestion(
                settings, lambda: self.source, warehouse, self.progress, draft, Interrupts(), seconds_before_retry=0
            )
            return draft.finish(ingestion.execute())

    def warehouse(self) -> Warehouse:
        return open_warehouse("duckdb", {"path": str(self.path)}, where="test")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
            return connection.execute(sql).fetchall()

    def ids(self) -> list[int]:
        return [row[0] for row in self.query("SELECT flight_id FROM bronze.flights ORDER BY 1")]

    def tables(self) -> set[str]:
        return {row[0] for row in self.query("SELECT table_name FROM information_schema.tables")}

    def contract(self) -> Contract:
        return self.source.describe("airline.flights", self.settings.dataset)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    dataset = Dataset(
        table="ops.Flights",
        key=("FlightID",),
        cursor=Cursor(column="ModifiedAt", lag=timedelta(minutes=5)),
        slices=SlicePlan(column="FlightID", rows=1_000_000),
    )
    source = ArrowSource({"ops.Flights": flights(100)}, now=lambda: NOW, batch_rows=10)
    # The engine closes its source after each run; this one serves many.
    source.close = lambda: None  # type: ignore[method-assign]
    settings = Settings(
        request=RunRequest(run_id="unused", dataset="airline.flights", warehouse="finance"),
        dataset=dataset,
        contract=None,
        table=TABLE,
        mode=LoadMode.MERGE,
        naming=Naming.SNAKE_CASE,
        row_hash=False,
        schema_changes=SchemaPolicy.EVOLVE,
        datakit="sqlserver-bronze@1.0.0",
        source_datakit="airline-source@1.2.3",
    )
    bench = Bench(tmp_path / "warehouse.duckdb", source, settings)
    yield bench
    assert source.open_streams == 0, "the engine leaked a connection to the source"
