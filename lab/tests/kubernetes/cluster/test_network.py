"""Pods with networks of their own reach what listens on this machine, and do not get into each other's way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from datakit_lab.errors import LabError
from datakit_lab.kubernetes import KubernetesDouble
from datakit_lab.kubernetes import double as module
from datakit_lab.network import free_port

from .conftest import NAMESPACE, Cluster, container, pod, statuses

pytestmark = [pytest.mark.docker, pytest.mark.skipif(os.geteuid() != 0, reason="only root may join a pod's network")]


@pytest.fixture(scope="module")
def apart() -> Iterator[Cluster]:
    with KubernetesDouble(namespaces=(NAMESPACE,), own_network=True) as running:
        yield Cluster(running)


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server on this machine that sends back what it got, once the client has said all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client, client.makefile("rb") as reader:
                    client.sendall(reader.read())

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


CLIENT = """python3 -c '
import hashlib, socket
sent = bytes(range(256)) * 20000
with socket.create_connection(("127.0.0.1", {port})) as server:
    server.sendall(sent)
    server.shutdown(socket.SHUT_WR)
    got = server.makefile("rb").read()
print(got == sent)
'"""


def test_a_pod_reaches_a_server_on_this_machines_loopback(apart: Cluster, echo: int) -> None:
    apart.run("reaches", CLIENT.format(port=echo))
    assert apart.until_over("reaches").status.phase == "Succeeded", apart.log("reaches")
    assert apart.log("reaches") == "True\n"


def test_two_pods_listen_on_one_port_and_are_probed_each_in_its_own(apart: Cluster) -> None:
    port = free_port()
    served = container(
        f"exec python3 -m http.server --bind 127.0.0.1 {port}",
        readinessProbe={"httpGet": {"path": "/", "port": port}, "periodSeconds": 1},
        startupProbe={"tcpSocket": {"port": port}, "periodSeconds": 1},
    )
    for name in ("first", "second"):
        apart.v1.create_namespaced_pod(NAMESPACE, pod(name, served))
    for name in ("first", "second"):
        apart.until(name, lambda found: found.status.phase == "Running" and all(each.ready for each in statuses(found)))
        assert apart.pod(name).status.container_statuses[0].restart_count == 0
    with pytest.raises(ConnectionRefusedError):  # nothing of it is on this machine's loopback
        socket.create_connection(("127.0.0.1", port), timeout=5)
    for name in ("first", "second"):
        apart.v1.delete_namespaced_pod(name, NAMESPACE, grace_period_seconds=0)
        apart.until_gone(name)


def test_the_containers_of_a_pod_share_its_loopback(apart: Cluster) -> None:
    port = free_port()
    helper = container(
        f"exec python3 -m http.server --bind 127.0.0.1 {port}",
        name="helper",
        restartPolicy="Always",
        startupProbe={"httpGet": {"path": "/", "port": port}, "periodSeconds": 1},
    )
    asks = f"exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'HEAD / HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3"
    base = {**container(), "command": ["bash", "-c", asks]}
    given = pod("shares", base, initContainers=[helper], terminationGracePeriodSeconds=0)
    apart.v1.create_namespaced_pod(NAMESPACE, given)
    apart.until_over("shares")
    assert "200 OK" in apart.log("shares", container="base")


def test_a_pod_has_this_machines_name(apart: Cluster) -> None:
    apart.run("named", "python3 -c 'import socket; n = socket.gethostname(); print(n, socket.gethostbyname(n))'")
    apart.until_over("named")
    assert apart.log("named").split() == [socket.gethostname(), "127.0.0.1"]


def test_a_server_that_is_gone_is_one_that_closes_the_connection(apart: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"sleep 1; exec 3<>/dev/tcp/127.0.0.1/{port} && cat <&3; echo ended"
        given = pod("orphaned", {**container(), "command": ["bash", "-c", script]})
        apart.v1.create_namespaced_pod(NAMESPACE, given)
        apart.until_phase("orphaned", "Running")
    assert apart.until_over("orphaned").status.phase == "Succeeded"


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "may_join", lambda: False)
    with pytest.raises(LabError, match="only root may give pods a network of their own"):
        KubernetesDouble(own_network=True)
