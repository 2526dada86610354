"""Warehouses and environments in Git, a real registry with releases in it, and the command called in this process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from datakit import __version__
from datakit.cli import main
from datakit.release import registry as registries
from datakit.release._annotations import (
    BASE_DIGEST,
    BASE_NAME,
    CONTRACT,
    CREATED,
    INCLUDES,
    KIND,
    REVISION,
    TITLE,
    VERSION,
)
from datakit.release._media import CONFIG, LAYER, MANIFEST, descriptor, digest_of, encoded
from datakit.release.registry import Registry, open_registry
from datakit.testing.images import push_base_image
from datakit_lab.registry import Registry as LabRegistry

BRONZE = "kind: bronze\nname: {name}\nversion: 0.9.0\nsystem: sqlserver\nsources:\n  - datakit: airline-source\n"
SOURCE = """\
kind: source
name: airline-source
version: 0.9.0
system: sqlserver
connection: airline
datasets:
  flights: {table: flights, key: [FlightID]}
  planes: {table: planes, key: [TailNumber]}
"""
WAREHOUSE = """\
name: {name}
type: {type}
connection: {name}-db
schema: bronze
ingest:
"""
INGEST = "  - datakit: {kit}\n    datasets: [airline.{dataset}]\n"
ENVIRONMENT = """\
name: {name}
runtime: docker
registry: {registry}
frozen: {frozen}
sources:
  airline: {{host: sql.corp.example, database: Airline, principal: svc-airline@CORP.EXAMPLE}}
warehouses:
  finance-db: {{host: db.corp.example, database: finance, user: finance, password: finance-db/password}}
  marketing-db: {{path: marketing.duckdb}}
"""


@dataclass(frozen=True)
class Answer:
    """What the command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Releases:
    """A path of its own in a real registry, and what was released to it."""

    reference: str
    client: Registry
    digests: dict[str, str] = field(default_factory=dict)

    def publish(
        self, name: str, version: str, *, contract: str = "a", revision: str = "f" * 40, tag: str | None = None
    ) -> str:
        """Put there what ``datakit release`` would, as far as a lock can tell; return its digest."""
        repository = f"datakits/{name}"
        config, layer = encoded({"of": f"{name} {version} {tag}"}), b"files"
        for blob in (config, layer):
            self.client.push_blob(repository, digest_of(blob), blob, len(blob))
        said = {
            KIND: "bronze",
            TITLE: name,
            VERSION: version,
            REVISION: revision,
            CREATED: "2026-03-01T09:00:00+00:00",
            CONTRACT: f"sha256:{contract * 64}",
            INCLUDES: json.dumps([{"name": "airline-source", "version": "1.0.0", "digest": f"sha256:{'d' * 64}"}]),
            BASE_NAME: "base",
            BASE_DIGEST: f"sha256:{'b' * 64}",
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config),
            "layers": [descriptor(LAYER, layer)],
            "annotations": said,
        }
        digest = self.client.push_manifest(repository, encoded(manifest), tag=tag or f"v{version}")
        self.digests.setdefault(f"{name}@{version}", digest)
        return digest

    def move_tag(self, name: str, version: str) -> str:
        """Push another image under the tag of a release; return its digest."""
        old = self.digests[f"{name}@{version}"]
        config = encoded({"moved": True})
        manifest = json.loads(self.client.manifest_bytes(f"datakits/{name}", old))
        self.client.push_blob(f"datakits/{name}", digest_of(config), config, len(config))
        manifest["config"] = descriptor(CONFIG, config)
        return self.client.push_manifest(f"datakits/{name}", encoded(manifest), tag=f"v{version}")

    def delete(self, name: str, digest: str) -> None:
        """Delete a manifest, as a clean-up does."""
        import urllib.request

        host, _, path = self.reference.partition("/")
        url = f"http://{host}/v2/{path}/datakits/{name}/manifests/{digest}"
        urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


@dataclass(frozen=True)
class Tree:
    """A tree in Git, whose moments go by a minute for each commit of ours."""

    root: Path

    def path(self, environment: str) -> Path:
        return self.root / f"warehouses/environments/{environment}.lock.yaml"

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def edit(self, environment: str, old: str, new: str) -> None:
        text = self.path(environment).read_text()
        assert old in text
        self.path(environment).write_text(text.replace(old, new))

    def git(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or not check, done.stderr + done.stdout
        return done.stdout.strip()

    def commit(self, why: str = "Change it") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", why)
        return self.git("rev-parse", "HEAD")

    def count(self) -> int:
        return int(self.git("rev-list", "--count", "HEAD"))


@pytest.fixture(autouse=True)
def _a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("DATAKIT_", "GIT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "gitconfig").write_text("[user]\nname = Ann\nemail = ann@corp.example\n[init]\ndefaultBranch = main\n")


@pytest.fixture(scope="session")
def registry_server() -> Iterator[LabRegistry]:
    with LabRegistry() as server:
        yield server


@pytest.fixture
def releases(registry_server: LabRegistry, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Releases:
    """A path of this test alone, with sqlserver-bronze 1.0.0, 1.0.1 and 1.1.0 and other-bronze 2.0.0."""

    def at_once(reference: str, **more: Any) -> Registry:
        return open_registry(reference, **more, pause=lambda _: None)

    monkeypatch.setattr(registries, "open_registry", at_once)
    path = digest_of(request.node.nodeid.encode())[7:19]
    reference = f"{registry_server.host}/{path}"
    made = Releases(reference, open_registry(reference))
    made.publish("sqlserver-bronze", "1.0.0")
    made.publish("sqlserver-bronze", "1.0.1")
    made.publish("sqlserver-bronze", "1.1.0", contract="c")
    made.publish("other-bronze", "2.0.0")
    return made


@pytest.fixture
def tree(tmp_path: Path, releases: Releases, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Two warehouses, of which finance takes two datakits, in int, qa and a frozen prod; nothing is pinned."""
    tree = Tree(tmp_path / "tree")
    tree.write("datakits/airline-source/datakit.yaml", SOURCE)
    for name in ("sqlserver-bronze", "other-bronze"):
        tree.write(f"datakits/{name}/datakit.yaml", BRONZE.format(name=name))
    flights = INGEST.format(kit="sqlserver-bronze", dataset="flights")
    planes = INGEST.format(kit="other-bronze", dataset="planes")
    tree.write(
        "warehouses/finance/warehouse.yaml", WAREHOUSE.format(name="finance", type="postgres") + flights + planes
    )
    tree.write("warehouses/marketing/warehouse.yaml", WAREHOUSE.format(name="marketing", type="duckdb") + flights)
    for name in ("int", "qa", "prod"):
        text = ENVIRONMENT.format(name=name, registry=releases.reference, frozen=str(name == "prod").lower())
        tree.write(f"warehouses/environments/{name}.yaml", text)
    tree.git("init", "--quiet")
    tree.commit("Begin")
    monkeypatch.chdir(tree.root)
    return tree


Call = Callable[..., Answer]


@pytest.fixture
def datakit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command in this process, exactly as the console script does."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test runner keeps its handlers
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str, code: int = 0) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        out, err = capsys.readouterr()
        answer = Answer(int(str(ended.value.code)), out, err)
        assert code == answer.code, answer
        return answer

    return call


@pytest.fixture
def promoted(tree: Tree, datakit: Call) -> Tree:
    """The tree with int pinned at 1.0.0, promoted to qa and prod."""
    datakit("lock", "int", "sqlserver-bronze@1.0.0", "other-bronze")
    datakit("promote", "int", "qa")
    datakit("promote", "qa", "prod", "--why", "first load")
    return tree


DAG = "from airflow_datakit import dags_from_warehouses\n\nglobals().update(dags_from_warehouses())\n"
RUNTIME = {"io.astronomer.docker.runtime.version": "3.1-4", "org.opencontainers.image.title": "airflow"}
WAYS = {
    "int": "{deploy: gitops, overlay: deploy/airflow/int}",
    "qa": "{deploy: gitops, values: deploy/airflow/qa.yaml}",
    "prod": "{deploy: astro-cli, deployment: clx0int, workspace: clw0data}",
}


def push_airflow(client: Registry, tag: str = f"v{__version__}", *, labels: dict[str, str] | None = None) -> str:
    """Push a base like ``platform/airflow``; return its digest."""
    variables = ("AIRFLOW_HOME=/usr/local/airflow", "DATAKIT_HOME=/opt/datakit/tree")
    return push_base_image(client, f"platform/airflow:{tag}", variables=variables, labels=labels or RUNTIME)


@pytest.fixture
def airflow_tree(promoted: Tree, releases: Releases) -> Tree:
    """The promoted tree with a DAG file, GitOps files, and an Airflow for each environment; its base was pushed."""
    push_airflow(releases.client)
    for name, way in WAYS.items():
        path = f"warehouses/environments/{name}.yaml"
        promoted.write(path, f"{(promoted.root / path).read_text()}airflow: {way}\n")
    promoted.write("warehouses/dags/warehouses.py", DAG)
    overlay = "# Airflow of int\nkind: Kustomization\nresources: [airflow.yaml]  # rendered from the chart\n"
    promoted.write("deploy/airflow/int/kustomization.yaml", overlay)
    promoted.write("deploy/airflow/qa.yaml", "# Airflow of qa\nexecutor: KubernetesExecutor\n")
    promoted.commit("Run it in Airflow")
    return promoted


def moment() -> datetime:
    """Return now, in whole seconds, as locks have it."""
    return datetime.now(UTC).replace(microsecond=0)
