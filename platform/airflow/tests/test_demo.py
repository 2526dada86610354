"""The demo, as a stranger runs it: with a lab, an Airflow and an engine's containers of its own, which it removes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import docker
import pytest

from .house import REPOSITORY

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("base_image")]

PORTS = (10088, 10443, 11433, 15432, 18080, 18089)


def demo(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [REPOSITORY / "scripts/demo", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "DATAKIT"))}
    return subprocess.Popen(
        command,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def listening() -> set[int]:
    """Return which of the demo's ports somebody listens on."""
    found = set()
    for port in PORTS:
        with closing(socket.socket()) as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                found.add(port)
    return found


def in_the_engine() -> list[str]:
    """Return the demo's volumes, and its containers, which are those that see the first."""
    client = docker.from_env()
    containers = client.containers.list(all=True, filters={"volume": "datakit-credentials"})
    volumes = [each.name for each in client.volumes.list()]
    return [
        *(each.name for each in containers),
        *({"datakit-credentials", "datakit-marketing"} & set(volumes)),
    ]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    assert listening() == set(), "a lab or a demo runs on this machine"
    yield
    subprocess.run([REPOSITORY / "scripts/demo", "down"], check=False, capture_output=True)
    assert listening() == set()
    assert in_the_engine() == []


@pytest.mark.parametrize("runtime", ["process", "docker"])
def test_the_demo_loads_rotates_proves_equality_and_leaves_nothing(runtime: str) -> None:
    run = demo(RUNTIME=runtime)
    said, _ = run.communicate(timeout=280)
    assert run.returncode == 0, said
    assert len(re.findall(r"│ equal │", said)) == 8
    assert "key.rotated" in said
    assert "CancellationReason" in said
    assert "0 problems" in said
    assert "FAILED" not in said
    assert listening() == set()
    assert in_the_engine() == []


def test_a_demo_that_is_kept_shows_its_login_and_goes_when_told() -> None:
    run = demo(RUNTIME="process", KEEP="1")
    said, _ = run.communicate(timeout=280)
    assert run.returncode == 0, said
    url, user, password = re.search(r"Airflow: (\S+), user (\S+), password (\S+)", said).groups()
    login = urllib.request.Request(
        f"{url}/auth/token",
        data=json.dumps({"username": user, "password": password}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(login) as answer:
        assert "access_token" in json.load(answer)

    again = demo(RUNTIME="process")
    refused, _ = again.communicate(timeout=60)
    assert again.returncode == 78
    assert "a lab runs already" in refused
    assert "make demo-down" in refused
    assert set(PORTS) == listening()


def test_a_demo_that_is_interrupted_while_a_load_hangs_leaves_nothing() -> None:
    run = demo(RUNTIME="docker")
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("$ cat warehouses"):
            fault = [REPOSITORY / ".venv/bin/datakit-lab", "faults", "stall 120 after 1000 matching Flights"]
            subprocess.run(fault, cwd=REPOSITORY, check=True, capture_output=True)
        if "airline.flights" in line and "loading" in line:
            break
    assert in_the_engine()
    os.killpg(run.pid, signal.SIGINT)
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 130, said
    assert "Traceback" not in said
    assert listening() == set()
    assert in_the_engine() == []
