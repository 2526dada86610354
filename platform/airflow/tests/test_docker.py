"""The Docker runtime on a real engine, with images whose datakit does what a test says."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import docker
import pytest

from .containers import IMAGE, left_containers
from .house import IMPROPER_REPORTS, INGEST, RETRIED, House, fails_with, told_to_end_at

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("airflow_database")]

REGISTRY = "registry.corp.example/data"
TIMED = INGEST.replace('warehouse="finance"', 'warehouse="finance", execution_timeout=timedelta(seconds=5)')


def started(count: int = 1) -> list[Any]:
    deadline = time.monotonic() + 300
    while len(found := docker.from_env().containers.list(filters={"label": "datakit.worker"})) < count:
        assert time.monotonic() < deadline, "no container was started"
        time.sleep(0.1)
    return found


def test_the_report_is_the_xcom(docker_house: House) -> None:
    docker_house.body("report(rows_written=3, text='ö')")
    task = docker_house.run(INGEST)["ingest"]
    report = task.xcom_pull(task_ids="ingest")
    assert report == {
        "protocol": "1.0",
        "status": "loaded",
        "run_id": f"example/{task.run_id}",
        "rows_written": 3,
        "text": "ö",
    }


@pytest.mark.parametrize(
    ("exit_code", "state", "tries"),
    [(0, "success", 1), (75, "failed", 2), (77, "failed", 1), (78, "failed", 1), (99, "skipped", 1), (70, "failed", 2)],
)
def test_an_exit_code_means_what_it_means_for_a_process(
    docker_house: House, exit_code: int, state: str, tries: int
) -> None:
    docker_house.body(f"report(status='something', exit_code={exit_code}); sys.exit({exit_code})")
    task = docker_house.run(RETRIED)["ingest"]
    assert (task.state, task.try_number) == (state, tries)
    assert task.xcom_pull(task_ids="ingest")["exit_code"] == exit_code


def test_a_container_may_do_no_more_than_it_has_to(docker_house: House) -> None:
    docker_house.body("""
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
report(
    uid=os.getuid(), capabilities=int(status["CapEff"], 16), bounding=int(status["CapBnd"], 16),
    no_new_privileges=status["NoNewPrivs"].strip(), root=refused("/x"), credentials=refused("/run/datakit/shared/x"),
    scratch=refused("/tmp/x"), ticket=open(os.environ["KRB5CCNAME"].removeprefix("FILE:")).read(),
    secret=open(os.environ["DATAKIT_SECRETS"] + "/finance-db/password").read(),
    environment=sorted(os.environ), first=open("/proc/1/comm").read().strip(),
)
""")
    report = docker_house.run(INGEST)["ingest"].xcom_pull(task_ids="ingest")
    assert (report["uid"], report["capabilities"], report["bounding"]) == (10002, 0, 0)
    assert report["no_new_privileges"] == "1"
    assert report["root"] == "Read-only file system"
    assert report["credentials"] == "Read-only file system"
    assert report["scratch"] is None
    assert (report["ticket"], report["secret"]) == ("a ticket", "a password")
    assert report["first"] == "docker-init"
    ours = {name for name in report["environment"] if name.startswith(("DATAKIT", "KRB5", "AIRFLOW"))}
    assert ours == {
        "DATAKIT_RUN",
        "DATAKIT_REPORT",
        "DATAKIT_SECRETS",
        "DATAKIT_TICKETS",
        "DATAKIT_LOG",
        "KRB5CCNAME",
        "KRB5_CONFIG",
    }


def test_a_container_is_limited_and_labelled(docker_house: House) -> None:
    docker_house.body("time.sleep(5); report()", labels={"owner": "data"}, docker={"pids": 64})
    with docker_house.run_elsewhere(INGEST) as process:
        [container] = started()
        process.communicate()
    attributes = container.attrs
    limits = attributes["HostConfig"]
    assert (limits["Memory"], limits["MemorySwap"]) == (1 << 30, 1 << 30)
    assert (limits["NanoCpus"], limits["PidsLimit"]) == (1_000_000_000, 64)
    assert (limits["ReadonlyRootfs"], limits["CapDrop"], limits["Privileged"]) == (True, ["ALL"], False)
    labels = attributes["Config"]["Labels"]
    expected = {"owner": "data", "datakit.name": "sqlserver-bronze", "datakit.version": "0.1.0", "datakit.try": "1"}
    assert (
        labels.items()
        >= {**expected, "datakit.image": IMAGE, "datakit.dag": "example", "datakit.task": "ingest"}.items()
    )
    assert {"datakit.run", "datakit.map_index", "datakit.worker"} <= set(labels)


def test_the_configuration_travels_with_the_request(docker_house: House) -> None:
    docker_house.body("report(configuration=run['configuration'])")
    configuration = docker_house.run(INGEST)["ingest"].xcom_pull(task_ids="ingest")["configuration"]
    assert configuration["warehouse"]["name"] == "finance"
    assert configuration["environment"]["warehouses"] == {
        "finance-db": {
            "host": "db.corp.example",
            "database": "dwh",
            "user": "loader",
            "password": "finance-db/password",
        }
    }


def test_every_line_is_in_the_tasks_log_once(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body("say('the first word'); say('a warning word', 'warning'); print('plain'); report()")
    docker_house.run(INGEST)
    lines = capfd.readouterr().out.splitlines()
    for words, level in {"the first word": "info", "a warning word": "warning"}.items():
        found = [line for line in lines if words in line]
        assert len(found) == 1, found
        assert f"[{level}" in found[0]


@pytest.mark.parametrize(
    ("body", "words"),
    IMPROPER_REPORTS,
)
def test_a_report_that_is_none_fails_with_the_reason(
    docker_house: House, body: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.body(body)
    assert docker_house.run(INGEST)["ingest"].state == "failed"
    assert words in capfd.readouterr().out


def test_too_much_memory_is_named(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body(
        "held = bytearray(300 << 20); report()", resources={"small": {"cpu": 1, "memory": "64Mi", "scratch": "1Mi"}}
    )
    assert docker_house.run(INGEST)["ingest"].state == "failed"
    output = capfd.readouterr().out
    assert "was killed (137)" in output
    assert "it wanted more than 64Mi of memory" in output


def test_a_timeout_tells_the_datakit_to_end_and_hears_its_last_words(
    docker_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.body("""
def end(*_):
    say("rolled back")
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
say("began")
time.sleep(60)
""")
    assert docker_house.run(TIMED)["ingest"].state == "failed"
    output = capfd.readouterr().out
    assert output.index("began") < output.index("rolled back")
    assert output.count("rolled back") == 1


def test_a_datakit_that_does_not_end_is_killed(docker_house: House) -> None:
    docker_house.body("signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", defaults={"grace": "1s"})
    began = time.monotonic()
    assert docker_house.run(TIMED)["ingest"].state == "failed"
    assert time.monotonic() - began < 60


def test_a_container_that_is_killed_is_tried_again(docker_house: House) -> None:
    mark = "/run/datakit/shared/x"  # nothing: a container cannot leave a mark, so the test kills the first one it sees
    docker_house.body(f"time.sleep(8); report(mark={mark!r})")
    with docker_house.run_elsewhere(RETRIED) as process:
        [first] = started()
        first.kill()
        deadline = time.monotonic() + 300
        while [found.id for found in started()] == [first.id]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        output, _ = process.communicate()
    assert process.returncode == 0, output
    assert "was killed (137)" in output
    assert "state=success" in output


def test_what_a_killed_worker_left_is_removed_by_the_next_one(
    docker_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.body("time.sleep(600)")
    with docker_house.run_elsewhere(INGEST) as process:
        [orphan] = started()
        process.send_signal(signal.SIGKILL)
    assert [found.id for found in left_containers()] == [orphan.id]
    docker_house.body("report()", defaults={"grace": "1s"})
    assert docker_house.run(INGEST)["ingest"].state == "success"
    assert "which a worker that is gone left behind" in capfd.readouterr().out


def test_a_container_of_a_living_worker_is_left_alone(docker_house: House) -> None:
    docker_house.body("time.sleep(15); report()")
    with docker_house.run_elsewhere(INGEST) as process:
        started()
        docker_house.body("report()")
        other = INGEST.replace('"ingest"', '"other"')
        assert docker_house.run(other, name="second")["other"].state == "success"
        output, _ = process.communicate()
    assert process.returncode == 0, output


def test_a_missing_volume_is_named_and_not_made(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body("report()", docker={"credentials_volume": "datakit-nowhere"})
    fails_with(docker_house, "datakit-nowhere: there is no volume with tickets and secrets", capfd)
    assert docker.from_env().volumes.list(filters={"name": "datakit-nowhere"}) == []


def test_a_volume_on_the_disk_is_refused(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    volume = docker.from_env().volumes.create("datakit-test-disk")
    try:
        docker_house.body("report()", docker={"credentials_volume": "datakit-test-disk"})
        fails_with(docker_house, "the volume with tickets and secrets is not in memory", capfd)
    finally:
        volume.remove()


def test_an_image_that_runs_as_root_is_refused(
    docker_house: House, base_image: str, capfd: pytest.CaptureFixture[str]
) -> None:
    docker.from_env().images.get(base_image).tag(f"{REGISTRY}/root/datakits/sqlserver-bronze", "v0.1.0")
    docker_house.body("report()", registry=f"{REGISTRY}/root")
    try:
        fails_with(docker_house, "the image runs as root", capfd)
    finally:
        docker.from_env().images.remove(f"{REGISTRY}/root/datakits/sqlserver-bronze:v0.1.0")


def test_a_network_that_is_not_there_is_named(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body("report()", docker={"network": "datakit-nowhere"})
    fails_with(docker_house, "docker network create", capfd)


def test_an_engine_that_is_not_there_is_tried_again(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body("report()", docker={"url": f"unix://{docker_house.scratch}/docker.sock"})
    fails_with(docker_house, "there is no Docker engine", capfd, tries=2)


def test_a_registry_that_is_away_is_tried_again(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body("report()", registry="localhost:9/data")
    fails_with(docker_house, "the image cannot be pulled", capfd, tries=2)


def test_an_image_that_has_to_be_there_and_is_not_is_not_asked_of_a_registry(
    docker_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.body("report()", registry="localhost:9/data", docker={"pull": "never"})
    output = fails_with(docker_house, "this engine does not have the image", capfd)
    assert "docker.pull: never" in output


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("pull access denied for x, repository does not exist", 77, "docker.connection"),
        ("unauthorized: authentication required", 77, "docker.connection"),
        ("x509: certificate signed by unknown authority", 78, "certs.d/registry.corp.example/ca.crt"),
        ("manifest unknown: manifest unknown", 78, "was never released"),
        ("dial tcp: lookup registry: i/o timeout", 75, "the registry is away"),
    ],
)
def test_what_a_registry_says_is_explained(said: str, kind: int, words: str) -> None:
    from airflow_datakit.runtimes import _docker_problems

    error = _docker_problems.of_pull(said, "registry.corp.example/data/datakits/x:v1")
    assert error.exit_code == kind
    assert words in str(error)
    assert said in str(error)


def test_a_socket_that_is_denied_is_named_and_left_alone() -> None:
    """Root may open any socket, so this asks as somebody else."""
    program = (
        "import os, socket, sys; path = sys.argv[1]; socket.socket(socket.AF_UNIX).bind(path); os.chmod(path, 0o600)\n"
        "from airflow_datakit.runtimes import _docker_problems\n"
        "os.chmod(os.path.dirname(path), 0o755); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n    _docker_problems.check_socket(f'unix://{path}')\nexcept Exception as error:\n    print(error)\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", program, f"{folder}/docker.sock"], capture_output=True, text=True, check=True
        )
    assert "this worker may not use the Docker engine" in done.stdout
    assert "uid 65534 is neither its owner (0) nor in its group (0)" in done.stdout
    assert "leave the socket's mode alone" in done.stdout


def test_an_engine_elsewhere_that_does_not_answer_is_tried_again(
    docker_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.body("report()", docker={"url": "tcp://127.0.0.1:9"})
    fails_with(docker_house, "no Docker engine answers", capfd, tries=2)


def test_an_engine_that_goes_away_is_worth_a_retry() -> None:
    from airflow_datakit.runtimes import _docker_problems
    from requests.exceptions import ConnectionError as Gone

    error = _docker_problems.of(
        Gone("Connection aborted."), "registry.corp.example/x:v1", "unix:///var/run/docker.sock"
    )
    assert error.retryable
    assert "Connection aborted." in str(error)


def test_nothing_secret_is_in_what_docker_shows(docker_house: House) -> None:
    docker_house.body("open('/run/datakit/shared/secrets/finance-db/password').read(); time.sleep(5); report()")
    with docker_house.run_elsewhere(INGEST) as process:
        [container] = started()
        shown = json.dumps(container.attrs) + json.dumps(docker.from_env().volumes.get(docker_house.credentials).attrs)
        process.communicate()
    assert "a password" not in shown
    assert "a ticket" not in shown


def test_lines_of_both_streams_are_whole_and_logged_once(
    docker_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.body("sys.stdout.write('half '); sys.stdout.flush(); say('one', 'warning'); say('two'); report()")
    assert docker_house.run(INGEST)["ingest"].state == "success"
    lines = capfd.readouterr().out.splitlines()
    for words, level in {"half": "info", "one": "warning", "two": "info"}.items():
        (found,) = [line for line in lines if f"] {words} " in line]
        assert f"[{level}" in found


def test_a_task_that_is_told_to_end_before_its_container_is_there_makes_none(
    docker_house: House, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from airflow_datakit.runtimes.docker import DatakitDockerOperator

    told_to_end_at(monkeypatch, DatakitDockerOperator, "_image")
    docker_house.body("say('hello'); report()")
    assert docker_house.run(INGEST)["ingest"].state == "failed"
    output = capfd.readouterr().out
    assert "was told to end before it began" in output
    assert "hello" not in output


def test_what_the_engine_cannot_give_is_not_tried_again(docker_house: House, capfd: pytest.CaptureFixture[str]) -> None:
    docker_house.body("report()", resources={"small": {"cpu": 1000, "memory": "64Mi"}})
    assert "CPUs" in fails_with(docker_house, "the Docker engine refuses the container", capfd)


def test_a_volume_that_is_not_there_is_named_and_not_made(
    docker_house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    docker_house.marketing = Path("/var/lib/datakit/marketing.duckdb")
    docker_house.body("report()", docker={"volumes": {"datakit-nowhere": "/var/lib/datakit"}})
    fails_with(docker_house, "a volume that the environment names is not there", capfd, warehouse="marketing")
    assert docker_house.run(INGEST)["ingest"].state == "success"  # finance is no file, and has no volume
    assert "datakit-nowhere" not in {volume.name for volume in docker.from_env().volumes.list()}


def test_a_worker_that_this_one_cannot_see_is_not_taken_for_dead() -> None:
    from airflow_datakit.runtimes.docker import _is_dead, _this_worker

    place, pid, started = _this_worker().rsplit("/", 2)
    host, table = place.split("/")
    dead = f"{place}/{pid}/{int(started) - 1}"
    assert [_is_dead(_this_worker()), _is_dead(dead)] == [False, True]
    assert not _is_dead(f"other/{table}/{pid}/1")
    assert not _is_dead(f"{host}/another-boot-pid:[1]/{pid}/1")


def test_another_environment_s_container_of_the_same_task_is_left_alone(docker_house: House) -> None:
    from types import SimpleNamespace

    from airflow_datakit import DatakitOperator

    docker_house.body("report()")
    operator = DatakitOperator.create(
        "ingest", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance"
    )
    context: Any = {"ti": SimpleNamespace(dag_id="example", task_id="ingest", run_id="r", map_index=-1)}
    own = {**operator._identity(context), "datakit.worker": "elsewhere/boot/1/1"}
    client = docker.from_env()
    earlier, other = (
        client.containers.create(IMAGE, labels=labels) for labels in (own, {**own, "datakit.environment": "other"})
    )
    try:
        operator._sweep(context)
        left = {found.id for found in left_containers()}
        assert (earlier.id in left, other.id in left) == (False, True)
    finally:
        other.remove(force=True)
