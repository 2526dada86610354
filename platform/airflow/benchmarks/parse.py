"""How long a DAG file with many tasks takes to parse and to serialise: ours against the real operators, bare.

    .venv-airflow/bin/python platform/airflow/benchmarks/parse.py [--tasks 1500] [--rounds 5]

Every measurement is a process of its own, as Airflow's are. The contenders take turns, so that a machine that gets
slower gets slower for all. What is imported before the first task is made is told apart: it is paid once for a file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNTIMES = ("process", "docker", "kubernetes")
ENVIRONMENT = """\
name: {runtime}
runtime: {runtime}
registry: registry.corp.example/data
kubernetes: {{namespace: data, xcom_image: registry.corp.example/data/platform/xcom:v1}}
sidecar: {{image: registry.corp.example/data/platform/sidecar:v1, config_map: sidecar, bootstrap_secret: bootstrap}}
sources:
  airline: {{host: sql.corp.example, database: AirlineOps, principal: svc-datakit@CORP.EXAMPLE}}
warehouses:
  dwh: {{host: db.corp.example, database: dwh, user: loader, password: dwh/password}}
"""
SOURCE = "kind: source\nname: airline-source\nversion: 1.0.0\nsystem: sqlserver\nconnection: airline\ndatasets:\n"
BRONZE = (
    "kind: bronze\nname: sqlserver-bronze\nversion: 0.1.0\nsystem: sqlserver\nsources: [{datakit: airline-source}]\n"
)
WAREHOUSE = """\
name: {name}
type: postgres
connection: dwh
schema: bronze
ingest: [{{datakit: sqlserver-bronze, datasets: [{datasets}]}}]
"""
WAREHOUSES = 5
OURS = """\
from airflow_datakit.operator import DatakitOperator, runtime_class
runtime_class(None)
def make(number):
    return DatakitOperator.create(
        f"task{number}", datakit="sqlserver-bronze", dataset=f"airline.table{number // 5}",
        warehouse=f"warehouse{number % 5}", retries=2,
    )
"""
BARE = {
    "process": """\
from airflow.providers.standard.operators.bash import BashOperator
def make(number):
    return BashOperator(task_id=f"task{number}", bash_command="datakit run", retries=2, outlets=[outlet(number)],
                        env={"DATAKIT_RUN": '{"run_id": "{{ run_id }}", "dataset": "airline.table"}'})
""",
    "docker": """\
from airflow.providers.docker.operators.docker import DockerOperator
from docker.types import Mount
def make(number):
    return DockerOperator(
        task_id=f"task{number}", image="registry.corp.example/data/datakits/sqlserver-bronze:v0.1.0",
        retries=2, outlets=[outlet(number)],
        command=["run"], environment={"DATAKIT_RUN": '{"run_id": "{{ run_id }}", "dataset": "airline.table"}'},
        mounts=[Mount("/run/datakit/shared", "datakit-credentials", type="volume", read_only=True)],
        mount_tmp_dir=False, mem_limit="1g", labels={"datakit.name": "sqlserver-bronze"},
    )
""",
    "kubernetes": """\
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from kubernetes.client import models as k8s
def make(number):
    return KubernetesPodOperator(
        task_id=f"task{number}", image="registry.corp.example/data/datakits/sqlserver-bronze:v0.1.0",
        retries=2, outlets=[outlet(number)],
        name="datakit", namespace="data", arguments=["run"], do_xcom_push=True,
        env_vars={"DATAKIT_RUN": '{"run_id": "{{ run_id }}", "dataset": "airline.table"}'},
        volumes=[k8s.V1Volume(name="shared", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory"))],
        volume_mounts=[k8s.V1VolumeMount(name="shared", mount_path="/run/datakit/shared", read_only=True)],
        init_containers=[k8s.V1Container(name="sidecar", image="sidecar", restart_policy="Always")],
        container_resources=k8s.V1ResourceRequirements(limits={"cpu": "1", "memory": "1Gi"}),
    )
""",
}
PROGRAM = """\
import json, sys, time
from airflow.sdk import DAG, Asset
def outlet(number):  # what ours makes by itself
    table = f"bronze.table{{number // 5}}"
    return Asset(name=f"warehouse{{number % 5}}.{{table}}", uri=f"datakit://warehouse{{number % 5}}/{{table}}")
from airflow.serialization.serialized_objects import DagSerialization
began = time.process_time()
{contender}
imported = time.process_time()
with DAG("many") as dag:
    for number in range({tasks}):
        make(number)
parsed = time.process_time()
text = json.dumps(DagSerialization.to_dict(dag))
ended = time.process_time()
found = {{"import": imported - began, "parse": parsed - imported, "serialise": ended - parsed, "bytes": len(text)}}
print(json.dumps(found))
"""


def measure(contender: str, tasks: int, environment: dict[str, str]) -> dict[str, float]:
    """Return the seconds of one fresh process."""
    program = PROGRAM.format(contender=contender, tasks=tasks)
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_tree(root: Path, datasets: int) -> None:
    """Write a tree with that many datasets, taken by each of five warehouses, so that no two tasks are alike."""
    names = [f"table{number}" for number in range(datasets)]
    files = {
        "datakits/airline-source/datakit.yaml": SOURCE
        + "".join(f"  {name}: {{table: ops.{name}, key: [Id]}}\n" for name in names),
        "datakits/sqlserver-bronze/datakit.yaml": BRONZE,
    }
    for runtime in RUNTIMES:
        files[f"warehouses/environments/{runtime}.yaml"] = ENVIRONMENT.format(runtime=runtime)
    for number in range(WAREHOUSES):
        warehouse = WAREHOUSE.format(name=f"warehouse{number}", datasets=", ".join(f"airline.{name}" for name in names))
        files[f"warehouses/warehouse{number}/warehouse.yaml"] = warehouse
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tasks", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        make_tree(Path(scratch), -(-options.tasks // WAREHOUSES))
        base = {**os.environ, "AIRFLOW_HOME": scratch, "DATAKIT_HOME": scratch}
        say(f"{options.tasks} tasks, median of {options.rounds} processes; seconds of processor time\n")
        say("| runtime | | import | parse | serialise | parse and serialise | bytes |\n|---|---|---|---|---|---|---|")
        for runtime in RUNTIMES:
            results: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
            for _ in range(options.rounds):
                for name, contender in (("bare", BARE[runtime]), ("ours", OURS)):
                    results[name].append(measure(contender, options.tasks, base | {"DATAKIT_ENVIRONMENT": runtime}))
            totals: dict[str, float] = {}
            for name, found in results.items():
                median = {key: statistics.median(each[key] for each in found) for key in found[0]}
                totals[name] = statistics.median(each["parse"] + each["serialise"] for each in found)
                ratio = f" ({totals[name] / totals['bare']:.2f} x)" if name == "ours" else ""
                times = f"{median['import']:.2f} | {median['parse']:.2f} | {median['serialise']:.2f}"
                say(f"| {runtime} | {name} | {times} | {totals[name]:.2f}{ratio} | {median['bytes']:,.0f} |")


if __name__ == "__main__":
    main()
