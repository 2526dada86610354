"""The demo's own machinery; the story itself is told by ``make demo``, which platform/airflow's tests run whole."""

from __future__ import annotations

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from datakit_lab.demo.airflow import Airflow, Run
from datakit_lab.demo.following import follow
from datakit_lab.demo.places import Containers
from datakit_lab.docker import EngineRefused
from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import free_port
from datakit_lab.processes import wait_for
from datakit_lab.sidecar_container import SidecarContainer
from datakit_lab.state import LabState

RUN = Run("finance_hourly", "manual__1")
OF_RUN = f"/api/v2/dags/{RUN.dag}/dagRuns/{RUN.run_id}"


class Answers:
    """What the double of Airflow's REST API answers: for each path one answer after the other, the last for ever."""

    def __init__(self) -> None:
        self.of: dict[str, list[Any]] = {"/auth/token": [{"access_token": "token"}]}
        self.refused: list[str] = []

    def next(self, path: str) -> Any:
        """Return the next answer, None if there is none."""
        answers = self.of.get(path, [None])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@contextmanager
def rest(answers: Answers) -> Iterator[int]:
    """Within, somebody answers at the port that this yields."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = answers.next(self.path)
            known = said is not None and (self.path == "/auth/token" or self.headers["Authorization"] == "Bearer token")
            if not known:
                answers.refused.append(self.path)
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(json.dumps(said if known else {"detail": "Not Found"}).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def airflow(folder: Path, port: int, program: str = "") -> Airflow:
    """Return an Airflow whose command is a shell's ``program``, and whose user has a password."""
    home, logs, commands = folder / "home", folder / "logs", folder / "bin"
    for each in (home, logs, commands):
        each.mkdir()
    (home / "simple_auth_manager_passwords.json.generated").write_text('{"admin": "a password"}')
    command = commands / "airflow"
    command.write_text(f"#!/bin/sh\n{program}\n")
    command.chmod(0o755)
    return Airflow(home, logs=logs, tree=folder, commands=commands, port=port)


def line(text: str, logger: str = "airflow_datakit.runtimes") -> dict[str, str]:
    return {"event": text, "level": "info", "logger": logger}


def task(state: str | None, tries: int = 1) -> dict[str, Any]:
    return {"task_id": "airline.flights", "state": state, "try_number": tries}


def run_of(states: list[str], tasks: list[dict[str, Any]]) -> Answers:
    answers = Answers()
    answers.of[OF_RUN] = [{"state": state} for state in states]
    answers.of[f"{OF_RUN}/taskInstances"] = [{"task_instances": [each]} for each in tasks]
    return answers


def test_each_line_of_a_datakit_is_told_once_and_each_state_when_it_comes(tmp_path: Path) -> None:
    answers = run_of(["queued", "running", "running", "success"], [task(None), task("running"), task("success")])
    of_task = f"{OF_RUN}/taskInstances/airline.flights"
    answers.of[f"{of_task}/logs/1"] = [
        {"content": [line("Airflow's own", "airflow.task"), line("loading")]},
        {"content": [line("loading"), line("16 rows")]},
    ]
    answers.of[f"{of_task}/xcomEntries"] = [{"xcom_entries": [{"key": "return_value"}]}]
    answers.of[f"{of_task}/xcomEntries/return_value"] = [{"value": '{"rows_written": 16}'}]
    told: list[tuple[str, str]] = []
    with rest(answers) as port:
        reports = follow(airflow(tmp_path, port), [RUN], lambda name, said: told.append((name, said)))
    assert told == [("finance/airline.flights", said) for said in ("loading", "16 rows", "done")]
    assert reports == [{"rows_written": 16}]
    assert answers.refused == []


def test_a_retry_is_told_from_its_first_line(tmp_path: Path) -> None:
    states = [task("running"), task("up_for_retry"), task("running", 2), task("success", 2)]
    answers = run_of(["running", "running", "running", "success"], states)
    of_task = f"{OF_RUN}/taskInstances/airline.flights"
    answers.of[f"{of_task}/logs/1"] = [{"content": [line("loading"), line("the connection broke")]}]
    answers.of[f"{of_task}/logs/2"] = [{"content": [line("loading")]}]
    answers.of[f"{of_task}/xcomEntries"] = [{"xcom_entries": []}]
    told: list[str] = []
    with rest(answers) as port:
        reports = follow(airflow(tmp_path, port), [RUN], lambda _, said: told.append(said))
    assert told == ["loading", "the connection broke", "retries", "loading", "done"]
    assert reports == []


def test_a_task_that_fails_ends_the_demo_and_is_named(tmp_path: Path) -> None:
    answers = run_of(["failed"], [task("failed")])
    answers.of[f"{OF_RUN}/taskInstances/airline.flights/logs/1"] = [{"content": [line("no such database")]}]
    told: list[str] = []
    with rest(answers) as port, pytest.raises(LabError, match=r"airline\.flights failed"):
        follow(airflow(tmp_path, port), [RUN], lambda _, said: told.append(said))
    assert told == ["no such database", "FAILED"]


def test_an_airflow_that_refuses_or_went_away_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with rest(Answers()) as port:
        asked = airflow(tmp_path, port)
        words = f"refused GET http://localhost:{port}/api/v2/dags with 404"
        with pytest.raises(LabUnavailable, match=words) as refused:
            asked.dags()
    assert refused.value.fix is not None
    assert ".lab/logs" in refused.value.fix
    with pytest.raises(LabUnavailable, match="did not answer GET"):
        asked.dags()


def test_a_port_in_use_is_named_with_who_has_it_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(LabError, match=rf"port {port}, .* in use by .* \(process {os.getpid()}\)"):
            airflow(tmp_path, port, "touch started").start("local")
    assert not (tmp_path / "started").exists()


def test_a_part_of_airflow_that_ends_is_named_with_its_last_words_and_the_others_end_too(tmp_path: Path) -> None:
    program = f"""
case $1 in
  scheduler) echo 'no such executor'; exit 1 ;;
  db) ;;
  *) echo $$ >>{tmp_path}/others; exec sleep 60 ;;
esac"""
    with pytest.raises(LabUnavailable, match="airflow scheduler ended: no such executor"):
        airflow(tmp_path, free_port(), program).start("local")
    others = [int(pid) for pid in (tmp_path / "others").read_text().split()]
    assert others
    assert wait_for(lambda: not any(map(alive, others)), seconds=5)


def test_a_process_that_has_the_number_of_one_of_airflows_by_now_is_left_alone(tmp_path: Path) -> None:
    stopped = airflow(tmp_path, free_port())
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True) as other:
        try:
            (stopped.home / "processes.json").write_text(json.dumps([[other.pid, "1"]]))
            stopped.stop()
            assert other.poll() is None
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class RecordedEngine:
    """An engine that keeps what it was told, and the container that it was told to make, which ends at once.

    :param others: whether another lab's container of the name runs.
    """

    def __init__(self, *, others: bool = False) -> None:
        self.made: dict[str, Any] = {}
        self.changes: list[str] = []
        self.address = Path("/var/run/docker.sock")
        self._others = others

    def json(self, method: str, path: str, body: Any = None, **_: Any) -> Any:
        if method != "GET":
            self.changes.append(f"{method} {path}")
        elif self._others:
            return {"State": {"Running": True}, "Config": {"Labels": {"datakit.lab": "/elsewhere/.lab"}}}
        elif not self.made:
            raise EngineRefused(404, "no such container")
        if path == "/containers/create":
            self.made = body
            self.files = {
                mount["Target"]: {each.name: each.stat().st_mode & 0o777 for each in Path(mount["Source"]).iterdir()}
                for mount in body["HostConfig"]["Mounts"]
                if mount["Type"] == "bind"
            }
        return {"State": {"Running": False}, "Config": {"Labels": self.made.get("Labels")}}

    def stream(self, *_: Any, **__: Any) -> Any:
        raise EngineRefused(404, "no such container")

    def create_volume(self, name: str, *_: Any) -> None:
        self.changes.append(name)

    remove_container = remove_volume = create_volume


def test_the_credential_of_a_sidecar_in_a_container_is_in_the_labs_memory_and_goes_with_it(tmp_path: Path) -> None:
    engine, state, memory = RecordedEngine(), LabState(tmp_path / "state"), tmp_path / "memory"
    sidecar = SidecarContainer(engine, state, image="sidecar", volume="credentials")  # type: ignore[arg-type]  # a double
    for folder in (memory, state.bootstrap, state.certificates):  # the lab comes up only now, as in the demo
        folder.mkdir(parents=True)
    state.share(memory / "tickets", memory / "secrets")
    (state.bootstrap / "password").write_text("a secret")
    (state.certificates / "authority.pem").write_text("a certificate")
    configuration = {"vault": {"url": "https://localhost:1"}, "health": {"address": "127.0.0.1", "port": 1}}
    state.sidecar_configuration.write_text(yaml.safe_dump(configuration))
    with pytest.raises(LabUnavailable, match="docker logs credentials-sidecar"):
        sidecar.start(seconds=0)
    sources = [mount["Source"] for mount in engine.made["HostConfig"]["Mounts"] if mount["Type"] == "bind"]
    assert all(Path(source).is_relative_to(memory) for source in sources)
    assert set(engine.files["/run/datakit/bootstrap"]) == {"password"}
    on_disk = [file for file in state.directory.rglob("*") if file.is_file() and "a secret" in file.read_text()]
    assert on_disk == [state.bootstrap / "password"]
    sidecar.close()
    assert not list(memory.iterdir())


@contextmanager
def engine_at(path: Path) -> Iterator[Path]:
    """Within, something at this socket says that it is a Docker engine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"Version": "20.10", "ApiVersion": "1.41"}')

        def address_string(self) -> str:
            return "a client"

        def log_message(self, *_: object) -> None:
            """Keep quiet."""

    class Server(socketserver.ThreadingUnixStreamServer):
        def get_request(self) -> Any:
            request, _ = super().get_request()
            return request, ("a client", 0)

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield path
        finally:
            server.shutdown()
            thread.join()


def test_a_sidecar_of_another_lab_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment_in(tmp_path)
    engine = RecordedEngine(others=True)
    monkeypatch.setattr("datakit_lab.demo.places.Engine", lambda: engine)
    place = Containers(LabState(tmp_path / ".lab"))
    place.stop()
    (tmp_path / ".lab").mkdir()
    with pytest.raises(LabError, match=r"in use by another lab \(/elsewhere/.lab\)"):
        place.start()
    assert engine.changes == []


def environment_in(folder: Path) -> Path:
    file = folder / "warehouses/environments/local-docker.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("name: local-docker\nruntime: docker\n")
    return file


def demo(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment_in(folder)
    return subprocess.run(
        [sys.executable, "-m", "datakit_lab.demo"],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_engine_that_tasks_would_not_ask_is_refused_before_anything_starts(tmp_path: Path) -> None:
    environment = environment_in(tmp_path)
    with engine_at(tmp_path / "docker.sock") as socket, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{socket}")
        with pytest.raises(LabError, match=f"DOCKER_HOST names the engine at {socket}, and tasks would ask"):
            Containers(LabState(tmp_path / ".lab"))
        environment.write_text(f"name: local-docker\nruntime: docker\ndocker: {{url: 'unix://{socket}'}}\n")
        Containers(LabState(tmp_path / ".lab"))


def test_where_no_engine_answers_the_demo_says_how_to_do_without(tmp_path: Path) -> None:
    said = demo(tmp_path, RUNTIME="docker", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert said.returncode == 75
    assert "no Docker engine answers" in said.stderr
    assert "make demo RUNTIME=process" in said.stderr


def test_the_demo_says_which_runtimes_there_are(tmp_path: Path) -> None:
    said = demo(tmp_path, RUNTIME="podman")
    assert said.returncode == 78
    assert "RUNTIME is 'podman'" in said.stderr
    assert "Traceback" not in said.stderr


def test_an_interrupt_that_comes_while_an_object_is_finalised_is_not_lost() -> None:
    script = """
import os, signal, time
from datakit_lab.demo import __main__ as demo

class Connection:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

demo._AGAIN_SECONDS = 0.2
demo.hear_interrupts()
each = Connection()
del each
print("swallowed", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert done.stdout.split() == ["swallowed", "heard"], done.stderr
