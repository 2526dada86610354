"""Airflow as a person runs it: ``airflow standalone``, its REST API, its page of the report, its button that kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from .conftest import free_ports
from .house import House, Lab, copied_tree

PROGRAM = """\
#!/bin/bash
run=$(sed -E 's/.*"run_id":"([a-z]*).*/\\1/' <<<"$DATAKIT_RUN")
echo $$ >>{scratch}/$run.pids
if [[ $run == stuck ]]; then trap '' TERM; while :; do sleep 1; done; fi
exec {real} "$@"
"""
DAGS = """\
from datetime import timedelta
from airflow.sdk import DAG
from airflow_datakit import DatakitOperator

for name in ("good", "stuck", "killed"):
    with DAG(name, schedule=None, is_paused_upon_creation=False):
        DatakitOperator.create(
            "ingest",
            datakit="sqlserver-bronze",
            dataset={"good": "airline.planes", "stuck": "airline.airports", "killed": "airline.flights"}[name],
            warehouse="finance",
            retries=1,
            retry_delay=timedelta(seconds=1),
        )
"""


class Airflow:
    """A running ``airflow standalone``, spoken to as a person's client does."""

    def __init__(self, home: Path, url: str) -> None:
        self.home = home
        self.url = url
        [(user, password)] = json.loads((home / "simple_auth_manager_passwords.json.generated").read_text()).items()
        self.client = httpx.Client(timeout=120)  # seconds: it shares its cores with everything else
        answer = self.client.post(f"{url}/auth/token", json={"username": user, "password": password})
        self.client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"

    def get(self, path: str) -> Any:
        return self.client.get(f"{self.url}/api/v2{path}").raise_for_status().json()

    def trigger(self, dag: str) -> str:
        """Start a run, as soon as the DAG is known; return its id."""

        def started() -> str | None:
            answer = self.client.post(f"{self.url}/api/v2/dags/{dag}/dagRuns", json={"logical_date": None})
            return str(answer.json()["dag_run_id"]) if answer.is_success else None

        return str(wait_for(started, 120))

    def task(self, dag: str, run: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(f"/dags/{dag}/dagRuns/{run}/taskInstances/ingest")
        return found

    def ends(self, dag: str, run: str, seconds: float = 180) -> dict[str, Any]:
        """Wait until the task has ended and return it."""
        wait_for(lambda: self.task(dag, run)["state"] in {"success", "failed", "skipped"}, seconds)
        return self.task(dag, run)


def wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)
    return found


def pids(house: House, name: str) -> list[int]:
    file = house.scratch / f"{name}.pids"
    return [int(pid) for pid in file.read_text().split()] if file.exists() else []


def alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, lab: Lab) -> House:
    scratch = tmp_path_factory.mktemp("standalone")
    root, dags = copied_tree(scratch)
    made = House(root, dags, scratch)
    program = scratch / "datakit"
    program.write_text(PROGRAM.format(scratch=scratch, real=lab.commands / "datakit"))
    program.chmod(0o755)
    made.at(lab, "standalone", defaults={"grace": "2s"})
    environment = root / "warehouses/environments/test.yaml"
    environment.write_text(environment.read_text().replace(str(lab.commands / "datakit"), str(program)))
    (dags / "dags.py").write_text(DAGS)
    return made


@pytest.fixture(scope="module")
def airflow(house: House) -> Iterator[Airflow]:
    home, [port] = house.scratch / "airflow", free_ports(1)
    home.mkdir()
    commands = Path(sys.executable).parent
    url = f"http://localhost:{port}"
    environment = {
        "PATH": f"{commands}:/usr/bin:/bin",
        "HOME": str(house.scratch),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(house.dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "2",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
        "DATAKIT_HOME": str(house.root),
        "AIRFLOW__DATAKIT__ENVIRONMENT": "test",
    }
    with (house.scratch / "airflow.log").open("wb") as log:
        process = subprocess.Popen(
            [commands / "airflow", "standalone"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:

        def healthy() -> bool:
            assert process.poll() is None, (house.scratch / "airflow.log").read_text()[-3000:]
            with suppress(httpx.HTTPError, ValueError):
                health = httpx.get(f"{url}/api/v2/monitor/health").json()
                return all(health[name]["status"] == "healthy" for name in ("scheduler", "dag_processor"))
            return False

        wait_for(healthy, 180)
        yield Airflow(home, url)
    finally:
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_triggered_run_loads_and_its_report_is_one_click_away(airflow: Airflow, house: House, lab: Lab) -> None:
    run = airflow.trigger("good")
    task = airflow.ends("good", run)
    assert (task["state"], task["try_number"]) == ("success", 1)
    path = f"/dags/good/dagRuns/{run}/taskInstances/ingest"
    report = airflow.get(f"{path}/xcomEntries/return_value")["value"]
    report = json.loads(report) if isinstance(report, str) else report
    assert report["status"] == "loaded"
    assert lab.sql("SELECT count(*) FROM standalone.planes") == [[str(report["rows_written"])]]

    link = airflow.get(f"{path}/links")["extra_links"]["Run report"]
    page = airflow.client.get(link)
    assert page.status_code == 200
    assert "airline.planes" in page.text
    assert f"{report['rows_written']:,}" in page.text
    assert httpx.get(link, timeout=120).status_code == 401
    assert airflow.client.get(link.replace("ingest", "nothing")).status_code == 404

    log = airflow.client.get(f"{airflow.url}/api/v2{path}/logs/1", headers={"Accept": "application/json"}).text
    assert log.count("airline.planes → finance: committing") == 1


def test_a_page_says_what_runs_where_to_who_may_see_it(airflow: Airflow) -> None:
    page = airflow.client.get(f"{airflow.url}/datakits/")
    assert page.status_code == 200
    assert "sqlserver-bronze" in page.text
    assert httpx.get(f"{airflow.url}/datakits/", timeout=120).status_code == 401


def test_a_task_that_is_marked_failed_takes_its_datakit_with_it(airflow: Airflow, house: House) -> None:
    run = airflow.trigger("stuck")
    [pid] = wait_for(lambda: pids(house, "stuck"), 120)
    assert alive(pid)
    airflow.client.patch(
        f"{airflow.url}/api/v2/dags/stuck/dagRuns/{run}/taskInstances/ingest", json={"new_state": "failed"}
    ).raise_for_status()
    wait_for(lambda: not alive(pid), 90)
    assert airflow.task("stuck", run)["state"] == "failed"
    assert len(pids(house, "stuck")) == 1


def test_a_worker_that_is_killed_in_the_middle_of_a_load_leaves_nothing_and_the_retry_completes_it(
    airflow: Airflow, house: House, lab: Lab
) -> None:
    lab.stall("Flights")
    run = airflow.trigger("killed")
    [pid] = wait_for(lambda: pids(house, "killed"), 120)
    time.sleep(1)  # it has begun to read
    os.kill(parent(parent(pid)), signal.SIGKILL)  # Airflow's supervisor: nobody is left to hear of the result
    wait_for(lambda: not alive(pid), 30)
    task = airflow.ends("killed", run)
    assert (task["state"], task["try_number"]) == ("success", 2)
    count, distinct = lab.sql("SELECT count(*), count(DISTINCT flight_id) FROM standalone.flights")[0]
    assert count == distinct
    assert int(count) > 300_000
    assert lab.sql("SELECT count(*) FROM standalone._dk_loads WHERE table_name = 'flights'") == [["1"]]


def test_no_secret_is_in_anything_that_airflow_kept(airflow: Airflow, house: House, lab: Lab) -> None:
    """Runs last: its database, its logs, rendered templates, XComs, and what it printed."""
    canaries = [
        (lab.state / "secrets/finance-db/password").read_bytes(),
        *(text.encode() for name, text in lab.bootstrap().items() if name == "password"),
        (lab.state / "tickets/svc-datakit").read_bytes()[-64:],
    ]
    kept = [path for path in [*airflow.home.rglob("*"), house.scratch / "airflow.log"] if path.is_file()]
    assert any(path.suffix == ".db" for path in kept)
    assert any("ingest" in str(path) for path in kept)
    found = [(path, canary) for path in kept for canary in canaries if canary in path.read_bytes()]
    assert found == []
