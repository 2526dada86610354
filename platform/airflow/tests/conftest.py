from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from datakit_lab.kubernetes import KubernetesDouble

from .containers import (
    IMAGE,
    PASSWORD,
    SIDECAR_IMAGE,
    Credentials,
    build_fake,
    build_fake_sidecar,
    credentials_volume,
    left_containers,
    wait_for,
)
from .house import REPOSITORY, House, Lab, copied_tree

COMMANDS = REPOSITORY / ".venv/bin"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A KDC, the SQL Server double and a PostgreSQL, in the other venv: Airflow's knows nothing of them."""
    state = tmp_path_factory.mktemp("lab") / "state"
    names = ("kdc", "sqlserver", "postgres", "vault", "sidecar")
    chosen = dict(zip(names, free_ports(len(names)), strict=True))
    ports = [word for name, port in chosen.items() for word in (f"--{name}-port", str(port))]
    subprocess.run([COMMANDS / "datakit-lab", "up", "--state-dir", state, *ports], check=True, capture_output=True)
    try:
        record = json.loads((state / "lab.json").read_text())
        yield Lab(state, chosen["sqlserver"], chosen["postgres"], record["realm"], COMMANDS)
    finally:
        subprocess.run([COMMANDS / "datakit-lab", "down", "--state-dir", state], check=True, capture_output=True)


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """Airflow's own database, empty, in the home that the folder's conftest made."""
    subprocess.run([REPOSITORY / ".venv-airflow/bin/airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """The repository's tree, copied, with an environment of the test's own, and an empty folder of DAGs."""
    root, dags = copied_tree(tmp_path)
    monkeypatch.setenv("DATAKIT_HOME", str(root))
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", "test")
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(dags))
    monkeypatch.setattr("airflow.settings.DAGS_FOLDER", str(dags))
    monkeypatch.delenv("DATAKIT_ENVIRONMENTS", raising=False)
    made = House(root, dags, tmp_path)
    made.environment()
    yield made
    made.forget()


@pytest.fixture
def lab_house(house: House, lab: Lab, airflow_database: None) -> House:
    """The tree with the laboratory behind it: ``process`` runs the real datakit against real servers."""
    schema = f"bronze_{secrets.token_hex(4)}"  # tests share one PostgreSQL
    house.at(lab, schema)
    return house


@pytest.fixture(scope="session")
def base_image() -> str:
    """A small Debian with Python, on an engine that answers: what the images of these tests are built on."""
    subprocess.run([REPOSITORY / "scripts/docker-engine"], check=True, capture_output=True)
    made = subprocess.run([REPOSITORY / "scripts/local-base-image"], check=True, capture_output=True, text=True)
    return made.stdout.strip()


@pytest.fixture(scope="session")
def fake_image(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_fake(base_image, IMAGE, tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="session")
def credentials(base_image: str) -> Iterator[Credentials]:
    with credentials_volume(base_image, f"datakit-test-{secrets.token_hex(4)}") as volume:
        volume.put("tickets/svc-datakit", b"a ticket")
        volume.put("secrets/finance-db/password", b"a password")
        yield volume


@pytest.fixture
def docker_house(house: House, fake_image: str, credentials: Credentials) -> Iterator[House]:
    house.credentials = credentials.name
    house.body("report()")
    yield house
    assert left_containers() == []


@pytest.fixture(scope="session")
def images(base_image: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    build_fake(base_image, IMAGE, tmp_path_factory.mktemp("fake"))
    build_fake_sidecar(base_image, SIDECAR_IMAGE, tmp_path_factory.mktemp("sidecar"))
    subprocess.run([REPOSITORY / "scripts/images", "build", "xcom"], check=True, capture_output=True)


@pytest.fixture
def configured_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client wants a configuration before it makes a pod, and asks nobody."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


@pytest.fixture
def cluster(images: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesDouble]:
    with KubernetesDouble(namespaces=("data",), backoff=1) as double:
        double.create("serviceaccounts", {"metadata": {"name": "datakit"}}, namespace="data")
        double.create(
            "configmaps", {"metadata": {"name": "sidecar"}, "data": {"sidecar.yaml": "vault: {}\n"}}, namespace="data"
        )
        double.create(
            "secrets", {"metadata": {"name": "bootstrap"}, "stringData": {"password": PASSWORD}}, namespace="data"
        )
        monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(double.kubeconfig))
        yield double
        wait_for(lambda: double.pods("data") == [])


@pytest.fixture
def pod_house(house: House, cluster: KubernetesDouble) -> House:
    house.pod("report()")
    return house


@pytest.fixture(scope="session", autouse=True)
def home_is_removed() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["AIRFLOW_HOME"], ignore_errors=True)
