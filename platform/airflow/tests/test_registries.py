"""Real registries that refuse: what a container and a pod say of them, and that a login is all that some want."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from datakit_lab.certificates import issue_certificate
from datakit_lab.kubernetes import KubernetesDouble
from datakit_lab.registry import Registry

from .containers import IMAGE
from .house import INGEST, House, fails_with

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("airflow_database")]

USER, PASSWORD = "robot", "a registry's password"
NAME = "data/datakits/sqlserver-bronze"
SERVER = """\
import http.server, os, ssl, time
while not os.path.exists("/tls/server.key"):
    time.sleep(0.05)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/server.pem", "/tls/server.key")
server = http.server.HTTPServer(("", 443), http.server.BaseHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture(params=["docker", "kubernetes"])
def anywhere(request: pytest.FixtureRequest) -> House:
    """The tree, in an environment of either runtime that has images."""
    made: House = request.getfixturevalue({"docker": "docker_house", "kubernetes": "pod_house"}[request.param])
    return made


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that asks for a login, and holds nothing."""
    made = Registry(users={USER: PASSWORD})
    made.start()
    yield made
    made.close()


@pytest.fixture
def stranger(request: pytest.FixtureRequest, base_image: str, tmp_path: Path) -> Iterator[str]:
    """A server whose certificate nobody here trusts; not on loopback, where an engine does not look at certificates.

    Its parameter is the name in the certificate; None is its own.
    """
    folder, made = tmp_path / "tls", tmp_path / "made"
    folder.mkdir()
    container = docker.from_env().containers.run(
        base_image, ["python3", "-c", SERVER], detach=True, volumes={str(folder): {"bind": "/tls", "mode": "ro"}}
    )
    try:
        container.reload()
        address = str(container.attrs["NetworkSettings"]["IPAddress"])
        issue_certificate(made, [request.param or address])
        for name in ("server.pem", "server.key"):
            (made / name).rename(folder / name)
        yield address
    finally:
        container.remove(force=True)


def at(house: House, registry: str) -> None:
    """Let the environment take its images from another registry."""
    file = house.root / "warehouses/environments/test.yaml"
    text = file.read_text().replace("registry: registry.corp.example/data", f"registry: {registry}/data")
    file.write_text(text.replace("startup_timeout: 60s", "startup_timeout: 8s"))
    house.forget()


def push(registry: Registry) -> str:
    """Put the tests' datakit there, and forget it here; return its name."""
    name = f"{registry.host}/{NAME}:v0.1.0"
    client = docker.from_env()
    client.images.get(IMAGE).tag(name)
    login = {"username": USER, "password": PASSWORD}
    said = list(client.images.push(name, auth_config=login, stream=True, decode=True))
    assert not any("error" in line for line in said), said
    client.images.remove(name)
    return name


def connection(registry: Registry, password: str) -> str:
    """Return an Airflow connection with a login of the registry."""
    return json.dumps({"conn_type": "docker", "host": registry.host, "login": USER, "password": password})


def test_a_registry_that_wants_a_login_is_named(
    anywhere: House, registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    at(anywhere, registry.host)
    output = fails_with(anywhere, "the registry does not let", capfd)
    assert f"{registry.host}/{NAME}:v0.1.0" in output
    assert ("docker.connection" in output) or ("kubernetes.pull_secrets" in output)


def test_an_image_that_was_never_released_is_named(anywhere: House, capfd: pytest.CaptureFixture[str]) -> None:
    registry = Registry()
    registry.start()
    try:
        at(anywhere, registry.host)
        output = fails_with(anywhere, "the registry does not have", capfd)
    finally:
        registry.close()
    assert "was never released to this registry" in output


@pytest.mark.parametrize(
    ("stranger", "words"),
    [(None, "the company's own authority"), ("registry.corp.example", "otherwise than its certificate does")],
    indirect=["stranger"],
)
def test_a_registry_whose_certificate_is_refused_is_named(
    anywhere: House, stranger: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    at(anywhere, stranger)
    output = fails_with(anywhere, "the registry's certificate", capfd)
    assert "x509" in output
    assert words in output


def test_a_container_logs_in_with_airflows_connection(
    docker_house: House, registry: Registry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = push(registry)
    docker_house.body("report()", registry=f"{registry.host}/data", docker={"connection": "registry"})
    fails_with(docker_house, "docker.connection registry", capfd)
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", connection(registry, "another one"))
    output = fails_with(docker_house, "the registry refuses the login", capfd)
    assert "another one" not in output
    monkeypatch.setenv("AIRFLOW_CONN_REGISTRY", connection(registry, PASSWORD))
    try:
        assert docker_house.run(INGEST)["ingest"].state == "success"
    finally:
        subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True)
    assert PASSWORD not in capfd.readouterr().out


def test_a_pod_logs_in_with_its_pull_secret(
    pod_house: House, cluster: KubernetesDouble, registry: Registry, capfd: pytest.CaptureFixture[str]
) -> None:
    name = push(registry)
    login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    data = {".dockerconfigjson": json.dumps({"auths": {registry.host: {"auth": login}}})}
    secret = {"metadata": {"name": "registry"}, "type": "kubernetes.io/dockerconfigjson", "stringData": data}
    cluster.create("secrets", secret, namespace="data")
    at(pod_house, registry.host)
    try:
        assert pod_house.run(INGEST)["ingest"].state == "success"
    finally:
        subprocess.run(["docker", "rmi", "-f", name], check=False, capture_output=True)
    assert PASSWORD not in capfd.readouterr().out
