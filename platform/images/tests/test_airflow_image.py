"""The image of an Airflow deployment knows datakits, warehouses and their locks, and stays the Airflow that it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def image() -> str:
    subprocess.run([ROOT / "scripts/images", "build", "airflow-base", "airflow"], check=True, capture_output=True)
    return subprocess.check_output([ROOT / "scripts/images", "names", "airflow"], text=True).strip()


def run(image: str, *command: str) -> str:
    docker = ["docker", "run", "--rm", "--network=none", "--env=DATAKIT_ENVIRONMENT=local", image]
    done = subprocess.run([*docker, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(900)
def test_airflow_lists_our_provider(image: str) -> None:
    assert "airflow-provider-datakit" in run(image, "airflow", "providers", "list")


def test_a_dag_of_a_datakit_parses_without_what_moves_rows(image: str) -> None:
    code = """
import sys
from airflow.sdk import DAG
from airflow_datakit import DatakitOperator
with DAG("a"):
    DatakitOperator.create(task_id="b", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance")
print([name for name in ("pyarrow", "duckdb", "docker", "kubernetes", "mssql_python") if name in sys.modules])
"""
    assert run(image, "python3", "-c", code).splitlines()[-1] == "[]"


def test_the_tree_is_inside_and_nothing_of_it_is_broken(image: str) -> None:
    code = """
from datakit.model.project import Project
project = Project.find()
print(project.root, sorted(project.warehouses()), sorted(project.bronzes()), sorted(project.sources()), project.broken)
"""
    said = "/opt/datakit/tree ['finance', 'marketing'] ['sqlserver-bronze'] ['airline-source'] ()\n"
    assert run(image, "python3", "-c", code) == said


def test_airflow_runs_as_a_number_that_is_not_root_and_finds_kerberos(image: str) -> None:
    code = "import ctypes, os; ctypes.CDLL('libkrb5.so.3'); ctypes.CDLL('libgssapi_krb5.so.2'); print(os.getuid())"
    assert run(image, "python3", "-c", code) == "50000\n"
