"""The example tree: datakits, warehouses and the laboratory's environment fit together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from datakit.model.project import Project
from datakit_lab import supervisor
from datakit_lab.state import LabOptions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who looks around in a lab may have these set."""
    for name in ("DATAKIT_ENVIRONMENT", "DATAKIT_ENVIRONMENTS", "DATAKIT_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project() -> Project:
    return Project.find(ROOT)


def test_datakit_check_finds_no_problem() -> None:
    done = subprocess.run([sys.executable, "-m", "datakit", "check", str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_local_environment_is_where_the_lab_starts_by_default(project: Project) -> None:
    lab = LabOptions()
    local = project.environment("local")
    airline = local.sources["airline"]
    assert (airline.host, airline.port) == ("localhost", lab.sqlserver_port)
    assert airline.principal == f"{supervisor.SERVICE_ACCOUNT}@{lab.realm}"
    finance = local.warehouses["finance-db"]
    assert (finance["port"], finance["database"]) == (lab.postgres_port, supervisor.WAREHOUSE)
    assert finance["password"] == f"{supervisor.WAREHOUSE}-db/password"


def test_every_warehouse_connection_is_in_the_local_environment(project: Project) -> None:
    asked = {config.connection for config in project.warehouses().values()}
    assert asked == set(project.environment("local").warehouses)


def test_the_two_warehouses_take_different_datasets_into_different_schemas(project: Project) -> None:
    finance, marketing = project.warehouse("finance"), project.warehouse("marketing")
    taken = [{dataset for ingest in config.ingest for dataset in ingest.datasets} for config in (finance, marketing)]
    assert taken[1] < taken[0]
    assert finance.table_schema != marketing.table_schema
    assert finance.type != marketing.type
