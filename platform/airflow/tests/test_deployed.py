"""The environments of the tree, in the namespaces that deploy/ makes for them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import kubernetes_validate
import pytest
import yaml
from airflow_datakit import dags_from_warehouses
from datakit.errors import ConfigurationError
from datakit_lab.kubernetes import KubernetesDouble
from kubernetes.client import ApiClient

from .containers import PASSWORD, wait_for
from .house import REPOSITORY, House

ENVIRONMENTS = ("int", "qa", "prod")
KINDS = {
    "ServiceAccount": "serviceaccounts",
    "ConfigMap": "configmaps",
    "PersistentVolumeClaim": "persistentvolumeclaims",
}
"""What a pod needs of its namespace; the double has no quotas, policies and roles, which tests/deploy looks at."""
LOCK = """\
environment: {name}
warehouses:
  finance: {{sqlserver-bronze: {{version: 0.1.0, digest: "sha256:{digest}"}}}}
  marketing: {{sqlserver-bronze: {{version: 0.1.0, digest: "sha256:{digest}"}}}}
"""


def of_the_tree(house: House, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the house be in one of the tree's own environments; return its file."""
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", name)
    source = REPOSITORY / f"warehouses/environments/{name}.yaml"
    file = house.put(f"warehouses/environments/{name}.yaml", source.read_text())
    house.forget()
    return file


def put_lock(house: House, name: str) -> None:
    house.put(f"warehouses/environments/{name}.lock.yaml", LOCK.format(name=name, digest="ab" * 32))
    house.forget()


@pytest.mark.parametrize("name", ["qa", "prod"])
def test_a_frozen_environment_has_no_dag_until_something_was_promoted_to_it(
    house: House, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_tree(house, name, monkeypatch)
    with pytest.raises(ConfigurationError, match=f"environment '{name}' is frozen, and nothing pins a digest"):
        dags_from_warehouses()
    put_lock(house, name)
    assert len(dags_from_warehouses()) == 4


@pytest.mark.usefixtures("configured_cluster")
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_kubernetes_takes_the_pod_of_every_task_of_every_environment(
    house: House, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_the_tree(house, name, monkeypatch)
    put_lock(house, name)
    tasks = [task for dag in dags_from_warehouses().values() for task in dag.tasks]
    assert len(tasks) == 8
    for task in tasks:
        pod = ApiClient().sanitize_for_serialization(task.build_pod_request_obj())
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        assert pod["metadata"]["namespace"] == f"datakit-{name}"


@pytest.fixture
def deployed(images: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesDouble]:
    """A cluster with the namespace of ``int`` as ``kubectl apply -k`` would make it, and the Secrets it leaves out."""
    done = subprocess.run(
        ["kubectl", "kustomize", REPOSITORY / "deploy/overlays/int"], capture_output=True, text=True, check=True
    )
    with KubernetesDouble(namespaces=("datakit-int",), backoff=1) as double:
        for found in yaml.safe_load_all(done.stdout):
            if found["kind"] in KINDS:
                double.create(KINDS[found["kind"]], found, namespace="datakit-int")
        for secret in (
            {"metadata": {"name": "datakit-vault"}, "stringData": {"username": "svc", "password": PASSWORD}},
            {
                "metadata": {"name": "datakit-registry"},
                "type": "kubernetes.io/dockerconfigjson",
                "stringData": {".dockerconfigjson": '{"auths": {}}'},
            },
        ):
            double.create("secrets", secret, namespace="datakit-int")
        monkeypatch.setenv("KUBECONFIG", str(double.kubeconfig))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(double.kubeconfig))
        yield double
        wait_for(lambda: double.pods() == [])


BODY = """\
with open(run["configuration"]["environment"]["warehouses"]["marketing-db"]["path"], "a") as file:
    file.write(run["dataset"] + "\\n")
report(principal=os.environ["KRB5CCNAME"], secrets=sorted(os.listdir(os.environ["DATAKIT_SECRETS"])))
"""


@pytest.mark.docker
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders overlays")
@pytest.mark.usefixtures("airflow_database")
def test_a_dag_of_the_tree_runs_in_the_namespace_that_the_overlay_makes(
    house: House, deployed: KubernetesDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = of_the_tree(house, "int", monkeypatch)
    given: dict[str, Any] = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(given | {"env": {"BODY": BODY}}))
    house.forget()
    xcom = given["kubernetes"]["xcom_image"]
    engine = docker.from_env()
    engine.images.get("datakit.local/platform/xcom:v1").tag(*xcom.rsplit(":", 1))
    try:
        house.file(
            "from airflow_datakit import dags_from_warehouses\nglobals().update(dags_from_warehouses())  # airflow\n"
        )
        run = dags_from_warehouses()["marketing_weekly"].test()
    finally:
        engine.images.remove(xcom)
    tasks = {task.task_id: task for task in run.get_task_instances()}
    assert {task.state for task in tasks.values()} == {"success"}
    report = tasks["airline.airports"].xcom_pull(task_ids="airline.airports")
    assert report["principal"].endswith("/tickets/svc-datakit-int")
    assert report["secrets"] == ["finance-db"]
    written = deployed.claim_folder("datakit-marketing", namespace="datakit-int") / "marketing.duckdb"
    assert sorted(written.read_text().split()) == ["airline.airlines", "airline.airports"]
