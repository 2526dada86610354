"""A company's tree, source and two warehouses, and the ``datakit`` command as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
from datakit_lab import compare
from datakit_lab.testing import LabDatabase, LabSecrets, LabSqlServer, LabTickets

FINANCE, MARKETING = "finance", "marketing"
"""The warehouse in PostgreSQL and the one in DuckDB."""
WAREHOUSES = (FINANCE, MARKETING)
SECONDS = 60
"""After so long a child is killed and its test fails: a guard against a hang, not a measure of speed."""

ORDERS = """CREATE TABLE ops.Orders (
    OrderID bigint NOT NULL PRIMARY KEY, Customer nvarchar(40) NULL, Amount decimal(18,2) NULL, Quantity int NULL,
    ModifiedAt datetime2(3) NOT NULL)"""
DATASETS: dict[str, dict[str, Any]] = {
    "orders": {
        "table": "ops.Orders",
        "key": ["OrderID"],
        "cursor": {"column": "ModifiedAt", "lag": "5m"},
        "slices": {"column": "OrderID", "rows": 1_000_000},
    }
}


@dataclass(frozen=True)
class Ended:
    """What a command left: its exit code, what it printed, and the run report if there is one."""

    code: int
    out: str
    err: str
    report: dict[str, Any]

    @property
    def error(self) -> dict[str, Any]:
        """The error of the run report."""
        found: dict[str, Any] = self.report["error"]
        return found

    def is_refused(self, error: str, code: int, *says: str) -> None:
        """Check exit code, class of error and that report and message name these things, with cause or next step."""
        assert (error, code) == (self.report.get("error", {}).get("type"), self.code), self.err
        assert "failed" == self.report["status"]
        whole = json.dumps(self.error, ensure_ascii=False)
        for text in says:
            assert text in whole, whole
            assert "".join(text.split()) in "".join(self.err.split()), self.err
        assert self.error["cause"] or self.error["fix"]
        assert "Traceback" not in self.err


class Command:
    """A ``datakit run`` under way."""

    def __init__(self, process: subprocess.Popen[str], report: Path) -> None:
        self.process = process
        self._report = report

    def end(self, seconds: float = SECONDS) -> Ended:
        """Wait for its end."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"it hung:\n{out}\n{err}") from None
        report = json.loads(self._report.read_text()) if self._report.exists() else {}
        return Ended(self.process.returncode, out, err, report)

    def kill(self) -> None:
        """End it as a machine that loses power does."""
        self.process.kill()
        self.process.communicate()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


@dataclass
class House:
    """The tree on disk and everything that it is about.

    :ivar prefix: a command that starts the command, such as one that takes rights away.
    """

    root: Path
    server: LabSqlServer
    database: str
    finance: LabDatabase
    tickets: LabTickets
    secrets: LabSecrets
    environment: dict[str, str]
    prefix: tuple[str, ...] = ()
    _count: int = field(default=0)

    # the tree

    def write(self, path: str, content: str | dict[str, Any]) -> Path:
        """Write a file of the tree; YAML takes JSON as it is."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, indent=2))
        return file

    def datasets(self, datasets: dict[str, dict[str, Any]]) -> None:
        """Say what the source datakit extracts."""
        self.write(
            "datakits/shop-source/datakit.yaml",
            {
                "kind": "source",
                "name": "shop-source",
                "version": "1.0.0",
                "system": "sqlserver",
                "connection": "shop",
                "datasets": datasets,
            },
        )

    def takes(self, warehouse: str, *datasets: str, **ingest: Any) -> None:
        """Say what a warehouse takes, and how."""
        taken = [f"shop.{dataset}" for dataset in datasets]
        self.write(
            f"warehouses/{warehouse}/warehouse.yaml",
            {
                "name": warehouse,
                "type": {FINANCE: "postgres", MARKETING: "duckdb"}[warehouse],
                "connection": f"{warehouse}-db",
                "schema": "bronze",
                "ingest": [{"datakit": "shop-bronze", "datasets": taken, **ingest}],
            },
        )

    def located(self, *, source: dict[str, Any] | None = None, **warehouses: dict[str, Any]) -> None:
        """Write the environment, with changes to where things are."""
        shop = {
            "host": self.server.host,
            "port": self.server.port,
            "database": self.database,
            "principal": self.server.principal,
            "trust_server_certificate": True,
        }
        finance = {
            "host": self.finance.host,
            "port": self.finance.port,
            "database": self.finance.name,
            "user": self.finance.role,
            "password": "finance-db/password",
        }
        self.write(
            "warehouses/environments/lab.yaml",
            {
                "name": "lab",
                "runtime": "process",
                "sources": {"shop": shop | (source or {})},
                "warehouses": {
                    "finance-db": finance | warehouses.get(FINANCE, {}),
                    "marketing-db": {"path": str(self.duckdb)} | warehouses.get(MARKETING, {}),
                },
            },
        )

    # the command

    def start(self, *arguments: str, **environment: str) -> Command:
        """Start ``datakit`` with these arguments."""
        self._count += 1
        report = self.root.parent / f"report-{self._count}.json"
        process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "datakit", *arguments],
            cwd=self.root,
            env=self.environment | {"DATAKIT_REPORT": str(report)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Command(process, report)

    def datakit(self, *arguments: str, **environment: str) -> Ended:
        """Run ``datakit`` with these arguments."""
        return self.start(*arguments, **environment).end()

    def begin(
        self, warehouse: str, *more: str, dataset: str = "orders", run_id: str = "", **environment: str
    ) -> Command:
        """Start to load a dataset into a warehouse."""
        identity = ("--run-id", run_id) if run_id else ()
        return self.start(
            "run", "--dataset", f"shop.{dataset}", "--warehouse", warehouse, *identity, *more, **environment
        )

    def load(self, warehouse: str, *more: str, dataset: str = "orders", run_id: str = "", **environment: str) -> Ended:
        """Load a dataset into a warehouse."""
        return self.begin(warehouse, *more, dataset=dataset, run_id=run_id, **environment).end()

    def loaded(self, warehouse: str, *more: str, dataset: str = "orders", run_id: str = "") -> dict[str, Any]:
        """Load a dataset, which has to succeed; return the run report."""
        ended = self.load(warehouse, *more, dataset=dataset, run_id=run_id)
        assert 0 == ended.code, ended.err
        return ended.report

    # the source

    def sql(self, batch: str) -> list[list[Any]]:
        """Run a batch in the source, as the server itself."""
        return self.server.run(batch, self.database)

    def fill(self, rows: int, start: int = 1, at: str = "2024-01-01") -> None:
        """Insert orders; each is modified a millisecond after the one before."""
        self.sql(f"""INSERT INTO ops.Orders (OrderID, Customer, Amount, Quantity, ModifiedAt)
            SELECT n, CASE WHEN n % 7 = 0 THEN NULL ELSE CONCAT(N'Käufer ', n) END, n * 1.25, n % 1000,
                DATEADD(millisecond, n, CONVERT(datetime2(3), '{at}'))
            FROM (SELECT value AS n FROM GENERATE_SERIES({start}, {start + rows - 1})) AS s""")

    def source(self, table: str = "ops.Orders") -> compare.Fingerprint:
        """Return the fingerprint of a table of the source, read by the driver with the SQL login."""
        text = self.server.connection_string(self.database, kerberos=False)
        return compare.fingerprint(compare.read_sqlserver(text, table))

    # the warehouses

    @property
    def duckdb(self) -> Path:
        """The file of marketing."""
        return self.root.parent / "marketing.duckdb"

    def query(self, warehouse: str, sql: str) -> list[tuple[Any, ...]]:
        """Ask a warehouse, through a connection of the test's own."""
        if warehouse == FINANCE:
            with psycopg.connect(self.finance.dsn()) as connection:
                return connection.execute(sql.encode()).fetchall()
        with duckdb.connect(str(self.duckdb), read_only=True) as reader:
            return reader.execute(sql).fetchall()

    def tables(self, warehouse: str) -> set[str]:
        """Return the names of the tables in the schema ``bronze``, without those of the load log."""
        if warehouse == MARKETING and not self.duckdb.exists():
            return set()
        rows = self.query(warehouse, "SELECT table_name FROM information_schema.tables WHERE table_schema = 'bronze'")
        return {name for (name,) in rows} - {"_dk_loads", "_dk_runs", "_dk_slices"}

    def table(self, warehouse: str, table: str = "bronze.orders") -> pa.Table:
        """Return a table of a warehouse."""
        if warehouse == FINANCE:
            return compare.read_postgres(self.finance.dsn(), table)
        return compare.read_duckdb(str(self.duckdb), table)

    def landed(self, warehouse: str, table: str = "bronze.orders") -> compare.Fingerprint:
        """Return the fingerprint of a table of a warehouse."""
        return compare.fingerprint(self.table(warehouse, table))

    def loads(self, warehouse: str, dataset: str = "orders") -> list[str]:
        """Return the run ids of the committed loads, in order."""
        rows = self.query(
            warehouse, f"SELECT run_id FROM bronze._dk_loads WHERE dataset = 'shop.{dataset}' ORDER BY sequence"
        )
        return [run_id for (run_id,) in rows]

    def is_equal(self, warehouse: str, source: str = "ops.Orders", table: str = "bronze.orders") -> None:
        """Check that a table is exactly the source's."""
        assert self.source(source) == self.landed(warehouse, table)


def wait_until(condition: Callable[[], bool], command: Command | None = None) -> None:
    """Wait for something that has to happen, while the command runs."""
    until = time.monotonic() + SECONDS
    while not condition():
        if command is not None and not command.is_running():
            raise AssertionError(f"it ended before: {command.end()}")
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what belongs to the product or to Kerberos."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATAKIT_", "KRB5", "PG"))}
    return kept | {"COLUMNS": "200", "DATAKIT_ENVIRONMENT": "lab"}
