"""One DAG file, unchanged, on a process, on Docker and on Kubernetes: real images, a real sidecar, the laboratory."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from datakit_lab.docker import Engine
from datakit_lab.kubernetes import KubernetesDouble
from datakit_lab.sidecar_container import SidecarContainer, container_configuration
from datakit_lab.state import LabState

from .conftest import free_ports
from .containers import left_containers
from .house import REPOSITORY, House, Lab

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("airflow_database")]

REGISTRY = "datakit.local"
SIDECAR = f"{REGISTRY}/platform/sidecar:v0.1.0"
RUNTIMES = ("process", "docker", "kubernetes")
DAG = """\
for warehouse in ("finance", "marketing"):
    DatakitOperator.create(
        f"to_{warehouse}", datakit="sqlserver-bronze", dataset="airline.flights", warehouse=warehouse, retries=1,
        retry_delay=0,
    )
"""
OF_ONE_RUN = {"image", "run_id", "started_at", "ended_at", "seconds", "rows_per_second", "table", "data_interval"}


@pytest.fixture(scope="session")
def built(base_image: str) -> None:
    subprocess.run([REPOSITORY / "scripts/images", "build"], check=True, capture_output=True)


@contextmanager
def docker_sidecar(lab: Lab) -> Iterator[str]:
    """Within, the real sidecar publishes into a volume in memory, whose name this yields."""
    volume = f"datakit-test-{secrets.token_hex(4)}"
    with SidecarContainer(Engine(), LabState(lab.state), image=SIDECAR, volume=volume):
        yield volume


@contextmanager
def cluster(lab: Lab) -> Iterator[KubernetesDouble]:
    """Within, a cluster has what the sidecar of each pod needs to reach the laboratory's vault."""
    with KubernetesDouble(namespaces=("data",)) as double:
        files = {
            "sidecar.yaml": container_configuration(LabState(lab.state), free_ports(1)[0]),
            "authority.pem": lab.authority(),
        }
        for resource, given in {
            "serviceaccounts": {"metadata": {"name": "datakit"}},
            "configmaps": {"metadata": {"name": "sidecar"}, "data": files},
            "secrets": {"metadata": {"name": "bootstrap"}, "stringData": lab.bootstrap()},
        }.items():
            double.create(resource, given, namespace="data")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(double.kubeconfig))
            patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(double.kubeconfig))
            yield double


MOUNTED = "/var/lib/datakit"
CLAIM = {
    "metadata": {"name": "marketing"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


@contextmanager
def environment(runtime: str, house: House, lab: Lab) -> Iterator[None]:
    """Within, the environment is this runtime in the laboratory; marketing's DuckDB file is in a folder of it."""
    folder = house.scratch / runtime
    folder.mkdir()
    folder.chmod(0o777)  # containers write as the user of their image
    containers = {"runtime": runtime, "registry": REGISTRY}
    with ExitStack() as stack:
        house.marketing = Path(MOUNTED, "marketing.duckdb")
        match runtime:
            case "process":
                house.marketing = folder / "marketing.duckdb"
                given = {"runtime": runtime}
            case "docker":
                volume = stack.enter_context(docker_sidecar(lab))
                data = f"{volume}-data"
                Engine().create_volume(data, {"type": "none", "o": "bind", "device": str(folder)})
                stack.callback(Engine().remove_volume, data)
                place = {"network": "host", "credentials_volume": volume, "volumes": {data: MOUNTED}}
                given = containers | {"docker": place}
            case "kubernetes":
                double = stack.enter_context(cluster(lab))
                double.create("persistentvolumeclaims", CLAIM, namespace="data")
                folder.rmdir()
                folder.symlink_to(double.claim_folder("marketing", namespace="data"))
                place = {
                    "namespace": "data",
                    "service_account": "datakit",
                    "xcom_image": f"{REGISTRY}/platform/xcom:v1",
                    "volumes": {"marketing": MOUNTED},
                }
                sidecar = {"image": SIDECAR, "config_map": "sidecar", "bootstrap_secret": "bootstrap"}
                given = containers | {"kubernetes": place, "sidecar": sidecar}
        house.at(lab, f"finance_{runtime}", **given)
        house.forget()
        yield


FINGERPRINT = """\
import sys
from datakit_lab import compare
reader, place, table = sys.stdin.read().splitlines()
print(compare.fingerprint(getattr(compare, reader)(place, table)))
"""


def landed(lab: Lab, house: House, runtime: str) -> dict[str, str]:
    """Return columns, count and digest of the flights in each warehouse, without the columns that tell loads apart."""
    password = (lab.state / "secrets/finance-db/password").read_text()
    dsn = f"postgresql://finance:{password}@localhost:{lab.postgres}/finance"
    file = house.scratch / runtime / "marketing.duckdb"
    found = {}
    for warehouse, asked in {
        "finance": ("read_postgres", dsn, f"finance_{runtime}.flights"),
        "marketing": ("read_duckdb", str(file), "airline.flights"),
    }.items():
        done = subprocess.run(
            [lab.commands / "python", "-c", FINGERPRINT],
            input="\n".join(asked),
            check=True,
            capture_output=True,
            text=True,
        )
        found[warehouse] = done.stdout
    return found


MILLION = """\
  million:
    table: ops.Million
    key: [RowID]
    slices: {column: RowID, rows: 300000}
"""
SLICED = """\
ingest_slices(
    "million", datakit="sqlserver-bronze", dataset="airline.million", warehouse="finance", retries=1, retry_delay=0
)
"""


def test_a_million_rows_are_loaded_by_containers_and_a_slice_that_is_killed_is_tried_again_alone(
    house: House, lab: Lab, built: None, tmp_path: Path
) -> None:
    lab.source(
        "CREATE TABLE ops.Million (RowID bigint NOT NULL PRIMARY KEY, TailNumber varchar(6), ModifiedAt datetime2(3))"
    )
    lab.source(
        "INSERT INTO ops.Million SELECT f.FlightID * 4 + v.n, f.TailNumber, f.ModifiedAt FROM ops.Flights AS f "
        "CROSS JOIN (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3) AS v"
    )
    [[expected]] = lab.source("SELECT count(*) FROM ops.Million")
    assert expected > 1_000_000
    manifest = house.root / "datakits/airline-source/datakit.yaml"
    manifest.write_text(manifest.read_text() + MILLION)
    warehouse = house.root / "warehouses/finance/warehouse.yaml"
    warehouse.write_text(warehouse.read_text().replace("airline.planes]", "airline.planes, airline.million]"))
    _image_with(manifest, tmp_path / "image")
    with docker_sidecar(lab) as volume:
        place = {"network": "host", "credentials_volume": volume}
        house.at(lab, "million", runtime="docker", registry="datakit-test.local", docker=place)
        with house.run_elsewhere(SLICED) as process:
            killed = _kill_slice(1, lab)
            output, _ = process.communicate()
    assert process.returncode == 0, output
    assert killed in output
    assert "state=failed" not in output
    assert lab.sql("SELECT count(*), count(DISTINCT row_id) FROM million.million") == [[str(expected)] * 2]
    assert lab.sql("SELECT count(*) FROM million._dk_loads") == [["1"]]
    assert left_containers() == []


def _image_with(manifest: Path, folder: Path) -> None:
    """Build the bronze datakit's image with another manifest of its source."""
    folder.mkdir()
    base = f"{REGISTRY}/datakits/sqlserver-bronze:v0.1.0"
    (folder / "Dockerfile").write_text(f"FROM {base}\nCOPY datakit.yaml /datakit/datakits/airline-source/\n")
    (folder / "datakit.yaml").write_text(manifest.read_text())
    (folder / "datakit.yaml").chmod(0o644)
    tag = "datakit-test.local/datakits/sqlserver-bronze:v0.1.0"
    environment = {**os.environ, "DOCKER_BUILDKIT": "0"}
    subprocess.run(["docker", "build", "-q", "-t", tag, folder], check=True, capture_output=True, env=environment)


def _kill_slice(map_index: int, lab: Lab) -> str:
    """Kill the container of one slice in the middle of its rows; return its short id."""
    labels = ["datakit.task=million.load", f"datakit.map_index={map_index}"]
    deadline = time.monotonic() + 300
    while not (found := docker.from_env().containers.list(filters={"label": labels})):
        assert time.monotonic() < deadline, "the slice never ran"
        time.sleep(0.05)
    found[0].pause()  # it has not read yet
    lab.stall("Million")
    found[0].unpause()
    time.sleep(2)  # it has begun to read
    found[0].kill()
    return str(found[0].id[:12])


def test_one_dag_file_gives_the_same_rows_and_the_same_xcom_everywhere(house: House, lab: Lab, built: None) -> None:
    rows: dict[str, dict[str, str]] = {}
    reports: dict[str, dict[str, dict[str, Any]]] = {}
    text = None
    for runtime in RUNTIMES:
        with environment(runtime, house, lab):
            tasks = house.run(DAG)
            assert text in (None, (house.dags / "example.py").read_text())
            text = (house.dags / "example.py").read_text()
            assert {task.state for task in tasks.values()} == {"success"}, runtime
            rows[runtime] = landed(lab, house, runtime)
            reports[runtime] = {
                name: tasks[f"to_{name}"].xcom_pull(task_ids=f"to_{name}") for name in ("finance", "marketing")
            }
    assert rows["docker"] == rows["kubernetes"] == rows["process"]
    assert rows["process"]["finance"] == rows["process"]["marketing"]
    for name in ("finance", "marketing"):
        process, *others = (reports[runtime][name] for runtime in RUNTIMES)
        assert process["rows_written"] > 300_000
        assert {key for key in process if process[key] is not None} >= OF_ONE_RUN - {"data_interval", "image"}
        for other in others:
            assert other.keys() == process.keys()
            differ = {key for key in process if process[key] != other[key]}
            assert differ <= OF_ONE_RUN


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_mistake_and_a_failure_end_alike_everywhere(house: House, lab: Lab, built: None, runtime: str) -> None:
    with environment(runtime, house, lab):
        file = house.root / "warehouses/environments/test.yaml"
        good = file.read_text()
        file.write_text(good.replace("database: finance", "database: nowhere"))
        house.forget()
        wrong = house.run(DAG)["to_finance"]
        report = wrong.xcom_pull(task_ids="to_finance")
        assert (wrong.state, wrong.try_number, report["status"], report["exit_code"]) == ("failed", 1, "failed", 78)
        file.write_text(good.replace(f"port: {lab.postgres}", "port: 9"))
        house.forget()
        away = house.run(DAG)["to_finance"]
        report = away.xcom_pull(task_ids="to_finance")
        assert (away.state, away.try_number, report["status"], report["exit_code"]) == ("failed", 2, "failed", 75)
        assert report["error"]["type"] == "WarehouseUnavailable"
