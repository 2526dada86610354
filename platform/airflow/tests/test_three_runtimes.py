"""One DAG file, unchanged, on a process, on Docker and on Kubernetes: real images, a real sidecar, the laboratory."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import docker
import pytest
from datakit_lab.kubernetes import KubernetesDouble

from .conftest import free_ports
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
OF_ONE_RUN = {"run_id", "started_at", "ended_at", "seconds", "rows_per_second", "table", "data_interval"}


@pytest.fixture(scope="session")
def built(base_image: str) -> None:
    subprocess.run([REPOSITORY / "scripts/images", "build"], check=True, capture_output=True)


@contextmanager
def docker_sidecar(lab: Lab) -> Iterator[str]:
    """Within, the real sidecar publishes into a volume in memory, whose name this yields."""
    client, name = docker.from_env(), f"datakit-test-{secrets.token_hex(4)}"
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=16m,uid=10001,gid=10000,mode=0750"}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        configuration, bootstrap = Path(scratch, "configuration"), Path(scratch, "bootstrap")
        files = {
            configuration / "sidecar.yaml": lab.sidecar(free_ports(1)[0]),
            configuration / "authority.pem": lab.authority(),
            **{bootstrap / file: text for file, text in lab.bootstrap().items()},
        }
        for path, text in files.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        Path(scratch).chmod(0o755)
        volume = client.volumes.create(name, driver="local", driver_opts=options)
        stack.callback(volume.remove, force=True)
        container = client.containers.run(
            SIDECAR,
            detach=True,
            network_mode="host",
            read_only=True,
            cap_drop=["ALL"],
            volumes={
                name: {"bind": "/run/datakit/shared"},
                str(configuration): {"bind": "/etc/datakit", "mode": "ro"},
                str(bootstrap): {"bind": "/run/datakit/bootstrap", "mode": "ro"},
            },
        )
        stack.callback(container.remove, force=True)
        deadline = time.monotonic() + 60
        while container.exec_run(["datakit-sidecar", "healthcheck"]).exit_code != 0:
            assert time.monotonic() < deadline, container.logs().decode()
            time.sleep(0.5)
        yield name


@contextmanager
def cluster(lab: Lab) -> Iterator[KubernetesDouble]:
    """Within, a cluster has what the sidecar of each pod needs to reach the laboratory's vault."""
    with KubernetesDouble(namespaces=("data",)) as double:
        files = {"sidecar.yaml": lab.sidecar(free_ports(1)[0]), "authority.pem": lab.authority()}
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


@contextmanager
def environment(runtime: str, lab: Lab) -> Iterator[dict[str, Any]]:
    """Within, what this runtime needs is there; yield what its environment says of it."""
    containers = {"runtime": runtime, "registry": REGISTRY}
    match runtime:
        case "process":
            yield {"runtime": runtime}
        case "docker":
            with docker_sidecar(lab) as volume:
                yield containers | {"docker": {"network": "host", "credentials_volume": volume}}
        case "kubernetes":
            place = {"namespace": "data", "service_account": "datakit", "xcom_image": f"{REGISTRY}/platform/xcom:v1"}
            sidecar = {"image": SIDECAR, "config_map": "sidecar", "bootstrap_secret": "bootstrap"}
            with cluster(lab):
                yield containers | {"kubernetes": place, "sidecar": sidecar}


def rows_of(lab: Lab, schema: str) -> list[list[str]]:
    """Return count and digest of a table, without the columns that tell loads apart."""
    columns = lab.sql(
        "SELECT string_agg(quote_ident(column_name), ',' ORDER BY column_name) FROM information_schema.columns "
        f"WHERE table_schema = '{schema}' AND table_name = 'flights' AND column_name NOT LIKE '\\_dk\\_%'"
    )[0][0]
    return lab.sql(
        f"SELECT count(*), md5(string_agg(md5(row({columns})::text), '' ORDER BY flight_id)) FROM {schema}.flights"
    )


@pytest.fixture
def shared_house(house: House, lab: Lab) -> House:
    """Marketing is a second PostgreSQL warehouse here: a DuckDB file is of one machine, and a pod has none."""
    text = (house.root / "warehouses/finance/warehouse.yaml").read_text()
    text = text.replace("name: finance", "name: marketing").replace(
        "connection: finance-db", "connection: marketing-db"
    )
    (house.root / "warehouses/marketing/warehouse.yaml").write_text(text)
    return house


def at(house: House, lab: Lab, runtime: str, given: dict[str, Any]) -> dict[str, str]:
    """Let the environment be this runtime in the laboratory; return warehouse → its schema."""
    house.at(lab, f"finance_{runtime}", **given)
    file = house.root / "warehouses/environments/test.yaml"
    text = file.read_text()
    finance = re.search(r"  finance-db:\n((?:    .*\n)+)", text)
    assert finance is not None
    file.write_text(re.sub(r"  marketing-db:\n((?:    .*\n)+)", f"  marketing-db:\n{finance[1]}", text))
    marketing = house.root / "warehouses/marketing/warehouse.yaml"
    marketing.write_text(re.sub(r"(?m)^schema: .*$", f"schema: marketing_{runtime}", marketing.read_text()))
    house.forget()
    return {name: f"{name}_{runtime}" for name in ("finance", "marketing")}


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
    assert docker.from_env().containers.list(all=True, filters={"label": "datakit.worker"}) == []


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


def test_one_dag_file_gives_the_same_rows_and_the_same_xcom_everywhere(
    shared_house: House, lab: Lab, built: None
) -> None:
    rows: dict[str, dict[str, list[list[str]]]] = {}
    reports: dict[str, dict[str, dict[str, Any]]] = {}
    text = None
    for runtime in RUNTIMES:
        with environment(runtime, lab) as given:
            schemas = at(shared_house, lab, runtime, given)
            tasks = shared_house.run(DAG)
            assert text in (None, (shared_house.dags / "example.py").read_text())
            text = (shared_house.dags / "example.py").read_text()
            assert {task.state for task in tasks.values()} == {"success"}, runtime
            rows[runtime] = {name: rows_of(lab, schema) for name, schema in schemas.items()}
            reports[runtime] = {name: tasks[f"to_{name}"].xcom_pull(task_ids=f"to_{name}") for name in schemas}
    assert int(rows["process"]["finance"][0][0]) > 300_000
    assert rows["docker"] == rows["kubernetes"] == rows["process"]
    for name in ("finance", "marketing"):
        process, *others = (reports[runtime][name] for runtime in RUNTIMES)
        assert {key for key in process if process[key] is not None} >= OF_ONE_RUN - {"data_interval"}
        for other in others:
            assert other.keys() == process.keys()
            differ = {key for key in process if process[key] != other[key]}
            assert differ <= OF_ONE_RUN


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_mistake_and_a_failure_end_alike_everywhere(shared_house: House, lab: Lab, built: None, runtime: str) -> None:
    with environment(runtime, lab) as given:
        at(shared_house, lab, runtime, given)
        file = shared_house.root / "warehouses/environments/test.yaml"
        good = file.read_text()
        file.write_text(good.replace("database: finance", "database: nowhere"))
        shared_house.forget()
        wrong = shared_house.run(DAG)["to_finance"]
        report = wrong.xcom_pull(task_ids="to_finance")
        assert (wrong.state, wrong.try_number, report["status"], report["exit_code"]) == ("failed", 1, "failed", 78)
        file.write_text(good.replace(f"port: {lab.postgres}", "port: 9"))
        shared_house.forget()
        away = shared_house.run(DAG)["to_finance"]
        report = away.xcom_pull(task_ids="to_finance")
        assert (away.state, away.try_number, report["status"], report["exit_code"]) == ("failed", 2, "failed", 75)
        assert report["error"]["type"] == "WarehouseUnavailable"
