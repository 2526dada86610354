"""A tree of datakits for one test, the laboratory behind it, and Airflow in front of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG
from airflow_datakit import _tree

REPOSITORY = Path(__file__).resolve().parents[3]
INGEST = """\
task = DatakitOperator.create(
    "ingest", datakit="sqlserver-bronze", dataset="airline.airports", warehouse="finance"
)
"""
RETRIED = INGEST.replace('warehouse="finance"', 'warehouse="finance", retries=1, retry_delay=0')


FAKE = """\
#!{python} -IS
import json, os, pathlib, signal, subprocess, sys, time

run = json.loads(os.environ["DATAKIT_RUN"])


def say(message, level="info"):
    entry = {{"time": "2026-01-01", "level": level, "logger": "fake", "message": message}}
    print(json.dumps(entry), file=sys.stderr, flush=True)


def report(status="loaded", **more):
    path = pathlib.Path(os.environ["DATAKIT_REPORT"])
    path.write_text(json.dumps({{"protocol": "1.0", "status": status, "run_id": run["run_id"], **more}}))


{body}
"""


@dataclass(frozen=True)
class Lab:
    state: Path
    sqlserver: int
    postgres: int
    realm: str
    commands: Path

    def sql(self, query: str) -> list[list[str]]:
        """Ask the PostgreSQL warehouse, without anything of ours; return rows of text."""
        password = (self.state / "secrets/finance-db/password").read_text()
        done = subprocess.run(
            [
                "psql",
                "-h",
                "localhost",
                "-p",
                str(self.postgres),
                "-U",
                "finance",
                "-d",
                "finance",
                "-At",
                "-F",
                "\t",
                "-c",
                query,
            ],
            env={"PGPASSWORD": password, "PATH": "/usr/bin:/bin"},
            check=True,
            capture_output=True,
            text=True,
        )
        return [line.split("\t") for line in done.stdout.splitlines()]

    def source(self, sql: str) -> list[list[Any]]:
        """Run a batch in the source system, as the server itself; return its rows."""
        program = (
            "import json, sys; from pathlib import Path; from datakit_lab.control import call\n"
            "print(json.dumps(call(Path(sys.argv[1]), 'run', sql=sys.argv[2], database='AirlineOps')['rows']))"
        )
        command = [self.commands / "python", "-c", program, self.state / "sqlserver.sock", sql]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows: list[list[Any]] = json.loads(done.stdout)
        return rows

    def stall(self, table: str) -> None:
        """Let the next read of a table stop in its middle for a minute: long enough to be killed there."""
        fault = f"stall 60 after 1000 matching {table}"
        command = [self.commands / "datakit-lab", "faults", fault, "--state-dir", self.state]
        subprocess.run(command, check=True, capture_output=True)

    def bootstrap(self) -> dict[str, str]:
        """Return the files of the sidecar's credential to the lab's vault."""
        return {path.name: path.read_text() for path in (self.state / "bootstrap").iterdir()}

    def authority(self) -> str:
        """Return the certificate of who signed the vault's."""
        return (self.state / "certificates/authority.pem").read_text()


def copied_tree(scratch: Path) -> tuple[Path, Path]:
    """Copy the repository's datakits and warehouses; return the tree and an empty folder of DAGs."""
    root, dags = scratch / "tree", scratch / "dags"
    for name in ("datakits", "warehouses"):
        ignore = shutil.ignore_patterns("sdk", "environments", "__pycache__")
        shutil.copytree(REPOSITORY / name, root / name, ignore=ignore)
    dags.mkdir()
    return root, dags


class House:
    def __init__(self, root: Path, dags: Path, scratch: Path) -> None:
        self.root = root
        self.dags = dags
        self.scratch = scratch
        self.marketing = scratch / "marketing.duckdb"
        self.credentials = "datakit-credentials"
        self.xcom_image = "datakit.local/platform/xcom:v1"

    def environment(self, name: str = "test", **more: Any) -> Path:
        """Write an environment; keys given replace those of one that knows hosts nobody answers at."""
        data: dict[str, Any] = {
            "name": name,
            "runtime": "process",
            "sources": {
                "airline": {
                    "host": "sql.corp.example",
                    "database": "AirlineOps",
                    "principal": "svc-datakit@CORP.EXAMPLE",
                }
            },
            "warehouses": {
                "finance-db": {
                    "host": "db.corp.example",
                    "database": "dwh",
                    "user": "loader",
                    "password": "finance-db/password",
                },
                "marketing-db": {"path": str(self.marketing)},
            },
            **more,
        }
        return self.put(f"warehouses/environments/{name}.yaml", yaml.safe_dump(data))

    @staticmethod
    def forget() -> None:
        """Let the next task read the tree again, as another process would."""
        _tree._project.cache_clear()

    def put(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def fake(self, body: str, **more: Any) -> None:
        """Let the environment's datakit be a program that does ``body``, with ``run``, ``report()`` and ``say()``."""
        program = self.scratch / "fake-datakit"
        program.write_text(FAKE.format(python=sys.executable, body=textwrap.dedent(body)))
        program.chmod(0o755)
        self.environment(process={"command": [str(program)]}, **more)

    def body(self, body: str, **more: Any) -> None:
        """Let the environment's datakit be the tests' image, which does ``body`` in a container."""
        place = {"credentials_volume": self.credentials, **more.pop("docker", {})}
        given = {"runtime": "docker", "registry": "registry.corp.example/data", "env": {"BODY": body}, **more}
        self.environment(docker=place, **given)
        self.forget()

    def pod(self, body: str, **more: Any) -> None:
        """Let the environment's datakit be the tests' image, which does ``body`` in a pod."""
        place = {
            "namespace": "data",
            "service_account": "datakit",
            "pull_secrets": ["registry"],
            "xcom_image": self.xcom_image,
            "startup_timeout": "60s",
            **more.pop("kubernetes", {}),
        }
        sidecar = {
            "image": "registry.corp.example/data/platform/sidecar:v0.1.0",
            "config_map": "sidecar",
            "bootstrap_secret": "bootstrap",
        }
        given = {
            "runtime": "kubernetes",
            "registry": "registry.corp.example/data",
            "env": {"BODY": body},
            "defaults": {"grace": "2s"},
            **more,
        }
        self.environment(kubernetes=place, sidecar=sidecar, **given)
        self.forget()

    def at(self, lab: Lab, schema: str, **more: Any) -> None:
        """Let the environment be the laboratory, and finance land in a schema of the test's own."""
        process = {
            "command": [str(lab.commands / "datakit")],
            "tickets": str(lab.state / "tickets"),
            "secrets": str(lab.state / "secrets"),
        }
        given = {"process": process, **more}
        self.environment(
            sources={
                "airline": {
                    "host": "localhost",
                    "port": lab.sqlserver,
                    "database": "AirlineOps",
                    "principal": f"svc-datakit@{lab.realm}",
                    "trust_server_certificate": True,
                }
            },
            warehouses={
                "finance-db": {
                    "host": "localhost",
                    "port": lab.postgres,
                    "database": "finance",
                    "user": "finance",
                    "password": "finance-db/password",
                },
                "marketing-db": {"path": str(self.marketing)},
            },
            **given,
        )
        file = self.root / "warehouses/finance/warehouse.yaml"
        file.write_text(re.sub(r"(?m)^schema: .*$", f"schema: {schema}", file.read_text()))
        self.schema = schema
        self.forget()

    def dag(self, body: str, name: str = "example", **arguments: Any) -> DAG:
        """Write a DAG file whose ``with DAG`` holds ``body``, and return the DAG as Airflow finds it.

        :raises AssertionError: the file cannot be imported; holds Airflow's message.
        """
        text = (
            "from datetime import timedelta\n"
            "from airflow.sdk import DAG\n"
            "from airflow_datakit import DatakitOperator, bronze_asset, dags_from_warehouses, ingest_slices\n"
            f"with DAG({name!r}, **{arguments!r}):\n{textwrap.indent(body, '    ')}"
        )
        return self.file(text, name)[name]

    def run(self, body: str, **arguments: Any) -> dict[str, Any]:
        """Run a DAG to its end, in this process; return its task instances by task."""
        run = self.dag(body, **arguments).test()
        return {task.task_id: task for task in run.get_task_instances()}

    def run_elsewhere(self, body: str) -> subprocess.Popen[str]:
        """Run a DAG in a process of its own, with its log on stdout."""
        self.dag(body)
        program = (
            "from airflow import settings; from airflow.dag_processing.dagbag import DagBag; import sys\n"
            f"DagBag({str(self.dags)!r}).dags['example'].test()"
        )
        return subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def file(self, text: str, name: str = "example") -> dict[str, DAG]:
        """Write a DAG file and return its DAGs by id."""
        from airflow.dag_processing.dagbag import DagBag

        (self.dags / f"{name}.py").write_text(text)
        bag = DagBag(self.dags, safe_mode=True)
        assert bag.import_errors == {}, "".join(bag.import_errors.values())
        return dict(bag.dags)


def told_to_end_at(monkeypatch: pytest.MonkeyPatch, operator: type[Any], step: str) -> None:
    """Let Airflow tell a task to end when it comes to this step of the operator."""
    real = getattr(operator, step)

    def told(self: Any) -> Any:
        self.on_kill()
        return real(self)

    monkeypatch.setattr(operator, step, told)


IMPROPER_REPORTS = [
    ("pass", "ended well, but the datakit left no run report"),
    ('pathlib.Path(os.environ["DATAKIT_REPORT"]).write_text("{")', "the run report is not JSON"),
    ('pathlib.Path(os.environ["DATAKIT_REPORT"]).write_text("[]")', "no JSON object with a status"),
    ('report(more="x" * (1 << 20))', "more than the 1,048,576 that are taken"),
]
"""What a datakit may do instead of leaving a run report, and what the task's log says of it."""


def fails_with(
    house: House, words: str, capfd: pytest.CaptureFixture[str], tries: int = 1, warehouse: str = "finance"
) -> str:
    """Run a task with one retry; it fails, says these words and a next step. Return what was printed."""
    task = house.run(RETRIED.replace("finance", warehouse))["ingest"]
    output = capfd.readouterr().out
    assert (task.state, task.try_number) == ("failed", tries), output
    assert words in output
    assert "Next step: " in output
    return output
