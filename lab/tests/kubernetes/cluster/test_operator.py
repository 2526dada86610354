"""Airflow's real KubernetesPodOperator runs its pods on the double."""

from __future__ import annotations

import json
import os
import tempfile
from importlib.util import find_spec
from typing import Any
from unittest import mock

import pytest

from .conftest import IMAGE, NAMESPACE, Cluster

pytestmark = pytest.mark.docker

if find_spec("airflow") is not None:
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="datakit-airflow-"))


@pytest.fixture
def run(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a script as a pod of the operator and return what it returns."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from airflow.providers.cncf.kubernetes.utils.xcom_sidecar import PodDefaults

    monkeypatch.setattr(PodDefaults.SIDECAR_CONTAINER, "image", IMAGE)

    def execute(task_id: str, script: str, **more: Any) -> Any:
        operator = KubernetesPodOperator(
            task_id=task_id,
            name=task_id,
            namespace=NAMESPACE,
            image=IMAGE,
            cmds=["sh", "-c"],
            arguments=[script],
            config_file=str(cluster.double.kubeconfig),
            startup_check_interval_seconds=1,
            log_pod_spec_on_failure=False,
            **more,
        )
        instance = mock.MagicMock(task_id=task_id, dag_id="a", run_id="b", try_number=1, map_index=-1)
        instance.get_template_context.return_value = {}
        context = {"ti": instance, "task_instance": instance, "dag": None, "run_id": "b", "task": operator, "ds": "c"}
        return operator.execute(context)

    return execute


def test_a_task_succeeds_with_its_pod_which_is_gone_then(run: Any, cluster: Cluster) -> None:
    run("operator-succeeds", "echo hello")
    selector = "task_id=operator-succeeds"
    cluster.until_none(selector)


def test_a_task_fails_with_its_pod(run: Any) -> None:
    from airflow.providers.common.compat.sdk import AirflowException

    with pytest.raises(AirflowException, match="returned a failure"):
        run("operator-fails", "exit 78")


def test_a_task_returns_what_its_pod_left_and_waits_for_no_sidecar(run: Any) -> None:
    from kubernetes.client import models as k8s

    mount = k8s.V1VolumeMount(name="memory", mount_path="/memory")
    sidecar = k8s.V1Container(
        name="sidecar",
        image=IMAGE,
        restart_policy="Always",
        command=["sh", "-c", "trap 'exit 0' TERM; echo '{\"rows\": 3}' > /memory/report; while :; do sleep 0.1; done"],
        startup_probe=k8s.V1Probe(_exec=k8s.V1ExecAction(command=["test", "-s", "/memory/report"]), period_seconds=1),
        volume_mounts=[mount],
    )
    returned = run(
        "operator-returns",
        "cat /memory/report > /airflow/xcom/return.json",
        init_containers=[sidecar],
        volumes=[k8s.V1Volume(name="memory", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory"))],
        volume_mounts=[mount],
        do_xcom_push=True,
    )
    assert returned == json.loads('{"rows": 3}')
