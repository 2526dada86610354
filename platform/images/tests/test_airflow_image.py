"""The image of an Airflow deployment knows DAGs, warehouses and their locks, and stays the Airflow that it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from datakit.model.lock import Pin
from datakit.release.locks import LockFile
from datakit_lab.registry import Registry

pytestmark = [pytest.mark.docker, pytest.mark.slow]
ROOT = Path(__file__).parents[3]
DIGEST = f"sha256:{'5' * 64}"
ENVIRONMENT = """\
name: int
runtime: docker
registry: registry.corp.example/data
frozen: true
sources:
  airline: {host: sql.corp.example, database: Airline, principal: svc-airline@CORP.EXAMPLE}
warehouses:
  finance-db: {host: db.corp.example, database: finance, user: finance, password: finance-db/password}
  marketing-db: {path: marketing.duckdb}
"""


def docker(*command: str) -> str:
    done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def base() -> str:
    subprocess.run([ROOT / "scripts/images", "build", "airflow-base", "airflow"], check=True, capture_output=True)
    return subprocess.check_output([ROOT / "scripts/images", "names", "airflow"], text=True).strip()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This repository's tree, as it is committed, with one more environment, which is frozen and has a lock."""
    root = tmp_path_factory.mktemp("tree")
    archive = subprocess.check_output(["git", "-C", ROOT, "archive", "HEAD", "warehouses", "datakits"])
    subprocess.run(["tar", "-x", "-C", root], input=archive, check=True)
    file = root / "warehouses/environments/int.yaml"
    file.write_text(ENVIRONMENT)
    pin = Pin(version="0.1.0", digest=DIGEST, at=datetime(2026, 3, 1, tzinfo=UTC), by="Ann <ann@corp.example>")
    pins: dict[tuple[str, str], Pin | None] = {(name, "sqlserver-bronze"): pin for name in ("finance", "marketing")}
    lock = LockFile.read(file).with_pins(pins)
    lock.path.write_text(lock.text or "")
    git: list[str | Path] = ["git", "-C", root, "-c", "user.name=Ann", "-c", "user.email=ann@corp.example"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "Begin"]):
        subprocess.run([*git, *command], check=True)
    return root


@pytest.fixture(scope="module")
def built(base: str, tree: Path) -> Iterator[dict[str, Any]]:
    """What ``datakit airflow build --load`` says of the image that it put into the engine."""
    with Registry() as registry:
        name = f"{registry.host}/data/{base.partition('/')[2]}"
        docker("tag", base, name)
        docker("push", "--quiet", name)
        docker("rmi", name)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DATAKIT_")}
        done = subprocess.run(
            [ROOT / ".venv/bin/datakit", "airflow", "build", "--load", "--json"],
            cwd=tree,
            env=kept | {"DATAKIT_REGISTRY": f"{registry.host}/data"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        yield said
        docker("rmi", "--force", said["loaded"])


@pytest.fixture(scope="module")
def image(built: dict[str, Any]) -> str:
    return str(built["loaded"])


def run(image: str, *command: str, environment: str = "int") -> str:
    return docker("run", "--rm", "--network=none", f"--env=DATAKIT_ENVIRONMENT={environment}", image, *command)


@pytest.mark.timeout(900)
def test_airflow_lists_our_provider(image: str) -> None:
    assert "airflow-provider-datakit" in run(image, "airflow", "providers", "list")


def test_airflow_finds_the_dags_of_the_warehouses_and_none_is_broken(image: str) -> None:
    script = (
        "airflow db migrate >/dev/null 2>&1 && airflow dags list --local --output json 2>/dev/null"
        " && echo and && airflow dags list-import-errors --local 2>/dev/null"
    )
    dags, _, errors = run(image, "bash", "-c", script).partition("\nand\n")
    found = {each["dag_id"] for each in json.loads(dags[dags.index("[{") :])}
    assert found == {"finance_daily", "finance_hourly", "marketing_daily", "marketing_weekly"}
    assert "No data found" in errors


def test_a_task_runs_the_image_that_the_lock_inside_pins(image: str) -> None:
    code = """
from airflow_datakit import dags_from_warehouses
dags = dags_from_warehouses()
print(sorted({task.image for dag in dags.values() for task in dag.tasks}))
"""
    expected = [f"registry.corp.example/data/datakits/sqlserver-bronze@{DIGEST}"]
    assert run(image, "python3", "-c", code).splitlines()[-1] == str(expected)


def test_a_dag_of_a_datakit_parses_without_what_moves_rows(image: str) -> None:
    code = """
import sys
from airflow.sdk import DAG
from airflow_datakit import DatakitOperator
with DAG("a"):
    DatakitOperator.create(task_id="b", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance")
print([name for name in ("pyarrow", "duckdb", "docker", "kubernetes", "mssql_python") if name in sys.modules])
"""
    assert run(image, "python3", "-c", code, environment="local").splitlines()[-1] == "[]"


def test_the_tree_is_inside_and_nothing_of_it_is_broken(image: str) -> None:
    code = """
from datakit.model.project import Project
project = Project.find()
print(project.root, sorted(project.warehouses()), sorted(project.bronzes()), sorted(project.sources()), project.broken)
"""
    said = "/opt/datakit/tree ['finance', 'marketing'] ['sqlserver-bronze'] ['airline-source'] ()\n"
    assert run(image, "python3", "-c", code) == said


def test_the_base_holds_no_tree(base: str) -> None:
    assert docker("run", "--rm", "--network=none", base, "ls", "/opt/datakit") == "python\n"


def test_airflow_runs_as_a_number_that_is_not_root_owns_its_home_and_finds_kerberos(image: str) -> None:
    code = """
import ctypes, os
ctypes.CDLL('libkrb5.so.3'); ctypes.CDLL('libgssapi_krb5.so.2')
home = os.environ['AIRFLOW_HOME']
print(os.getuid(), os.access(home, os.W_OK), os.access(home + '/dags/warehouses.py', os.W_OK))
"""
    assert run(image, "python3", "-c", code) == "50000 True False\n"


def test_the_image_says_which_commit_it_is_of(built: dict[str, Any], tree: Path) -> None:
    labels = json.loads(docker("image", "inspect", built["loaded"], "--format", "{{json .Config.Labels}}"))
    head = subprocess.check_output(["git", "-C", tree, "rev-parse", "HEAD"], text=True).strip()
    assert ("airflow-deployment", head) == tuple(
        labels[f"org.opencontainers.image.{key}"] for key in ("title", "revision")
    )
