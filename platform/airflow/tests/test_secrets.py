"""Airflow's connections and variables from the vault: asked for only by their prefix, and never of anybody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow_datakit import DelineaSecretsBackend
from airflow_datakit.secrets import VaultLookupFailed
from datakit_vault.testing import FakeVault

from .house import House

SQL = {
    "conn-type": "postgres",
    "host": "db.corp.example",
    "username": "loader",
    "password": "canary-pw",
    "port": "5432",
}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def vault() -> Iterator[FakeVault]:
    with FakeVault() as fake:
        yield fake


@pytest.fixture
def kwargs(vault: FakeVault, tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "bootstrap"
    folder.mkdir()
    return {"url": vault.url, "credentials": str(vault.credentials_folder(folder)), "allow_http": True}


@pytest.fixture
def backend(kwargs: dict[str, Any]) -> DelineaSecretsBackend:
    return DelineaSecretsBackend(**kwargs, clock=Clock())


def test_what_does_not_begin_with_the_prefix_is_not_asked_for(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    assert backend.get_conn_value("postgres_default") is None
    assert backend.get_variable("threshold") is None
    assert backend.get_config("core/fernet_key") is None
    assert vault.requests == ()


def test_a_connection_is_made_of_the_secrets_fields(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    vault.add_secret("/Airflow/Connections/dwh", {**SQL, "database": "dwh", "extra": '{"sslmode": "require"}'})
    assert json.loads(str(backend.get_conn_value("delinea_dwh"))) == {
        "conn_type": "postgres",
        "host": "db.corp.example",
        "login": "loader",
        "password": "canary-pw",
        "port": 5432,
        "schema": "dwh",
        "extra": '{"sslmode": "require"}',
    }


def test_a_connection_may_be_one_field(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    vault.add_secret("/Airflow/Connections/dwh", {"uri": "postgres://loader:pw@db:5432/dwh"})
    assert backend.get_conn_value("delinea_dwh", team_name="any") == "postgres://loader:pw@db:5432/dwh"


def test_a_variable_is_the_field_value(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    vault.add_secret("/Airflow/Variables/threshold", {"value": "42"})
    assert backend.get_variable("delinea_threshold") == "42"


def test_a_value_is_kept_for_its_time_and_then_read_again(kwargs: dict[str, Any], vault: FakeVault) -> None:
    clock = Clock()
    backend = DelineaSecretsBackend(**kwargs, ttl=60, clock=clock)
    secret = vault.add_secret("/Airflow/Variables/threshold", {"value": "42"})
    backend.get_variable("delinea_threshold")
    vault.forget_requests()
    vault.set_field(secret, "value", "43")
    assert backend.get_variable("delinea_threshold") == "42"
    assert vault.requests == ()
    clock.now += 61
    assert backend.get_variable("delinea_threshold") == "43"


def test_a_secret_that_is_missing_fails_and_is_not_asked_for_again_at_once(
    kwargs: dict[str, Any], vault: FakeVault
) -> None:
    clock = Clock()
    backend = DelineaSecretsBackend(**kwargs, negative_ttl=30, clock=clock)
    with pytest.raises(VaultLookupFailed, match="/Airflow/Variables/threshold"):
        backend.get_variable("delinea_threshold")
    vault.forget_requests()
    vault.add_secret("/Airflow/Variables/threshold", {"value": "42"})
    with pytest.raises(VaultLookupFailed):
        backend.get_variable("delinea_threshold")
    assert vault.requests == ()
    clock.now += 31
    assert backend.get_variable("delinea_threshold") == "42"


def test_a_vault_that_denies_fails_and_names_the_secret(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    vault.add_secret("/Airflow/Connections/dwh", SQL)
    vault.fault("denied")
    with pytest.raises(VaultLookupFailed, match=r"delinea_dwh.*/Airflow/Connections/dwh"):
        backend.get_conn_value("delinea_dwh")


@pytest.mark.parametrize(
    ("fields", "words"), [({"host": "db"}, "neither a field uri nor a field conn-type"), ({"uri": "  "}, "blank")]
)
def test_a_secret_that_is_no_connection_says_what_is_missing(
    backend: DelineaSecretsBackend, vault: FakeVault, fields: dict[str, str], words: str
) -> None:
    vault.add_secret("/Airflow/Connections/dwh", fields)
    with pytest.raises(VaultLookupFailed, match=words):
        backend.get_conn_value("delinea_dwh")


def test_without_a_prefix_the_backend_is_refused(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="prefix is empty"):
        DelineaSecretsBackend(**kwargs, prefix="")


def test_a_forked_worker_has_a_connection_of_its_own(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    vault.add_secret("/Airflow/Variables/one", {"value": "1"})
    vault.add_secret("/Airflow/Variables/two", {"value": "2"})
    backend.get_variable("delinea_one")
    before = backend._vault
    pid = os.fork()
    if pid == 0:
        good = backend.get_variable("delinea_two") == "2" and backend._vault != before
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert backend._vault == before


TASK = """\
from airflow.sdk import Connection, task

@task
def look(name):
    try:
        found = Connection.get(name)
        print("FOUND", found.host, found.login, found.password == "canary" + "-pw")
    except Exception as error:
        print("REFUSED", type(error).__name__, error)

look("delinea_dwh") >> look("delinea_missing")
"""


def test_a_worker_of_airflow_gets_its_connection_from_the_vault_and_from_nobody_else(
    house: House, airflow_database: None, kwargs: dict[str, Any], vault: FakeVault
) -> None:
    vault.add_secret("/Airflow/Connections/dwh", SQL)
    house.dag(TASK)
    environment = {
        **os.environ,
        "AIRFLOW__WORKERS__SECRETS_BACKEND": "airflow_datakit.DelineaSecretsBackend",
        "AIRFLOW__WORKERS__SECRETS_BACKEND_KWARGS": json.dumps(kwargs),
        "AIRFLOW_CONN_DELINEA_MISSING": "postgres://somebody:else@elsewhere/db",
    }
    program = f"from airflow.dag_processing.dagbag import DagBag\nDagBag({str(house.dags)!r}).dags['example'].test()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FOUND db.corp.example loader True" in done.stdout
    assert "canary-pw" not in done.stdout + done.stderr
    assert "REFUSED VaultLookupFailed" in done.stdout
    assert "elsewhere" not in done.stdout
