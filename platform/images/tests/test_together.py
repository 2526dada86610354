"""The images as pods: the sidecar brings tickets and a password, the datakit reads SQL Server and writes PostgreSQL.

The pods are those of docs/sidecar.md; Kubernetes, vault and SQL Server are the lab's doubles, KDC and PostgreSQL real.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from datakit_lab.kubernetes import KubernetesDouble
from datakit_lab.network import free_port

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may give pods a network of their own"),
]
ROOT = Path(__file__).parents[3]
SHARED = "/run/datakit/shared"
DATASETS = ("airline.airports", "airline.airlines")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running lab, on ports of its own."""
    state = tmp_path_factory.mktemp("lab")
    command = [Path(sys.executable).with_name("datakit-lab")]
    ports = ("kdc", "sqlserver", "postgres", "vault", "sidecar")
    options = [word for name in ports for word in (f"--{name}-port", str(free_port()))]
    done = subprocess.run([*command, "up", "--state-dir", state, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    yield state
    subprocess.run([*command, "down", "--state-dir", state], check=True, capture_output=True)


@pytest.fixture(scope="module")
def cluster(lab: Path) -> Iterator[KubernetesDouble]:
    with KubernetesDouble(namespaces=("data",), own_network=True) as double:
        settings = yaml.safe_load((lab / "sidecar.yaml").read_text())
        settings["vault"] |= {"credentials": "/run/datakit/bootstrap", "ca_file": "/etc/datakit/authority.pem"}
        settings["publish"] = {
            "tickets": f"{SHARED}/tickets",
            "secrets": f"{SHARED}/secrets",
            "mode": "0640",
            "gid": 10000,
        }
        settings["health"] = {"address": "127.0.0.1", "port": 8089}
        del settings["audit"]
        given = {
            "sidecar.yaml": yaml.safe_dump(settings),
            "authority.pem": (lab / "certificates/authority.pem").read_text(),
        }
        double.create("configmaps", {"metadata": {"name": "sidecar"}, "data": given}, namespace="data")
        bootstrap = {file.name: file.read_text() for file in (lab / "bootstrap").iterdir()}
        double.create("secrets", {"metadata": {"name": "bootstrap"}, "stringData": bootstrap}, namespace="data")
        double.create("configmaps", {"metadata": {"name": "tree"}, "data": tree(lab)}, namespace="data")
        yield double


def tree(lab: Path) -> dict[str, str]:
    """Return the warehouse and the environment, with this lab's ports."""
    services = json.loads((lab / "lab.json").read_text())["services"]
    local = yaml.safe_load((ROOT / "warehouses/environments/local.yaml").read_text())
    local["sources"]["airline"]["port"] = services["sqlserver"]["port"]
    local["warehouses"]["finance-db"]["port"] = services["postgres"]["port"]
    finance = yaml.safe_load((ROOT / "warehouses/finance/warehouse.yaml").read_text())
    finance["ingest"] = [{"datakit": "sqlserver-bronze", "datasets": list(DATASETS), "mode": "replace"}]
    return {"local.yaml": yaml.safe_dump(local), "warehouse.yaml": yaml.safe_dump(finance)}


def image(name: str) -> str:
    return subprocess.check_output([ROOT / "scripts/images", "names", name], text=True).strip()


def restricted(user: int) -> dict[str, Any]:
    return {
        "runAsUser": user,
        "runAsGroup": 10000,
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def ingestion(dataset: str) -> dict[str, Any]:
    """Return the pod that loads a dataset into finance."""
    sidecar = {
        "name": "sidecar",
        "image": image("sidecar"),
        "restartPolicy": "Always",
        "securityContext": restricted(10001),
        "startupProbe": {
            "exec": {"command": ["datakit-sidecar", "healthcheck", "--port", "8089"]},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 120,
        },
        "resources": {"limits": {"memory": "64Mi"}},
        "volumeMounts": [
            {"name": "shared", "mountPath": SHARED},
            {"name": "bootstrap", "mountPath": "/run/datakit/bootstrap", "readOnly": True},
            {"name": "sidecar", "mountPath": "/etc/datakit", "readOnly": True},
        ],
    }
    environment = {
        "KRB5CCNAME": f"FILE:{SHARED}/tickets/svc-datakit",
        "KRB5_CONFIG": f"{SHARED}/tickets/krb5.conf",
        "DATAKIT_SECRETS": f"{SHARED}/secrets",
        "DATAKIT_ENVIRONMENT": "local",
        "DATAKIT_LOG": "json",
    }
    base = {
        "name": "base",
        "image": image("datakit/sqlserver-bronze"),
        "args": ["run", "--dataset", dataset, "--warehouse", "finance", "--run-id", f"together-{dataset}"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "securityContext": restricted(10002),
        "resources": {"limits": {"memory": "512Mi"}},
        "volumeMounts": [
            {"name": "shared", "mountPath": SHARED, "readOnly": True},
            {"name": "tree", "mountPath": "/datakit/warehouses", "readOnly": True},
            {"name": "report", "mountPath": "/airflow/xcom"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    paths = [("warehouse.yaml", "finance/warehouse.yaml"), ("local.yaml", "environments/local.yaml")]
    return {
        "metadata": {"name": dataset.replace(".", "-")},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 20,
            "securityContext": {"fsGroup": 10000},
            "initContainers": [sidecar],
            "containers": [base],
            "volumes": [
                {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
                {"name": "bootstrap", "secret": {"secretName": "bootstrap", "defaultMode": 0o440}},
                {"name": "sidecar", "configMap": {"name": "sidecar"}},
                {"name": "tree", "configMap": {"name": "tree", "items": [{"key": k, "path": p} for k, p in paths]}},
                {"name": "report", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {"medium": "Memory"}},
            ],
        },
    }


def is_over(pod: dict[str, Any]) -> bool:
    return pod["status"]["phase"] in {"Succeeded", "Failed"}


def log(pod: dict[str, Any], container: str) -> str:
    """Return what a container wrote."""
    states = pod["status"]["initContainerStatuses"] + pod["status"]["containerStatuses"]
    (found,) = (each["containerID"].removeprefix("docker://") for each in states if each["name"] == container)
    done = subprocess.run(["docker", "logs", found], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_two_pods_at_once_load_what_they_are_told_to_and_tell_no_secret(cluster: KubernetesDouble, lab: Path) -> None:
    for dataset in DATASETS:
        cluster.create("pods", ingestion(dataset), namespace="data")
    deadline = time.monotonic() + 120
    while not all(is_over(each) for each in cluster.pods("data")):
        assert time.monotonic() < deadline, cluster.pods("data")
        time.sleep(0.2)
    pods = cluster.pods("data")
    secrets = [(lab / "secrets/finance-db/password").read_text(), (lab / "bootstrap/password").read_text()]
    for pod in pods:
        written = log(pod, "base") + log(pod, "sidecar")
        assert pod["status"]["phase"] == "Succeeded", written
        assert pod["status"]["initContainerStatuses"][0]["restartCount"] == 0
        assert re.search(r"[\d,]+ rows", written)
        assert [secret for secret in secrets if secret in written + json.dumps(pod)] == []
