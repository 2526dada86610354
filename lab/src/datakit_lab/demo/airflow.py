"""Airflow, as its own commands start it, and its REST API. It has a Python environment of its own, so nothing of it is
imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

from datakit_lab.errors import LabError, LabUnavailable
from datakit_lab.network import LOOPBACK, accepts, ask, holder_of, port_is_free
from datakit_lab.processes import last_words, started_at, wait_for

PORT: Final = 18080
_COMMANDS: Final = {
    "api-server": (),
    "scheduler": ("--skip-serve-logs",),  # which would listen on every address; the API server reads the files
    "dag-processor": (),
}
_START_SECONDS: Final = 180
_REQUEST_SECONDS: Final = 60
_STOP_SECONDS: Final = 20
_LOGS: Final = "read its logs: .lab/logs/airflow-*.log"
_REPORT: Final = "return_value"
_PASSWORDS: Final = "simple_auth_manager_passwords.json.generated"  # a file's name


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one DAG."""

    dag: str
    run_id: str


class Airflow:
    """One Airflow on this machine's loopback, with a database of its own, that runs nothing by itself.

    :param home: its folder, made anew by :meth:`start`.
    :param logs: folder of its processes' logs.
    :param tree: the tree of datakits and warehouses, with the DAGs.
    :param commands: the folder of its ``airflow`` command.
    """

    def __init__(self, home: Path, *, logs: Path, tree: Path, commands: Path, port: int = PORT) -> None:
        self.home = home
        self.url = f"http://localhost:{port}"
        self._logs = logs
        self._tree = tree
        self._commands = commands
        self._port = port
        self._token = ""

    @property
    def login(self) -> tuple[str, str]:
        """User and password, which Airflow made up."""
        [(user, password)] = json.loads((self.home / _PASSWORDS).read_text(encoding="utf-8")).items()
        return user, password

    def start(self, environment: str) -> None:
        """Start it and wait until it knows its DAGs.

        :param environment: the datakit environment that it works in.
        :raises LabError: its port is in use.
        :raises LabUnavailable: a part of it ended, or did not become ready in time.
        """
        if not port_is_free(self._port):
            raise LabError(
                f"port {self._port}, where Airflow would listen, is in use by {holder_of(self._port)}",
                fix=f"end that, then run it again: ss -lntp 'sport = :{self._port}' shows it",
            )
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        variables = self._variables(environment)
        migrated = subprocess.run(
            [self._commands / "airflow", "db", "migrate"],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if migrated.returncode:
            raise LabUnavailable(f"`airflow db migrate` failed: {migrated.stderr.strip()[-500:]}")
        started: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name, options in _COMMANDS.items():
                with self._log(name).open("wb") as log:
                    started[name] = subprocess.Popen(
                        [self._commands / "airflow", name, *options],
                        env=variables,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # it may outlive the demo; Ctrl-C is for that alone
                    )
                known = [(process.pid, started_at(process.pid)) for process in started.values()]
                self._record.write_text(json.dumps(known), encoding="utf-8")
            self._wait_until_ready(started)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it, if it runs: the last part first, so that tasks can still tell the API server how they end."""
        if not self._record.exists():
            return
        for pid, since in reversed(json.loads(self._record.read_text(encoding="utf-8"))):
            _end_group(pid, since)
        self._record.unlink()

    def dags(self) -> list[str]:
        """Return the ids of its DAGs."""
        return sorted(dag["dag_id"] for dag in self.get("/dags")["dags"])

    def import_errors(self) -> list[str]:
        """Return what was wrong with DAG files."""
        return [error["stack_trace"] for error in self.get("/importErrors")["import_errors"]]

    def trigger(self, dag: str) -> Run:
        """Start a run of a DAG, which must not be paused; return it."""
        self._request("PATCH", f"/dags/{dag}", {"is_paused": False})
        return Run(dag, self._request("POST", f"/dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def tasks(self, run: Run) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        return list(self.get(f"/dags/{run.dag}/dagRuns/{run.run_id}/taskInstances")["task_instances"])

    def state(self, run: Run) -> str:
        """Return the state of a run: ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.get(f"/dags/{run.dag}/dagRuns/{run.run_id}")["state"])

    def log(self, run: Run, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the entries of a task's log, of its current try: ``event``, ``level``, ``logger`` …"""
        path = f"/dags/{run.dag}/dagRuns/{run.run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        for entry in self.get(path)["content"]:
            yield entry if isinstance(entry, dict) else {"event": str(entry)}

    def report(self, run: Run, task_id: str) -> dict[str, Any] | None:
        """Return the run report that a task left as XCom, if it left one."""
        path = f"/dags/{run.dag}/dagRuns/{run.run_id}/taskInstances/{task_id}/xcomEntries"
        if not any(entry["key"] == _REPORT for entry in self.get(path)["xcom_entries"]):
            return None
        value = self.get(f"{path}/{_REPORT}")["value"]
        found: dict[str, Any] = json.loads(value) if isinstance(value, str) else value
        return found

    def get(self, path: str) -> Any:
        """Return the answer of the REST API to a GET.

        :raises LabUnavailable: it went away, or answered with an error.
        """
        return self._request("GET", path)

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        if not self._token:
            user, password = self.login
            self._token = _http("POST", f"{self.url}/auth/token", {"username": user, "password": password})[
                "access_token"
            ]
        return _http(method, f"{self.url}/api/v2{path}", body, token=self._token)

    def _wait_until_ready(self, processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._ready():
            for name, process in processes.items():
                if process.poll() is not None:
                    raise LabUnavailable(
                        f"airflow {name} ended: {last_words(self._log(name))}", fix=f"read its log: {self._log(name)}"
                    )
            if time.monotonic() > deadline:
                raise LabUnavailable(
                    f"Airflow did not become ready within {_START_SECONDS} s", fix=f"read its logs: {self._log('*')}"
                )
            time.sleep(0.2)

    def _ready(self) -> bool:
        """Whether it answers and has parsed the DAG files.

        :raises LabError: a DAG file is wrong.
        """
        if not accepts(self._port) or not (self.home / _PASSWORDS).exists():
            return False
        with contextlib.suppress(LabUnavailable):  # it listens before it answers
            if wrong := self.import_errors():
                raise LabError(f"a DAG file cannot be read: {wrong[0]}")
            return bool(self.dags())
        return False

    def _variables(self, environment: str) -> dict[str, str]:
        return {
            "PATH": f"{self._commands}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self._tree / "warehouses/dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "3",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(self._port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False",  # what runs, somebody asked for
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW__DATAKIT__ENVIRONMENT": environment,
            "DATAKIT_HOME": str(self._tree),
        }

    def _log(self, name: str) -> Path:
        return self._logs / f"airflow-{name}.log"

    @property
    def _record(self) -> Path:
        return self.home / "processes.json"


def _end_group(pid: int, since: str) -> None:
    """End a process and its group; it is known by number and start, because its number may be another's by now."""

    def alive() -> bool:
        return bool(since) and started_at(pid) == since

    for number in (signal.SIGTERM, signal.SIGKILL):
        if alive():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        if wait_for(lambda: not alive(), seconds=_STOP_SECONDS):
            return


def _http(method: str, url: str, body: Any = None, *, token: str = "") -> Any:
    """Send a request and return what its answer says.

    :raises LabUnavailable: nobody answers, or the answer is an error.
    """
    request = urllib.request.Request(  # noqa: S310  # of this machine
        url,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            "Accept": "application/json",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        },
    )
    try:
        with ask(request, seconds=_REQUEST_SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:300]
        raise LabUnavailable(f"Airflow refused {method} {url} with {error.code}: {said}", fix=_LOGS) from None
    except (OSError, HTTPException) as error:
        raise LabUnavailable(f"Airflow did not answer {method} {url}: {error}", fix=_LOGS) from None
