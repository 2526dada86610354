"""The pod that a task becomes, without a cluster: what it holds, and that Kubernetes would take it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from airflow_datakit import DatakitOperator
from datakit.errors import ConfigurationError
from kubernetes.client import ApiClient

from .house import House

FLIGHTS = {"datakit": "sqlserver-bronze", "dataset": "airline.flights", "warehouse": "finance"}
SCHEMAS = Path(kubernetes_validate.__file__).with_name("kubernetes-json-schema")
VERSIONS = sorted(path.name.removeprefix("v").removesuffix("-local-strict") for path in SCHEMAS.glob("*-strict"))


pytestmark = pytest.mark.usefixtures("configured_cluster")


def context() -> Any:
    run = SimpleNamespace(run_id="scheduled__2026-11-22", data_interval_start=None, data_interval_end=None)
    task = SimpleNamespace(dag_id="example", task_id="ingest", try_number=2, map_index=-1, run_id=run.run_id)
    return {"ti": task, "run_id": run.run_id, "dag": SimpleNamespace(), "dag_run": run}


def rendered(house: House, task: dict[str, Any] | None = None, **environment: Any) -> dict[str, Any]:
    """Return the pod as JSON, as the client would send it."""
    house.pod("report()", **environment)
    operator = DatakitOperator.create("ingest", **{**FLIGHTS, **(task or {})})
    operator.dag_id = "example"  # type: ignore[misc]  # it belongs to no DAG
    pod = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(context()))
    assert isinstance(pod, dict)
    return pod


@pytest.fixture(autouse=True)
def operators_know_their_dag(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_datakit._task import DatakitTask

    monkeypatch.setattr(DatakitTask, "dag_id", "example")


def container(pod: dict[str, Any], name: str = "base") -> dict[str, Any]:
    return next(item for item in pod["spec"]["containers"] if item["name"] == name)


@pytest.mark.parametrize("version", [version for version in VERSIONS if tuple(map(int, version.split("."))) >= (1, 30)])
def test_kubernetes_takes_the_pod(house: House, version: str) -> None:
    kubernetes_validate.validate(rendered(house), version, strict=True)


def test_the_schemas_reach_from_1_30_to_the_newest() -> None:
    assert "1.30.0" in VERSIONS
    assert "1.36.0" in VERSIONS


def test_a_schema_refuses_what_is_no_pod(house: House) -> None:
    pod = rendered(house)
    pod["spec"]["contaners"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.36.0", strict=True)


def test_the_sidecar_is_native_and_holds_the_datakit_back(house: House) -> None:
    pod = rendered(house)
    [sidecar] = pod["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"] == ["datakit-sidecar", "healthcheck"]
    assert {item["name"] for item in pod["spec"]["containers"]} == {"base", "airflow-xcom-sidecar"}


def test_credentials_are_in_memory_and_the_datakit_may_only_read_them(house: House) -> None:
    pod = rendered(house)
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert volumes["datakit-credentials"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}
    mounts = {mount["name"]: mount for mount in container(pod)["volumeMounts"]}
    assert mounts["datakit-credentials"] == {
        "name": "datakit-credentials",
        "mountPath": "/run/datakit/shared",
        "readOnly": True,
    }
    assert "datakit-bootstrap" not in mounts
    assert volumes["datakit-bootstrap"]["secret"]["secretName"] == "bootstrap"
    others = [name for name in ("base", "airflow-xcom-sidecar") if "bootstrap" in str(container(pod, name))]
    assert others == []


def test_every_container_is_restricted(house: House) -> None:
    spec = rendered(house)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    for item in [*spec["containers"], *spec["initContainers"]]:
        security = item["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, item["name"]
        assert security["readOnlyRootFilesystem"] is True, item["name"]
        assert security["capabilities"] == {"drop": ["ALL"]}, item["name"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, item["name"]


def test_the_pod_has_what_the_environment_says(house: House) -> None:
    pod = rendered(house, {"resource_class": "large"}, labels={"owner": "data"})
    spec, base = pod["spec"], container(pod)
    assert pod["metadata"]["namespace"] == "data"
    assert spec["serviceAccountName"] == "datakit"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert base["resources"] == {
        "requests": {"cpu": "4000m", "memory": "8Gi"},
        "limits": {"cpu": "4000m", "memory": "8Gi"},
    }
    assert base["image"] == "registry.corp.example/data/datakits/sqlserver-bronze:v0.1.0"
    assert base["args"] == ["run"]
    assert container(pod, "airflow-xcom-sidecar")["image"] == "datakit.local/platform/xcom:v1"
    labels = pod["metadata"]["labels"]
    assert labels["owner"] == "data"
    assert labels["datakit.dataset"] == "airline.flights"
    assert labels["try_number"] == "2"
    environment = {item["name"]: item["value"] for item in base["env"]}
    assert environment["KRB5CCNAME"] == "FILE:/run/datakit/shared/tickets/svc-datakit"
    assert environment["DATAKIT_REPORT"] == "/airflow/xcom/return.json"


def test_the_sidecar_may_use_a_whole_core_to_start(house: House) -> None:
    [sidecar] = rendered(house)["spec"]["initContainers"]
    assert sidecar["resources"] == {
        "requests": {"cpu": "100m", "memory": "64Mi"},
        "limits": {"cpu": "1000m", "memory": "64Mi"},
    }


def test_every_container_has_limits_so_that_a_quota_lets_the_pod_in(house: House) -> None:
    spec = rendered(house)["spec"]
    for item in [*spec["containers"], *spec["initContainers"]]:
        assert item["resources"]["limits"].keys() == item["resources"]["requests"].keys() == {"cpu", "memory"}


def test_pods_of_another_environment_are_told_apart(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_datakit import _tree

    own = rendered(house)["metadata"]["labels"]
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow-qa.corp.example")
    _tree.this_airflow.cache_clear()
    other = rendered(house)["metadata"]["labels"]
    _tree.this_airflow.cache_clear()
    assert own["datakit.environment"] == "test"
    assert own["datakit.airflow"] != other["datakit.airflow"]


def test_no_variable_comes_from_a_secret(house: House) -> None:
    spec = rendered(house)["spec"]
    for item in [*spec["containers"], *spec["initContainers"]]:
        assert not item.get("envFrom")
        assert not any("valueFrom" in variable for variable in item.get("env") or [])


def test_a_digest_and_a_long_name_fit_into_what_kubernetes_allows(house: House) -> None:
    house.put(
        "warehouses/environments/test.lock.yaml",
        "environment: test\nwarehouses: {finance: {sqlserver-bronze: {version: 1.2.3, digest: 'sha256:"
        + "ab" * 32
        + "'}}}\n",
    )
    pod = rendered(house, frozen=True)
    kubernetes_validate.validate(pod, "1.36.0", strict=True)
    assert container(pod)["image"].endswith("@sha256:" + "ab" * 32)
    assert pod["metadata"]["annotations"]["datakit.image"] == container(pod)["image"]
    assert len(pod["metadata"]["name"]) <= 63
    assert all(len(value) <= 63 for value in pod["metadata"]["labels"].values())


def test_the_platforms_template_is_below_and_our_pod_above(house: House) -> None:
    house.put(
        "warehouses/environments/pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {annotations: {team: '${team}'}}\n"
        "spec:\n  nodeSelector: {pool: '${team}'}\n  tolerations: [{key: data, operator: Exists}]\n"
        "  serviceAccountName: other\n"
        "  containers: [{name: base, image: evil, env: [{name: HTTPS_PROXY, value: p:1}]}]\n",
    )
    pod = rendered(
        house,
        {"variables": {"team": "finance"}},
        kubernetes={"pod_template": "pod.yaml"},
        variables={"team": "platform"},
    )
    kubernetes_validate.validate(pod, "1.36.0", strict=True)
    assert pod["spec"]["nodeSelector"] == {"pool": "finance"}
    assert pod["spec"]["tolerations"] == [{"key": "data", "operator": "Exists"}]
    assert pod["metadata"]["annotations"]["team"] == "finance"
    assert pod["spec"]["serviceAccountName"] == "datakit"
    assert container(pod)["image"].startswith("registry.corp.example/")
    assert {"name": "HTTPS_PROXY", "value": "p:1"} in container(pod)["env"]


def test_a_claim_is_for_the_datakit_whose_warehouse_is_a_file_in_it_and_for_nobody_else(house: House) -> None:
    claims = {"marketing": "/var/lib/datakit", "archive": "/var/lib/archive"}
    house.marketing = Path("/var/lib/datakit/marketing.duckdb")
    pod = rendered(house, {"warehouse": "marketing"}, kubernetes={"volumes": claims})
    kubernetes_validate.validate(pod, "1.36.0", strict=True)
    ((claim, name),) = [
        (volume["persistentVolumeClaim"]["claimName"], volume["name"])
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claim == "marketing"
    mounts = {mount["name"]: mount for mount in container(pod)["volumeMounts"]}
    assert mounts[name] == {"name": name, "mountPath": "/var/lib/datakit"}
    others = [*pod["spec"]["initContainers"], container(pod, "airflow-xcom-sidecar")]
    assert name not in {mount["name"] for each in others for mount in each["volumeMounts"]}
    finance = rendered(house, kubernetes={"volumes": claims})
    assert "persistentVolumeClaim" not in str(finance)


def test_a_task_with_a_timeout_is_a_pod_with_a_deadline(house: House) -> None:
    pod = rendered(house, {"execution_timeout": timedelta(minutes=10)})
    assert pod["spec"]["activeDeadlineSeconds"] == 600 + 60 + 2
    assert pod["spec"]["terminationGracePeriodSeconds"] == 2


@pytest.mark.parametrize("missing", ["sidecar", "xcom_image"])
def test_an_environment_that_lacks_something_is_refused_when_the_dag_is_parsed(house: House, missing: str) -> None:
    file = house.root / "warehouses/environments/test.yaml"
    house.pod("report()")
    data = yaml.safe_load(file.read_text())
    (data if missing in data else data["kubernetes"]).pop(missing)
    file.write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigurationError, match=f"does not say .*{missing}"):
        DatakitOperator.create("ingest", **FLIGHTS)


def test_making_a_task_makes_no_object_of_the_client(house: House) -> None:
    house.pod("report()")
    operator = DatakitOperator.create("ingest", **FLIGHTS)
    made = [value for value in vars(operator).values() if type(value).__module__.startswith("kubernetes.")]
    assert made == []
