"""DAGs from warehouse.yaml, with one line in a DAG file."""

from __future__ import annotations

import pytest
from airflow_datakit import dags_from_warehouses
from datakit.errors import ConfigurationError, InvalidFile

from .house import House

LINE = "from airflow_datakit import dags_from_warehouses\n\nglobals().update(dags_from_warehouses())  # airflow: dag\n"


def test_a_warehouse_has_a_dag_for_each_schedule_and_a_task_for_each_dataset(house: House) -> None:
    dags = house.file(LINE)
    assert {name: sorted(dag.task_ids) for name, dag in dags.items()} == {
        "finance_hourly": ["airline.flights", "airline.planes", "airline.weather"],
        "finance_daily": ["airline.airlines", "airline.airports"],
        "marketing_daily": ["airline.flights"],
        "marketing_weekly": ["airline.airlines", "airline.airports"],
    }
    hourly = dags["finance_hourly"]
    assert hourly.schedule == "@hourly"
    assert hourly.tags == {"datakit", "finance"}
    assert (hourly.catchup, hourly.max_active_runs) == (False, 1)


def test_a_cron_expression_and_no_schedule_have_ids_too(house: House) -> None:
    file = house.root / "warehouses/marketing/warehouse.yaml"
    file.write_text(file.read_text().replace('"@daily"', '"*/5 6 * * 1"').replace('    schedule: "@weekly"\n', ""))
    dags = dags_from_warehouses(warehouses=["marketing"])
    assert {name: dag.schedule for name, dag in dags.items()} == {
        "marketing_x_5_6_x_x_1": "*/5 6 * * 1",
        "marketing_by_hand": None,
    }


def test_arguments_reach_the_dags(house: House) -> None:
    dags = dags_from_warehouses(warehouses=["finance"], tags=["nightly"], default_args={"retries": 5}, catchup=True)
    dag = dags["finance_daily"]
    assert dag.get_task("airline.airports").retries == 5
    assert dag.catchup
    assert "nightly" in dag.tags


def test_a_tree_may_be_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAKIT_HOME")
    dags = dags_from_warehouses(house.root)
    assert dags["finance_daily"].get_task("airline.airports").spec.home == house.root


def test_a_warehouse_that_the_environment_has_no_connection_for_has_no_dag_there(house: House) -> None:
    house.environment(warehouses={"finance-db": {"host": "localhost", "database": "finance", "user": "finance"}})
    assert {name.partition("_")[0] for name in dags_from_warehouses()} == {"finance"}
    with pytest.raises(ConfigurationError, match="'marketing-db'"):  # who names it wants it
        dags_from_warehouses(warehouses=["marketing"])


def test_an_environment_without_a_warehouse_is_an_error_and_not_an_empty_airflow(house: House) -> None:
    house.environment(warehouses={})
    with pytest.raises(ConfigurationError, match="no warehouse of the tree is in the environment") as caught:
        dags_from_warehouses()
    assert "finance-db, marketing-db" in str(caught.value)


def test_a_broken_file_is_an_error_and_no_dag_disappears_in_silence(house: House) -> None:
    house.put("warehouses/broken/warehouse.yaml", "name: broken\ntipe: postgres\n")
    with pytest.raises(InvalidFile, match="tipe"):
        dags_from_warehouses()


def test_two_schedules_of_one_id_are_refused(house: House) -> None:
    file = house.root / "warehouses/marketing/warehouse.yaml"
    file.write_text(file.read_text().replace('"@daily"', '"0 6 * * *"').replace('"@weekly"', '"0  6 * * *"'))
    with pytest.raises(ConfigurationError, match="would be one DAG"):
        dags_from_warehouses()
