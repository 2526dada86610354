"""A pin runs when the Airflow image that holds it is deployed, and not before: ``status`` and ``drift`` know."""

from __future__ import annotations

from typing import Any

import pytest

DEPLOYED = "deploy/airflow/int/kustomization.yaml"


@pytest.fixture
def deployed(airflow_tree: Any, datakit: Any) -> Any:
    """The tree whose int runs the Airflow of its last commit."""
    datakit("airflow", "push")
    datakit("airflow", "deploy", "int")
    return airflow_tree


def rows(datakit: Any, *environments: str) -> dict[tuple[str, str], dict[str, Any]]:
    said = datakit("status", *environments, "--json").json["rows"]
    return {(row["environment"], f"{row['warehouse']}/{row['datakit']}"): row for row in said}


def kinds(datakit: Any, *arguments: str, code: int) -> set[str]:
    return {each["kind"] for each in datakit("drift", *arguments, "--json", code=code).json["drift"]}


def test_what_is_deployed_is_told_from_what_is_only_pinned(deployed: Any, datakit: Any) -> None:
    assert {True} == {row["is_deployed"] for row in rows(datakit, "int").values()}
    assert set() == kinds(datakit, "int", code=0)
    datakit("lock", "int", "finance/sqlserver-bronze@1.1.0")
    row = rows(datakit, "int")["int", "finance/sqlserver-bronze"]
    assert ("1.1.0", "1.0.0", False) == (row["version"], row["deployed"]["version"], row["is_deployed"])
    assert rows(datakit, "int")["int", "marketing/sqlserver-bronze"]["is_deployed"] is True
    assert "1.0.0 runs: not deployed yet" in datakit("status", "int").out
    assert {"not-deployed"} == kinds(datakit, "int", code=78)
    answer = datakit("drift", "int", code=78)
    assert "finance/sqlserver-bronze" in answer.out
    assert "pins 1.0.0, and the lock pins 1.1.0" in answer.out
    assert "datakit airflow push; then datakit airflow deploy int" in answer.out
    datakit("airflow", "push")
    datakit("airflow", "deploy", "int")
    assert {True} == {row["is_deployed"] for row in rows(datakit, "int").values()}
    assert set() == kinds(datakit, "int", code=0)


def test_what_was_never_pinned_in_the_deployed_image_is_not_deployed_yet(deployed: Any, datakit: Any) -> None:
    text = (deployed.root / "warehouses/marketing/warehouse.yaml").read_text()
    deployed.write("warehouses/marketing/warehouse.yaml", text.replace("sqlserver-bronze", "other-bronze"))
    deployed.commit()
    datakit("lock", "int", "marketing/other-bronze")
    row = rows(datakit, "int")["int", "marketing/other-bronze"]
    assert (None, False) == (row["deployed"], row["is_deployed"])
    assert ", not deployed yet" in datakit("status", "int").out


def test_who_is_deployed_otherwise_or_not_at_all_is_not_judged(deployed: Any, datakit: Any) -> None:
    found = rows(datakit, "qa", "prod")
    assert {None} == {row["is_deployed"] for row in found.values()}
    assert "not deployed" not in datakit("status", "qa", "prod").out


def test_offline_nothing_is_said_of_it(deployed: Any, datakit: Any) -> None:
    datakit("lock", "int", "finance/sqlserver-bronze@1.1.0")
    assert "not deployed" not in datakit("status", "int", "--offline").out
    assert set() == kinds(datakit, "int", "--offline", code=0)


def test_an_image_that_cannot_be_looked_into_is_a_note(deployed: Any, datakit: Any) -> None:
    file = deployed.root / DEPLOYED
    good = file.read_text()
    digest = good.partition("digest: ")[2].strip()
    file.write_text(good.replace(digest, f"sha256:{'0' * 64}"))
    assert "int: which Airflow runs is not known: there is no Airflow image" in datakit("status", "int").out
    file.write_text(good.replace("/platform/airflow-deployment", "/platform/other"))
    assert "is none that datakit airflow push has made" in datakit("status", "int").out
    file.unlink()
    assert "int: which Airflow runs is not known: the file that says" in datakit("status", "int").out
    assert "" == datakit("status", "int").err
