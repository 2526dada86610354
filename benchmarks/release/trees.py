"""The trees that are measured: one with many pins, and one whose source datakit changes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from datakit.model.lock import Pin, lock_path
from datakit.release.locks import LockFile
from datakit.release.registry import Registry, open_registry
from datakit.testing.images import push_base_image
from datakit_lab.registry import Registry as LabRegistry

from benchmarks import ROOT

VERSIONS: Final = ("1.0.0", "1.1.0", "1.2.0")
_SOURCE: Final = (
    "kind: source\nname: airline-source\nversion: 1.0.0\nsystem: sqlserver\nconnection: airline\ndatasets:\n"
)
_TABLE: Final = "  t{number:02}: {{table: ops.T{number:02}, key: [ID]}}\n"
_BRONZE: Final = (
    "kind: bronze\nname: {name}\nversion: 1.2.0\nsystem: sqlserver\nsources:\n  - datakit: airline-source\n"
)
_WAREHOUSE: Final = "name: {name}\ntype: postgres\nconnection: {name}-db\nschema: bronze\ningest:\n"
_INGEST: Final = "  - datakit: {kit}\n    datasets: [airline.t{number:02}]\n    schedule: '@hourly'\n"
_ENVIRONMENT: Final = (
    "name: {name}\nruntime: kubernetes\nregistry: {registry}\nkubernetes: {{namespace: datakit-{name}}}\nsources:\n"
    "  airline: {{host: sql.corp.example, database: Airline, principal: svc-airline@CORP.EXAMPLE}}\nwarehouses:\n"
)
_CONNECTION: Final = (
    "  {name}-db: {{host: db.corp.example, database: dwh, user: loader, password: {name}-db/password}}\n"
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much runs where.

    :ivar environments: that each have every warehouse.
    :ivar warehouses: that each take every datakit.
    """

    datakits: int = 50
    environments: int = 4
    warehouses: int = 10

    def __str__(self) -> str:
        return f"{self.datakits} datakits in {self.warehouses} warehouses in {self.environments} environments"


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Start a registry; yield its address with a path in it."""
    with LabRegistry(folder) as server:
        yield f"{server.host}/data"


def status_tree(root: Path, address: str, size: Size) -> None:
    """Write a tree in which everything is pinned, and push three versions of each datakit."""
    kits = [f"kit-{number:02}" for number in range(size.datakits)]
    houses = [f"house-{number}" for number in range(size.warehouses)]
    _write(root / "datakits/airline-source/datakit.yaml", _SOURCE, *(_TABLE.format(number=n) for n in range(len(kits))))
    for kit in kits:
        _write(root / f"datakits/{kit}/datakit.yaml", _BRONZE.format(name=kit))
    ingest = [_INGEST.format(kit=kit, number=number) for number, kit in enumerate(kits)]
    for house in houses:
        _write(root / f"warehouses/{house}/warehouse.yaml", _WAREHOUSE.format(name=house), *ingest)
    with open_registry(address) as opened:
        digests = {kit: _publish(opened, kit) for kit in kits}
    for number in range(size.environments):
        name = f"env-{number}"
        file = root / f"warehouses/environments/{name}.yaml"
        connections = [_CONNECTION.format(name=house) for house in houses]
        _write(file, _ENVIRONMENT.format(name=name, registry=address), *connections)
        pins = {(house, kit): _pin(digests[kit]) for house in houses for kit in kits}
        lock_path(file).write_text(LockFile.read(file).with_pins(dict(pins)).text or "", encoding="utf-8")
    _git(root, "init", "--quiet")
    _commit(root, "Begin")


def _publish(opened: Registry, kit: str) -> str:
    """Push every version; return the digest of the first."""
    pushed = [push_base_image(opened, f"datakits/{kit}:v{each}", packages=((kit, each),)) for each in VERSIONS]
    return pushed[0]


def _pin(digest: str) -> Pin:
    who, when = "Ann Example <ann@corp.example>", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
    return Pin(
        version=VERSIONS[0], digest=digest, contract=digest, by=who, at=when, why="promoted from qa: quarter end"
    )


def release_tree(root: Path) -> None:
    """Write a tree of this repository's datakits, committed."""
    said = subprocess.check_output(
        ["git", "ls-files", "-z", "datakits/airline-source", "datakits/sqlserver-bronze"], cwd=ROOT
    )
    for name in filter(None, said.decode().split("\0")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((ROOT / name).read_bytes())
    _git(root, "init", "--quiet")
    _commit(root, "Begin")


def change(root: Path, number: int) -> None:
    """Change the source datakit: another file, and the next version; commit it."""
    file = root / "datakits/airline-source/datakit.yaml"
    lines = file.read_text(encoding="utf-8").splitlines()
    changed = [f"version: 1.0.{number}" if line.startswith("version:") else line for line in lines]
    _write(file, "\n".join(changed), "\n")
    _write(root / "datakits/airline-source/NOTES.md", f"Change {number}.\n")
    _commit(root, f"Change {number}")


def _write(path: Path, *parts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(parts), encoding="utf-8")


def _commit(root: Path, message: str) -> None:
    _git(root, "add", "--all")
    _git(root, "commit", "--quiet", "--message", message)


def _git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=Ann Example", "-c", "user.email=ann@corp.example", "-c", "commit.gpgsign=false"]
    no_settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", *who, *arguments], cwd=root, env=os.environ | no_settings, check=True)
