"""A tree on disk, a source adapter as a company would package its own, and the command called in this process.

The adapter ``memory`` is registered by a real entry point in a real ``dist-info`` folder, so that child processes find
it too. It serves the Arrow files of the folder that the connection's ``database`` names.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pytest
from datakit.cli import main

ADAPTER = """\
from pathlib import Path

import pyarrow.feather as feather
from datakit.errors import SourceUnavailable
from datakit.testing import ArrowSource


def open_source(connection, *, isolation, where, base):
    folder = Path(connection.database)
    if not folder.is_dir():
        raise SourceUnavailable("the folder is gone", subject=str(folder))
    return ArrowSource({path.stem: feather.read_table(path) for path in folder.glob("*.arrow")})
"""

SOURCE = """\
kind: source
name: airline-source
version: 1.0.0
system: memory
connection: airline
datasets:
  flights:
    table: flights
    key: [FlightID]
    cursor: {column: ModifiedAt, lag: 5m}
    slices: {column: FlightID, rows: 40}
  planes:
    table: planes
    key: [TailNumber]
"""
BRONZE = """\
kind: bronze
name: memory-bronze
version: 2.0.0
system: memory
sources:
  - datakit: airline-source
mode: merge
"""
WAREHOUSE = """\
name: finance
type: duckdb
connection: finance-db
schema: bronze
ingest:
  - datakit: memory-bronze
    datasets: [airline.flights, airline.planes]
    schedule: "@hourly"
"""
ENVIRONMENT = """\
name: local
runtime: process
sources:
  airline: {{host: memory.corp.example, database: {data}, user: reader, password: airline/password}}
warehouses:
  finance-db: {{path: {database}}}
"""


def flights(rows: int, *, start: int = 1) -> pa.Table:
    """Rows with growing ids and times."""
    return pa.table(
        [
            pa.array(range(start, start + rows), pa.int64()),
            pa.array([datetime(2026, 1, 1) + timedelta(minutes=start + i) for i in range(rows)], pa.timestamp("us")),
            pa.array([None if i % 7 == 0 else i for i in range(rows)], pa.int32()),
        ],
        schema=pa.schema(
            [
                pa.field("FlightID", pa.int64(), nullable=False),
                pa.field("ModifiedAt", pa.timestamp("us"), nullable=False),
                pa.field("ArrDelay", pa.int32()),
            ]
        ),
    )


@dataclass(frozen=True)
class Result:
    """What a call left: exit code and what was printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Tree:
    """The tree, its source's data and its warehouse's file."""

    root: Path
    data: Path
    database: Path

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def replace(self, path: str, old: str, new: str) -> Path:
        file = self.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        return file

    def put(self, name: str, table: pa.Table) -> None:
        feather.write_feather(table, str(self.data / f"{name}.arrow"), compression="uncompressed")


@pytest.fixture(autouse=True)
def _clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DATAKIT_", "KRB5")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/no-tickets")
    monkeypatch.setenv("DATAKIT_CREDENTIALS_WAIT", "0s")


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    info = site / "memory_source-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "memory_source.py").write_text(ADAPTER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-source\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[datakit.sources]\nmemory = memory_source:open_source\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "memory_source", raising=False)
    return site


@pytest.fixture
def tree(tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    tree = Tree(tmp_path / "tree", tmp_path / "data", tmp_path / "finance.duckdb")
    tree.data.mkdir()
    tree.write("datakits/airline-source/datakit.yaml", SOURCE)
    tree.write("datakits/memory-bronze/datakit.yaml", BRONZE)
    tree.write("warehouses/finance/warehouse.yaml", WAREHOUSE)
    tree.write("warehouses/environments/local.yaml", ENVIRONMENT.format(data=tree.data, database=tree.database))
    tree.put("flights", flights(100))
    schema = pa.schema([pa.field("TailNumber", pa.string(), nullable=False), pa.field("Seats", pa.int16())])
    tree.put("planes", pa.table([pa.array(["N1", "N2"]), pa.array([180, None], pa.int16())], schema=schema))
    monkeypatch.chdir(tree.root)
    return tree


Call = Callable[..., Result]


@pytest.fixture
def datakit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command in this process, exactly as the console script does."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test runner keeps its handlers
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, out, err)

    return call


@pytest.fixture
def spawn(adapter: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command as a process of its own."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "datakit", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(adapter), **environment},
        )

    return start
