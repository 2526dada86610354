"""The double on a real Docker engine, and Kubernetes' own client for it, which Airflow's venv has."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from datakit_lab.kubernetes import KubernetesDouble

if find_spec("kubernetes") is None:  # the repository's other tests run without it
    collect_ignore_glob = ["test_*.py"]

Json = dict[str, Any]
IMAGE = os.environ.get("DATAKIT_TEST_IMAGE", "debian:bookworm-slim")
NAMESPACE = "data"


class Cluster:
    """The double and a client of it; every test has pods of its own names in one namespace."""

    def __init__(self, double: KubernetesDouble) -> None:
        from kubernetes import client, config

        self.double = double
        config.load_kube_config(str(double.kubeconfig))
        self.v1 = client.CoreV1Api()

    def run(self, name: str, script: str = "true", **more: Any) -> Any:
        """Create a pod of one container that runs a shell script."""
        return self.v1.create_namespaced_pod(NAMESPACE, pod(name, container(script), **more))

    def ask(self, method: str, path: str) -> tuple[int, str]:
        """Send a request as the client would and return the status and the message of the answer."""
        api = self.v1.api_client
        headers = {"Authorization": api.configuration.auth_settings()["BearerToken"]["value"]}
        answer = api.rest_client.pool_manager.request(method, f"{self.double.url}{path}", headers=headers)
        return answer.status, str(json.loads(answer.data)["message"])

    def pod(self, name: str) -> Any:
        return self.v1.read_namespaced_pod(name, NAMESPACE)

    def until(self, name: str, reached: Callable[[Any], bool], seconds: float = 60) -> Any:
        """Return the pod as soon as it is as wanted."""
        deadline = time.monotonic() + seconds
        while not reached(found := self.pod(name)):
            assert time.monotonic() < deadline, found.status
            time.sleep(0.02)
        return found

    def until_phase(self, name: str, *phases: str) -> Any:
        return self.until(name, lambda found: found.status.phase in phases)

    def until_over(self, name: str) -> Any:
        return self.until_phase(name, "Succeeded", "Failed")

    def until_gone(self, name: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while any(each.metadata.name == name for each in self.v1.list_namespaced_pod(NAMESPACE).items):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def until_none(self, selector: str) -> None:
        """Return when no pod has these labels."""
        deadline = time.monotonic() + 60
        while self.v1.list_namespaced_pod(NAMESPACE, label_selector=selector).items:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def log(self, name: str, **more: Any) -> str:
        answer = self.v1.read_namespaced_pod_log(name, NAMESPACE, _preload_content=False, **more)
        return str(answer.data.decode())

    def reasons(self, name: str) -> list[str]:
        """Return the reasons of a pod's events in order."""
        selector = f"involvedObject.name={name}"
        return [each.reason for each in self.v1.list_namespaced_event(NAMESPACE, field_selector=selector).items]

    def messages(self, name: str, reason: str) -> list[str]:
        selector = f"involvedObject.name={name},reason={reason}"
        return [each.message for each in self.v1.list_namespaced_event(NAMESPACE, field_selector=selector).items]


def container(script: str = "true", name: str = "base", **more: Any) -> Json:
    return {"name": name, "image": IMAGE, "command": ["sh", "-c", script], **more}


def pod(name: str, *containers: Json, **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"restartPolicy": "Never", "containers": list(containers), **spec}}


def statuses(found: Any) -> list[Any]:
    """Return what the pod says of its containers; a new one says nothing yet."""
    return found.status.container_statuses or []


def waiting_reason(found: Any) -> str | None:
    """Return why the first container waits."""
    return next((each.state.waiting.reason for each in statuses(found) if each.state.waiting), None)


@pytest.fixture(scope="session")
def double() -> Iterator[KubernetesDouble]:
    with KubernetesDouble(namespaces=(NAMESPACE,), backoff=0.5) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(double: KubernetesDouble) -> Cluster:
    return Cluster(double)
