"""The whole way of a datakit, with real releases: from an empty registry to a rollback, and the story of a run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from datakit.model.project import Project
from datakit.model.specification import specify
from datakit.release.registry import open_registry
from datakit.testing.images import push_base_image

from .conftest import BRONZE, ENVIRONMENT, INGEST, WAREHOUSE, Tree, moment
from .test_insight import kinds, report

SOURCE = """\
kind: source
name: airline-source
version: {version}
system: sqlserver
connection: airline
datasets:
  flights: {{table: ops.Flights, key: [FlightID]}}
"""
CONTRACT = """\
dataset: airline.flights
key: [FlightID]
columns:
  - {name: FlightID, type: int32, nullable: false}
  - {name: Delay, type: int32}
"""
GATE = "  - {name: Gate, type: string}\n"


class Flow:
    """A tree whose two datakits are released together."""

    def __init__(self, tree: Tree, datakit: Any) -> None:
        self.tree, self.datakit = tree, datakit

    def release(self, version: str, contract: str, *, code: int = 0) -> Any:
        """Commit that version and contract of the source datakit and release it, and the bronze datakit likewise."""
        self.tree.write("datakits/airline-source/datakit.yaml", SOURCE.format(version=version))
        self.tree.write("datakits/airline-source/contracts/flights.yaml", contract)
        bronze = BRONZE.format(name="sqlserver-bronze").replace("0.9.0", version)
        self.tree.write("datakits/sqlserver-bronze/datakit.yaml", bronze)
        self.tree.commit(f"Flights, version {version}")
        answer = self.datakit("release", "airline-source", code=code)
        return self.datakit("release", "sqlserver-bronze") if code == 0 else answer

    def image(self, environment: str) -> str:
        """Return what the next DAG run takes."""
        spec = specify(
            Project(self.tree.root),
            environment,
            datakit="sqlserver-bronze",
            dataset="airline.flights",
            warehouse="finance",
        )
        assert spec.image is not None
        return spec.image


def test_a_datakit_goes_from_an_empty_registry_to_production_and_back(
    tmp_path: Path, registry_server: Any, datakit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"{registry_server.host}/flow"
    registry = open_registry(where)
    push_base_image(registry)
    tree = Tree(tmp_path / "tree")
    flights = INGEST.format(kit="sqlserver-bronze", dataset="flights")
    tree.write("warehouses/finance/warehouse.yaml", WAREHOUSE.format(name="finance", type="postgres") + flights)
    for name in ("int", "qa", "prod"):
        text = ENVIRONMENT.format(name=name, registry=where, frozen=str(name == "prod").lower())
        tree.write(f"warehouses/environments/{name}.yaml", text)
    for name in ("airline-source", "sqlserver-bronze"):
        tree.write(f"datakits/{name}/tests/test_datakit.py", "def test_it() -> None: ...\n")
    tree.git("init", "--quiet")
    monkeypatch.chdir(tree.root)
    flow = Flow(tree, datakit)

    # a release, pinned and promoted
    flow.release("1.0.0", CONTRACT)
    datakit("lock", "int", "sqlserver-bronze@^1", "--why", "the first one")
    datakit("promote", "int", "qa")
    datakit("promote", "qa", "prod")
    first = flow.image("prod")
    assert f"{where}/datakits/sqlserver-bronze@{registry.resolve('datakits/sqlserver-bronze', 'v1.0.0')}" == first

    # a new column is no patch
    assert "1.1.0" in flow.release("1.0.1", CONTRACT + GATE, code=78).err
    flow.release("1.1.0", CONTRACT + GATE)
    datakit("lock", "int")
    rows = {row["environment"]: (row["version"], row["behind_by"]) for row in datakit("status", "--json").json["rows"]}
    assert {"int": ("1.1.0", 0), "qa": ("1.0.0", 1), "prod": ("1.0.0", 1)} == rows
    (change,) = datakit("diff", "int", "prod", "--json").json["differences"]
    assert ("1.1.0", "1.0.0") == (change["before"]["version"], change["after"]["version"])
    assert first == flow.image("prod")  # nothing but a commit of its own lock changes an environment

    # a break is no minor release, and a range keeps it out
    assert "2.0.0" in flow.release("1.2.0", CONTRACT.replace("Delay", "Late"), code=78).err
    flow.release("2.0.0", CONTRACT.replace("Delay", "Late"))
    assert "nothing to change" in datakit("lock", "int").out

    # production, and back
    datakit("promote", "int", "prod", "--why", "gates")
    second = flow.image("prod")
    assert first != second
    datakit("rollback", "prod", "--why", "gates are wrong")
    assert first == flow.image("prod")
    assert ["rollback", "promote", "promote"] == [
        each["action"] for each in datakit("history", "prod", "--json").json["changes"]
    ]

    # what ran, and how it came about
    folder = tmp_path / "reports"
    report(folder, run_id="finance/1", datakit="sqlserver-bronze@1.0.0", started_at=moment() + timedelta(seconds=9))
    (run,) = datakit("audit", "bronze.flights", "--reports", str(folder), "--json").json["runs"]
    assert first.endswith(run["digest"])
    assert ["tickets"] == [each["kind"] for each in run["missing"]]
    told = {each["kind"]: each["what"] for each in run["timeline"]}
    assert "Flights, version 1.0.0 (Ann <ann@corp.example>)" == told["commit"]
    assert "sqlserver-bronze 1.0.0 was released by" in told["release"]
    assert "rollback: finance/sqlserver-bronze 1.0.0 in prod" in told["lock"]
    assert [] == kinds(datakit("drift", "--reports", str(folder), "--json"))

    # a tag that somebody moves, and a lock that somebody edits
    data = registry.manifest_bytes("datakits/sqlserver-bronze", second.rpartition("@")[2])
    registry.push_manifest("datakits/sqlserver-bronze", data, tag="v1.0.0")
    assert {"moved-tag"} == set(kinds(datakit("drift", "prod", "--json", code=78)))
    assert first == flow.image("prod")
    tree.edit("int", "version: 1.1.0", "version: 2.0.0")
    tree.commit("Quick fix")
    assert {"moved-tag", "edited", "not-by-command"} == set(kinds(datakit("drift", "int", "--json", code=78)))
    assert "was edited by hand" in datakit("promote", "int", "prod", code=78).err
