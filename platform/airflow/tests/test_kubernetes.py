"""The Kubernetes runtime: Airflow's real operator against the double, whose pods are real containers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from datakit_lab.kubernetes import KubernetesDouble

from .containers import PASSWORD, wait_for
from .house import IMPROPER_REPORTS, INGEST, RETRIED, House, fails_with

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("airflow_database")]

TIMED = INGEST.replace('warehouse="finance"', 'warehouse="finance", execution_timeout=timedelta(seconds=12)')


def pods(cluster: KubernetesDouble) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 300
    while not (found := cluster.pods("data")):
        assert time.monotonic() < deadline, "no pod was made"
        time.sleep(0.1)
    return found


def test_the_report_is_the_xcom_and_the_credentials_are_the_sidecars(pod_house: House) -> None:
    pod_house.pod("""
report(
    uid=os.getuid(),
    ticket=open(os.environ["KRB5CCNAME"].removeprefix("FILE:")).read(),
    secret=open(os.environ["DATAKIT_SECRETS"] + "/finance-db/password").read(),
    bootstrap=os.listdir("/run/datakit/bootstrap") if os.path.exists("/run/datakit/bootstrap") else [],
)
""")
    task = pod_house.run(INGEST)["ingest"]
    assert task.xcom_pull(task_ids="ingest") == {
        "protocol": "1.0",
        "status": "loaded",
        "run_id": f"example/{task.run_id}",
        "uid": 10002,
        "ticket": "a ticket",
        "secret": "a password",
        "bootstrap": [],
    }


@pytest.mark.parametrize(
    ("exit_code", "state", "tries"), [(75, "failed", 2), (77, "failed", 1), (78, "failed", 1), (99, "skipped", 1)]
)
def test_an_exit_code_means_what_it_means_for_a_process(
    pod_house: House, exit_code: int, state: str, tries: int
) -> None:
    pod_house.pod(f"report(status='something', exit_code={exit_code}); sys.exit({exit_code})")
    task = pod_house.run(RETRIED)["ingest"]
    assert (task.state, task.try_number) == (state, tries)
    assert task.xcom_pull(task_ids="ingest")["exit_code"] == exit_code


def test_a_task_that_keeps_no_xcom_still_knows_its_report(pod_house: House) -> None:
    quiet = INGEST.replace('warehouse="finance"', 'warehouse="finance", do_xcom_push=False')
    task = pod_house.run(quiet)["ingest"]
    assert task.state == "success"
    assert task.xcom_pull(task_ids="ingest") is None


def test_every_line_is_in_the_tasks_log_once_and_at_its_level(
    pod_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    pod_house.pod("say('the first word'); say('a warning word', 'warning'); time.sleep(2); say('the last'); report()")
    pod_house.run(INGEST)
    lines = capfd.readouterr().out.splitlines()
    for words, level in {"the first word": "info", "a warning word": "warning", "the last": "info"}.items():
        found = [line for line in lines if words in line]
        assert len(found) == 1, found
        assert f"[{level}" in found[0]


@pytest.mark.parametrize(
    ("body", "words"),
    IMPROPER_REPORTS,
)
def test_a_report_that_is_none_fails_with_the_reason(
    pod_house: House, body: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pod_house.pod(body)
    assert pod_house.run(INGEST)["ingest"].state == "failed"
    assert words in capfd.readouterr().out


@pytest.mark.parametrize(("exit_code", "state", "tries"), [(0, "success", 1), (75, "failed", 2), (78, "failed", 1)])
def test_a_task_that_waits_in_the_triggerer_ends_alike(
    pod_house: House, exit_code: int, state: str, tries: int, capfd: pytest.CaptureFixture[str]
) -> None:
    pod_house.pod(
        f"say('a warning word', 'warning'); report(exit_code={exit_code}); sys.exit({exit_code})",
        kubernetes={"deferrable": True},
    )
    task = pod_house.run(RETRIED)["ingest"]
    assert (task.state, task.try_number) == (state, tries)
    assert task.xcom_pull(task_ids="ingest")["exit_code"] == exit_code
    found = [line for line in capfd.readouterr().out.splitlines() if "a warning word" in line]
    assert len(found) == tries
    assert all("[warning" in line for line in found)


def test_a_timeout_ends_the_pod(pod_house: House, cluster: KubernetesDouble) -> None:
    pod_house.pod("time.sleep(600)", defaults={"grace": "1s"})
    assert pod_house.run(TIMED)["ingest"].state == "failed"
    wait_for(lambda: cluster.pods("data") == [])


TRY = """\
import json, sys
from types import SimpleNamespace
from airflow_datakit import DatakitOperator

operator = DatakitOperator.create(
    "ingest", datakit="sqlserver-bronze", dataset="airline.airports", warehouse="finance"
)
type(operator).dag_id = "example"
ti = SimpleNamespace(
    dag_id="example", task_id="ingest", run_id="r", map_index=-1, try_number=int(sys.argv[1])
)
ti.xcom_push = lambda **_: None
run = SimpleNamespace(run_id="r", data_interval_start=None, data_interval_end=None)
context = {"ti": ti, "run_id": "r", "dag_run": run, "dag": SimpleNamespace()}
print("REPORT " + json.dumps(operator.execute(context)), flush=True)
"""


def test_the_retry_of_a_killed_worker_takes_over_its_pod(pod_house: House, cluster: KubernetesDouble) -> None:
    """Two tries of one task, as two workers: the second finds the pod of the first and hears it out."""
    pod_house.pod("say('began'); time.sleep(20); report()")
    command = [sys.executable, "-c", TRY]
    with subprocess.Popen([*command, "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as first:
        [pod] = pods(cluster)
        assert first.stdout is not None
        assert any("began" in line for line in first.stdout)
        first.kill()
    done = subprocess.run([*command, "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"status": "loaded"' in done.stdout
    assert pod["metadata"]["name"] in done.stdout + done.stderr


def test_an_image_that_is_not_there_is_named(pod_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    pod_house.pod("report()", registry="localhost:9/data")
    fails_with(pod_house, "localhost:9/data/datakits/sqlserver-bronze:v0.1.0 cannot be pulled", capfd, tries=2)


def test_a_namespace_that_is_not_there_is_named(pod_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    pod_house.pod("report()", kubernetes={"namespace": "nowhere"})
    output = fails_with(pod_house, "namespace nowhere: the cluster does not know the namespace", capfd)
    assert "DATAKIT_RUN" not in output  # the pod is not written into the log


def test_a_service_account_that_is_not_there_is_named(pod_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    pod_house.pod("report()", kubernetes={"service_account": "nobody"})
    fails_with(pod_house, "the cluster does not know the service account", capfd)


def test_a_right_that_is_missing_is_named(
    pod_house: House, cluster: KubernetesDouble, capfd: pytest.CaptureFixture[str]
) -> None:
    cluster.forbid("create", "pods")
    fails_with(pod_house, "the cluster does not let Airflow do this", capfd)


def test_a_config_map_that_is_not_there_is_named(
    house: House, cluster: KubernetesDouble, capfd: pytest.CaptureFixture[str]
) -> None:
    house.pod("report()", kubernetes={"startup_timeout": "8s"})
    file = house.root / "warehouses/environments/test.yaml"
    file.write_text(file.read_text().replace("config_map: sidecar", "config_map: nowhere"))
    output = fails_with(house, "a volume of the pod cannot be mounted", capfd)
    assert 'configmap "nowhere" not found' in output
    assert "sidecar.config_map" in output


def test_a_claim_that_is_not_there_is_named(
    house: House, cluster: KubernetesDouble, capfd: pytest.CaptureFixture[str]
) -> None:
    volumes = {"nowhere": "/var/lib/datakit"}
    house.marketing = Path("/var/lib/datakit/marketing.duckdb")
    house.pod("report()", kubernetes={"startup_timeout": "8s", "volumes": volumes})
    output = fails_with(house, "a volume of the pod cannot be mounted", capfd, warehouse="marketing")
    assert 'persistentvolumeclaim "nowhere" not found' in output
    assert "kubernetes.volumes" in output


def test_a_sidecar_that_never_gets_ready_is_named_with_its_last_words(
    house: House, cluster: KubernetesDouble, capfd: pytest.CaptureFixture[str]
) -> None:
    config = {"metadata": {"name": "never"}, "data": {"sidecar.yaml": "ready: never\n"}}
    cluster.create("configmaps", config, namespace="data")
    house.pod("say('the datakit began'); report()", kubernetes={"startup_timeout": "8s"})
    file = house.root / "warehouses/environments/test.yaml"
    file.write_text(file.read_text().replace("config_map: sidecar", "config_map: never"))
    output = fails_with(house, "the sidecar never got ready, so the datakit never began", capfd, tries=2)
    assert "the vault is away" in output
    assert "the datakit began" not in output


def test_a_cluster_that_is_away_is_tried_again(
    pod_house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "away"
    config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
    fails_with(pod_house, "the cluster cannot be reached", capfd, tries=2)


def test_nothing_secret_is_in_the_pod(pod_house: House, cluster: KubernetesDouble) -> None:
    pod_house.pod("time.sleep(5); report()")
    with pod_house.run_elsewhere(INGEST) as process:
        shown = json.dumps(pods(cluster))
        output, _ = process.communicate()
    assert process.returncode == 0, output
    for canary in (PASSWORD, "a password", "a ticket"):
        assert canary not in shown
        assert canary not in output


@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_task_that_is_told_to_end_before_its_pod_is_known_leaves_none(
    pod_house: House,
    cluster: KubernetesDouble,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    moment: str,
) -> None:
    from airflow_datakit.runtimes.kubernetes import DatakitKubernetesOperator
    from kubernetes.client import CoreV1Api

    build, create = DatakitKubernetesOperator.build_pod_request_obj, CoreV1Api.create_namespaced_pod
    told: list[DatakitKubernetesOperator] = []

    def built(self: DatakitKubernetesOperator, *arguments: Any, **more: Any) -> Any:
        told.append(self)
        if moment == "before":
            self.on_kill()
        return build(self, *arguments, **more)

    def created(self: CoreV1Api, *arguments: Any, **more: Any) -> Any:
        made = create(self, *arguments, **more)
        if moment == "while":
            told[-1].on_kill()
        return made

    monkeypatch.setattr(DatakitKubernetesOperator, "build_pod_request_obj", built)
    monkeypatch.setattr(CoreV1Api, "create_namespaced_pod", created)
    pod_house.pod("time.sleep(30); report()")
    assert pod_house.run(INGEST)["ingest"].state == "failed"
    assert "was told to end" in capfd.readouterr().out
    wait_for(lambda: cluster.pods("data") == [])
