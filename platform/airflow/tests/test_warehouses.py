"""DAGs from warehouse.yaml, with one line in a DAG file."""

from __future__ import annotations

from itertools import product

import pytest
from airflow_datakit import dags_from_warehouses
from airflow_datakit.warehouses import _slug
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


def test_a_mistake_in_one_warehouse_is_no_error_of_another_that_is_named(house: House) -> None:
    house.put("warehouses/marketing/warehouse.yaml", "name: marketing\ntipe: duckdb\n")
    assert set(dags_from_warehouses(warehouses=["finance"])) == {"finance_hourly", "finance_daily"}
    for wanted in (None, ["marketing"], ["finance", "marketing"]):
        with pytest.raises(InvalidFile, match="tipe"):
            dags_from_warehouses(warehouses=wanted)


def schedules(house: House, first: str, second: str) -> dict[str, str | None]:
    file = house.root / "warehouses/marketing/warehouse.yaml"
    file.write_text(file.read_text().replace('"@daily"', f'"{first}"').replace('"@weekly"', f'"{second}"'))
    return {name: dag.schedule for name, dag in dags_from_warehouses(warehouses=["marketing"]).items()}


@pytest.mark.parametrize(
    ("first", "second", "ids"),
    [
        ("0 6 * * 1-5", "0 6 * * 1,5", ("0_6_x_x_1to5", "0_6_x_x_1and5")),
        ("0/5 6 * * *", "0,5 6 * * *", ("0per5_6_x_x_x", "0and5_6_x_x_x")),
        ("0 */2 * * *", "0 6 * * FRI#1", ("0_x_2_x_x_x", "0_6_x_x_FRInth1")),
        ("*/5 6 * * 1", "* 5 6 * */1", ("x_5_6_x_x_1", "x_5_6_x_xper1")),
        ("*/5 6 * * 1", "* 5 6 * * 1", ("x_5_6_x_x_1", "x__5__6__x__x__1")),
    ],
)
def test_two_cron_expressions_are_two_dags(house: House, first: str, second: str, ids: tuple[str, str]) -> None:
    assert schedules(house, first, second) == {f"marketing_{ids[0]}": first, f"marketing_{ids[1]}": second}


def test_no_two_cron_expressions_have_one_id() -> None:
    fields = ("*", "1", "5", "*/5", "1-5", "1,*/5", "1/5")
    expressions = [" ".join(chosen) for count in (5, 6) for chosen in product(fields, repeat=count)]
    assert len({_slug(expression) for expression in expressions}) == len(expressions)


def test_schedules_that_differ_in_white_space_are_one(house: House) -> None:
    assert schedules(house, "0 6 * * *", " 0  6 * * * ") == {"marketing_0_6_x_x_x": "0 6 * * *"}
    [dag] = dags_from_warehouses(warehouses=["marketing"]).values()
    assert sorted(dag.task_ids) == ["airline.airlines", "airline.airports", "airline.flights"]


def test_every_dag_has_the_tags_of_an_iterator(house: House) -> None:
    dags = dags_from_warehouses(warehouses=iter(["finance"]), tags=iter(["nightly"]))
    assert [dag.tags for dag in dags.values()] == [{"datakit", "finance", "nightly"}] * 2


@pytest.mark.parametrize("argument", ["warehouses", "tags"])
def test_a_text_is_no_list_of_names(house: House, argument: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        dags_from_warehouses(**{argument: "finance"})
    assert f"{argument} is the text 'finance'" in str(caught.value)
    assert f'{argument}=["finance"]' in str(caught.value)
