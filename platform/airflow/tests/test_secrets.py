"""Airflow's connections and variables from the vault: asked for only by their prefix, and never of anybody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.models import Connection as ServerConnection
from airflow.models import Variable as ServerVariable
from airflow.sdk import Connection, Variable
from airflow.sdk.configuration import clear_secrets_backends_cache
from airflow_datakit import DelineaSecretsBackend
from airflow_datakit.secrets import VaultLookupFailed
from datakit_vault import Vault
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


LOOK_UPS: dict[str, tuple[Callable[[str], Any], Callable[[str], Any]]] = {
    "worker": (Connection.get, Variable.get),
    "server": (ServerConnection.get_connection_from_secrets, ServerVariable.get_variable_from_secrets),
}
"""How Airflow's own code asks for a connection and a variable, in the two places where it goes through backends."""


@pytest.fixture(params=LOOK_UPS)
def airflow(
    request: pytest.FixtureRequest, kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Callable[[str], Any], Callable[[str], Any]]]:
    """Airflow with the backend configured, and with the same names in its environment."""
    for section, key in [("WORKERS", "SECRETS_BACKEND"), ("SECRETS", "BACKEND")]:
        monkeypatch.setenv(f"AIRFLOW__{section}__{key}", "airflow_datakit.DelineaSecretsBackend")
        monkeypatch.setenv(f"AIRFLOW__{section}__{key}_KWARGS", json.dumps(kwargs))
    monkeypatch.setenv("AIRFLOW_CONN_DELINEA_DWH", "postgres://somebody:else@elsewhere/db")
    monkeypatch.setenv("AIRFLOW_VAR_DELINEA_THRESHOLD", "elsewhere")
    clear_secrets_backends_cache()
    yield LOOK_UPS[request.param]
    clear_secrets_backends_cache()


def refused(look_up: Callable[[str], Any], name: str) -> str:
    """Look it up, see it refused without a word of the secret, and return what is said."""
    with pytest.raises(VaultLookupFailed) as caught:
        look_up(name)
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**SQL, "port": "default"}, "its field port"),
        ({**SQL, "port": "canary-pw"}, "its field port"),
        ({**SQL, "port": "70000"}, "its field port"),
        ({**SQL, "extra": "token=canary"}, "its field extra"),
        ({**SQL, "extra": '["canary"]'}, "its field extra"),
        ({"uri": "postgres://loader:canary-pw@db:notaport/x"}, "its field uri"),
        ({"uri": "postgres://loader:canary-pw/1@db/x"}, "percent-encoded"),
        ({"uri": "http://https://spark://loader:canary-pw@db"}, "its field uri"),
        ({"uri": "postgres://loader:canary-pw@db/x?__extra__=canary"}, "its field uri"),
        ({"uri": "{not json, but canary-pw}"}, "not quite JSON"),
        ({"uri": '{"conn_type": "postgres", "password": "canary-pw", "colour": "canary"}'}, "its field uri"),
        ({"uri": '{"conn_type": "postgres", "password": "canary-pw", "port": "canary"}'}, "its field uri"),
        ({"uri": '{"conn_type": "postgres", "password": "canary-pw", "host": 5}'}, "its field uri"),
        ({"uri": '{"conn_type": "postgres", "password": "canary-pw\\ud800"}'}, "its field uri"),
        (
            {"uri": '{"conn_type": "postgres", "extra": ' + '{"canary":' * 9999 + "1" + "}" * 9999 + "}"},
            "its field uri",
        ),
        ({"uri": " "}, "its field uri"),
        ({"host": "canary"}, "neither a field uri nor a field conn-type"),
    ],
)
def test_airflow_takes_nobody_elses_connection_for_a_secret_that_is_none(
    airflow: tuple[Callable[[str], Any], Callable[[str], Any]], vault: FakeVault, fields: dict[str, str], words: str
) -> None:
    vault.add_secret("/Airflow/Connections/dwh", fields)
    said = refused(airflow[0], "delinea_dwh")
    assert "'delinea_dwh' is the secret /Airflow/Connections/dwh" in said
    assert words in said
    assert "Likely cause: " in said
    assert "Next step: " in said


@pytest.mark.parametrize(
    "fields",
    [
        {**SQL, "extra": '{"sslmode": "require"}'},
        {"uri": "postgres://loader:canary-pw@db.corp.example:5432/dwh?sslmode=require"},
        {"uri": '{"conn_type": "postgres", "host": "db.corp.example", "login": "loader", "extra": {"a": [1]}}'},
    ],
)
def test_airflow_takes_the_connection_that_the_secret_is(
    airflow: tuple[Callable[[str], Any], Callable[[str], Any]], vault: FakeVault, fields: dict[str, str]
) -> None:
    vault.add_secret("/Airflow/Connections/dwh", fields)
    found = airflow[0]("delinea_dwh")
    assert (found.host, found.login) == ("db.corp.example", "loader")


def test_airflow_asks_nobody_else_after_an_exception_that_nobody_expects(
    airflow: tuple[Callable[[str], Any], Callable[[str], Any]], vault: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("canary-pw")

    vault.add_secret("/Airflow/Connections/dwh", SQL)
    vault.add_secret("/Airflow/Variables/threshold", {"value": "42"})
    monkeypatch.setattr(Vault, "record", broken)
    monkeypatch.setattr(Vault, "read_text", broken)
    for look_up, name in zip(airflow, ("delinea_dwh", "delinea_threshold"), strict=True):
        said = refused(look_up, name)
        assert "KeyError" in said
        assert "Next step: " in said


class HeldVault(FakeVault):
    """A vault that answers nothing about secrets named ``slow`` until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def _answer(self, call: Any) -> Any:
        if call.query.get("secretPath", "").endswith("slow"):
            self.asked.set()
            self.let_go.wait()
        return super()._answer(call)


@contextmanager
def looking_up_slowly(vault: HeldVault, backend: DelineaSecretsBackend) -> Iterator[Future[str | None]]:
    """Within, another thread waits for the vault's answer."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(backend.get_variable, "delinea_slow")
        try:
            assert vault.asked.wait(60)
            yield waiting
        finally:
            vault.let_go.set()


@pytest.fixture
def held() -> Iterator[HeldVault]:
    with HeldVault() as fake:
        for name in ("known", "other", "slow"):
            fake.add_secret(f"/Airflow/Variables/{name}", {"value": f"the {name} one"})
        yield fake


@pytest.fixture
def patient(held: HeldVault, tmp_path: Path) -> DelineaSecretsBackend:
    """A backend that waits for the vault longer than any test does, and knows one variable."""
    backend = DelineaSecretsBackend(
        url=held.url,
        credentials=str(held.credentials_folder(tmp_path / "bootstrap")),
        allow_http=True,
        timeout=600,
        clock=Clock(),
    )
    backend.get_variable("delinea_known")
    return backend


def test_what_is_known_waits_for_no_vault_that_is_slow(held: HeldVault, patient: DelineaSecretsBackend) -> None:
    with looking_up_slowly(held, patient) as slow, ThreadPoolExecutor(1) as pool:
        try:
            assert pool.submit(patient.get_variable, "delinea_known").result(30) == "the known one"
            assert pool.submit(patient.get_variable, "delinea_other").result(30) == "the other one"
            assert not slow.done()
        finally:
            held.let_go.set()
    assert slow.result(30) == "the slow one"


def test_a_worker_that_is_forked_during_a_lookup_looks_up_like_any_other(
    held: HeldVault, patient: DelineaSecretsBackend
) -> None:
    with looking_up_slowly(held, patient) as slow:
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)  # ends the child where it hangs
            good = False
            try:
                good = patient.get_variable("delinea_known") == "the known one"
                good = good and patient.get_variable("delinea_other") == "the other one"
            finally:
                os._exit(0 if good else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert not slow.done()
    assert slow.result(30) == "the slow one"


def test_threads_that_come_first_at_once_log_in_once(
    kwargs: dict[str, Any], vault: FakeVault, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 4
    together = threading.Barrier(count)
    make = Vault.__init__

    def made_together(self: Vault, *arguments: Any) -> None:
        together.wait(60)
        make(self, *arguments)

    monkeypatch.setattr(Vault, "__init__", made_together)
    vault.add_secret("/Airflow/Variables/threshold", {"value": "42"})
    backend = DelineaSecretsBackend(**kwargs, clock=Clock())
    with ThreadPoolExecutor(count) as pool:
        assert list(pool.map(backend.get_variable, ["delinea_threshold"] * count)) == ["42"] * count
    assert vault.logins == 1


def test_a_forked_worker_has_a_connection_of_its_own(backend: DelineaSecretsBackend, vault: FakeVault) -> None:
    vault.add_secret("/Airflow/Variables/one", {"value": "1"})
    vault.add_secret("/Airflow/Variables/two", {"value": "2"})
    backend.get_variable("delinea_one")
    before = backend._connected()
    pid = os.fork()
    if pid == 0:
        good = backend.get_variable("delinea_two") == "2" and backend._connected() is not before
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert backend._connected() is before


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
