"""What a task costs whose datakit does nothing: ours against the real operators, bare, with the same image.

    PYTHONPATH=lab/src .venv-airflow/bin/python platform/airflow/benchmarks/overhead.py [--rounds 7] [--base IMAGE]

It wants a Docker engine and the images of scripts/images (for xcom). Pods run on the Kubernetes double. All runs are in
one process and take turns; the first of each is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "datakit-bench.local/datakits/sqlserver-bronze:v0.1.0"
XCOM = "datakit.local/platform/xcom:v1"
ENTRY = """\
import json, os
path = os.environ.get("DATAKIT_REPORT", "/airflow/xcom/return.json")
os.makedirs(os.path.dirname(path), exist_ok=True)
with open(path, "w") as file:
    json.dump({"protocol": "1.0", "status": "nothing"}, file)
"""
DOCKERFILE = """\
FROM {base}
RUN mkdir -p /airflow/xcom && chown 10002 /airflow/xcom
COPY entry.py /entry.py
USER 10002:10000
ENTRYPOINT ["python3", "-IS", "/entry.py"]
"""
SIDECAR = """\
FROM {base}
COPY datakit-sidecar /usr/local/bin/
USER 10001:10000
ENTRYPOINT ["datakit-sidecar"]
"""
READY = "#!/bin/sh\n[ \"$1\" = healthcheck ] && exit 0\ntrap 'exit 0' TERM\nwhile :; do sleep 0.1; done\n"
ENVIRONMENT = """\
name: {name}
runtime: {name}
registry: datakit-bench.local
docker: {{credentials_volume: datakit-bench}}
kubernetes: {{namespace: data, xcom_image: {xcom}}}
sidecar: {{image: datakit-bench-sidecar, config_map: sidecar, bootstrap_secret: bootstrap}}
sources:
  airline: {{host: sql.corp.example, database: AirlineOps}}
warehouses:
  finance-db: {{host: db.corp.example, database: dwh, user: loader, password: finance-db/password}}
  marketing-db: {{path: /data/marketing.duckdb}}
"""
DAGS = {
    "bare_docker": f"""\
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk import DAG
class Json(DockerOperator):
    import json as pickling_library
with DAG("bare_docker"):
    Json(task_id="run", image={IMAGE!r}, command=["run"], mount_tmp_dir=False, auto_remove="force",
         retrieve_output=True, retrieve_output_path="/airflow/xcom/return.json")
""",
    "bare_kubernetes": f"""\
from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG
from kubernetes.client import models as k8s
KubernetesHook.get_xcom_sidecar_container_image = lambda self: {XCOM!r}
shared = k8s.V1VolumeMount(name="shared", mount_path="/run/datakit/shared")
probe = k8s.V1Probe(_exec=k8s.V1ExecAction(command=["datakit-sidecar", "healthcheck"]), period_seconds=1)
with DAG("bare_kubernetes"):
    KubernetesPodOperator(task_id="run", image={IMAGE!r}, arguments=["run"], name="bare", namespace="data",
                          kubernetes_conn_id=None, do_xcom_push=True, image_pull_policy="IfNotPresent",
                          startup_check_interval_seconds=1, volume_mounts=[shared],
                          volumes=[k8s.V1Volume(name="shared", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory"))],
                          init_containers=[k8s.V1Container(name="sidecar", image="datakit-bench-sidecar",
                              image_pull_policy="IfNotPresent", args=["run"], restart_policy="Always",
                              startup_probe=probe, volume_mounts=[shared])])
""",
    "ours": """\
from airflow.sdk import DAG
from airflow_datakit import DatakitOperator
with DAG("ours"):
    DatakitOperator.create("run", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance")
""",
}


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def build(tag: str, files: dict[str, str]) -> None:
    """Build an image of these files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, name).write_text(text)
            Path(folder, name).chmod(0o755)
        environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
        subprocess.run(["docker", "build", "-q", "-t", tag, folder], check=True, capture_output=True, env=environment)


def timed(run: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--base", default=None)
    options = parser.parse_args()
    base = options.base or subprocess.check_output([ROOT / "scripts/local-base-image"], text=True).strip()
    build(IMAGE, {"Dockerfile": DOCKERFILE.format(base=base), "entry.py": ENTRY})
    build("datakit-bench-sidecar", {"Dockerfile": SIDECAR.format(base=base), "datakit-sidecar": READY})
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        home = Path(scratch)
        os.environ |= {
            "AIRFLOW_HOME": scratch,
            "AIRFLOW__CORE__DAGS_FOLDER": f"{scratch}/dags",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "DATAKIT_HOME": str(ROOT),
            "DATAKIT_ENVIRONMENTS": f"{scratch}/environments",
        }
        for name in ("docker", "kubernetes"):
            path = home / f"environments/{name}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(ENVIRONMENT.format(name=name, xcom=XCOM))
        subprocess.run([Path(sys.executable).with_name("airflow"), "db", "migrate"], check=True, capture_output=True)
        measure_all(home, stack, options.rounds)


def measure_all(home: Path, stack: contextlib.ExitStack, rounds: int) -> None:
    """Let bare and ours take turns on both runtimes."""
    import docker
    from airflow import settings
    from airflow.dag_processing.dagbag import DagBag
    from airflow_datakit import _tree
    from datakit_lab.kubernetes import KubernetesDouble

    volume = docker.from_env().volumes.create(
        "datakit-bench", driver="local", driver_opts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    )
    stack.callback(volume.remove, force=True)
    double = stack.enter_context(KubernetesDouble(namespaces=("data",)))
    double.create("configmaps", {"metadata": {"name": "sidecar"}, "data": {}}, namespace="data")
    double.create("secrets", {"metadata": {"name": "bootstrap"}, "stringData": {}}, namespace="data")
    os.environ["KUBECONFIG"] = str(double.kubeconfig)
    from kubernetes.config import kube_config

    kube_config.KUBE_CONFIG_DEFAULT_LOCATION = str(double.kubeconfig)
    say(f"| median of {rounds} runs, seconds | bare | ours | |\n|---|---|---|---|")
    for runtime in ("docker", "kubernetes"):
        os.environ["DATAKIT_ENVIRONMENT"] = runtime
        _tree._project.cache_clear()
        found: dict[str, list[float]] = {}
        for number in range(rounds + 1):
            for name in (f"bare_{runtime}", "ours"):
                folder = home / "dags" / runtime / name  # dag.test() parses the whole folder again
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "dag.py").write_text(DAGS[name])
                os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = settings.DAGS_FOLDER = str(folder)
                dag = DagBag(folder).dags[name]
                seconds = timed(dag.test)
                if number:
                    found.setdefault(name, []).append(seconds)
        bare, ours = (statistics.median(times) for times in found.values())
        say(f"| {runtime} | {bare:.2f} | {ours:.2f} | {ours / bare:.2f} x |")


if __name__ == "__main__":
    main()
