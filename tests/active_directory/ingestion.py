"""The ``datakit`` command, as a process that reads the double with what a folder of tickets holds."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from datakit_lab.testing import LabSqlServer

from tests.scenarios.house import Ended, clean_environment

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ingestion:
    """The repository's own datakits and its warehouse ``marketing``, in an environment that knows the double."""

    server: LabSqlServer
    folder: Path
    environment: dict[str, str]

    @classmethod
    def of(cls, server: LabSqlServer, folder: Path, **environment: str) -> Ingestion:
        """Write the environment."""
        ingestion = cls(server, folder, clean_environment() | environment)
        environments = folder / "environments"
        environments.mkdir()
        system = {
            "host": server.host,
            "port": server.port,
            "database": server.database,
            "principal": server.principal,
            "trust_server_certificate": True,
        }
        places = {
            "name": "lab",
            "runtime": "process",
            "sources": {"airline": system},
            "warehouses": {"marketing-db": {"path": str(ingestion.warehouse)}},
        }
        (environments / "lab.yaml").write_text(json.dumps(places), encoding="utf-8")  # YAML takes JSON as it is
        return ingestion

    @property
    def warehouse(self) -> Path:
        """The file of marketing."""
        return self.folder / "marketing.duckdb"

    def run(self, dataset: str = "airlines") -> Ended:
        """Load a dataset."""
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "datakit", "run", "--warehouse", "marketing", "--dataset", f"airline.{dataset}"],
            cwd=ROOT,
            env=self.environment
            | {"DATAKIT_ENVIRONMENTS": str(self.folder / "environments"), "DATAKIT_REPORT": str(report)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        found = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        return Ended(done.returncode, done.stdout, done.stderr, found)

    def loaded(self, dataset: str = "airlines") -> dict[str, Any]:
        """Load a dataset, which has to succeed; return the run report."""
        ended = self.run(dataset)
        assert 0 == ended.code, ended.err
        return ended.report

    def rows(self, table: str = "reference.airlines") -> int:
        """Return how many rows a table of the warehouse has."""
        with duckdb.connect(str(self.warehouse), read_only=True) as reader:
            found = reader.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert found is not None
        return int(found[0])
