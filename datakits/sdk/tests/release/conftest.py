"""A tree of datakits in Git, a real registry with something to stand on, and the command called in this process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from datakit.cli import main
from datakit.release.registry import Registry, open_registry
from datakit.testing.images import push_base_image
from datakit_lab.registry import Registry as LabRegistry

SOURCE = """\
kind: source
name: airline-source
version: 1.0.0
system: sqlserver
connection: airline
datasets:
  flights: {table: ops.Flights, key: [FlightID]}
  planes: {table: ops.Planes, key: [TailNumber]}
"""
BRONZE = """\
kind: bronze
name: sqlserver-bronze
version: 1.0.0
system: sqlserver
sources:
  - datakit: airline-source
"""
FLIGHTS = """\
dataset: airline.flights
key: [FlightID]
columns:
  - {name: FlightID, type: int32, nullable: false}
  - {name: Delay, type: int32}
"""
PLANES = """\
dataset: airline.planes
key: [TailNumber]
columns:
  - {name: TailNumber, type: string, nullable: false}
"""
TEST = "def test_it() -> None:\n    assert True\n"
NOBODY = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}


@dataclass(frozen=True)
class Answer:
    """What the command said; ``error`` is that of ``--json``."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        return dict(json.loads(self.err)["error"])


@dataclass(frozen=True)
class Tree:
    """A tree of datakits that is a Git repository."""

    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        text = (self.root / path).read_text(encoding="utf-8")
        assert old in text
        self.write(path, text.replace(old, new))

    def git(self, *arguments: str, when: str = "2026-03-01T10:00:00+01:00") -> str:
        dates = {"GIT_AUTHOR_DATE": when, "GIT_COMMITTER_DATE": when}
        who = ["-c", "user.name=Ann", "-c", "user.email=ann@corp.example", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *who, *arguments],
            cwd=self.root,
            env=os.environ | NOBODY | dates,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, why: str = "Change it", *, when: str = "2026-03-01T10:00:00+01:00") -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", why, when=when)
        return self.git("rev-parse", "HEAD")

    def set_version(self, name: str, version: str) -> None:
        path = self.root / "datakits" / name / "datakit.yaml"
        lines = path.read_text(encoding="utf-8").splitlines()
        changed = [f"version: {version}" if line.startswith("version:") else line for line in lines]
        self.write(f"datakits/{name}/datakit.yaml", "\n".join(changed) + "\n")


def make_tree(root: Path) -> Tree:
    tree = Tree(root)
    tree.write("datakits/airline-source/datakit.yaml", SOURCE)
    tree.write("datakits/airline-source/contracts/flights.yaml", FLIGHTS)
    tree.write("datakits/airline-source/contracts/planes.yaml", PLANES)
    tree.write("datakits/airline-source/tests/test_datakit.py", TEST)
    tree.write("datakits/sqlserver-bronze/datakit.yaml", BRONZE)
    tree.write("datakits/sqlserver-bronze/tests/test_datakit.py", TEST)
    tree.git("init", "--quiet", "--initial-branch=main")
    tree.commit("Begin")
    return tree


@pytest.fixture(autouse=True)
def nothing_from_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A person's logins, registries, caches and continuous integration stay out."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("DATAKIT_", "GITHUB_", "CI_", "GIT_")) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))


@pytest.fixture(scope="module")
def lab() -> Iterator[LabRegistry]:
    """One registry for the tests of a module; each has its own path in it."""
    with LabRegistry() as server:
        yield server


@pytest.fixture(scope="module")
def released_once(lab: LabRegistry, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree whose two datakits are released as 1.0.0 below the path ``template``, by the command."""
    tree = make_tree(tmp_path_factory.mktemp("template") / "tree")
    where = f"{lab.host}/template"
    with open_registry(where) as opened:
        push_base_image(opened)
    command = [sys.executable, "-m", "datakit", "release", "--registry", where]
    for name in ("airline-source", "sqlserver-bronze"):
        done = subprocess.run([*command, name], cwd=tree.root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return tree


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """The part of the registry that no other test uses."""
    return hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]


@pytest.fixture
def address(lab: LabRegistry, path: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """This test's part of the registry, with a base image in it."""
    where = f"{lab.host}/{path}"
    monkeypatch.setenv("DATAKIT_REGISTRY", where)
    with open_registry(where) as opened:
        push_base_image(opened)
    return where


@pytest.fixture
def registry(address: str) -> Iterator[Registry]:
    with open_registry(address) as opened:
        yield opened


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = make_tree(tmp_path / "tree")
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def released(
    released_once: Tree, lab: LabRegistry, path: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Tree:
    """A copy of the tree that was released once, and of its part of the registry."""
    repositories = lab.storage / "docker/registry/v2/repositories"
    shutil.copytree(repositories / "template", repositories / path, dirs_exist_ok=True)
    shutil.copytree(released_once.root, tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree")
    return Tree(tmp_path / "tree")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run the command here, where it is quick; ``--json`` unless ``text`` is wanted."""

    def run(*arguments: str, text: bool = False) -> Answer:
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *(() if text else ("--json",))])
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return run
