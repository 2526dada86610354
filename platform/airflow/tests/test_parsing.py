"""What is wrong with a DAG is said when it is parsed, with the nearest name; nothing is guessed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from airflow_datakit import DatakitOperator, bronze_asset
from datakit.errors import ConfigurationError, UnknownName

from .house import INGEST, House

DIGEST = "sha256:" + "ab" * 32
FLIGHTS = {"datakit": "sqlserver-bronze", "dataset": "airline.flights", "warehouse": "finance"}


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ({"datakit": "sqlserver-bronz"}, "sqlserver-bronze"),
        ({"dataset": "airline.flight"}, "airline.flights"),
        ({"warehouse": "finances"}, "finance"),
        ({"version": "0.1.1"}, "0.1.0"),
        ({"resource_class": "larg"}, "large"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(house: House, wrong: dict[str, str], nearest: str) -> None:
    with pytest.raises(UnknownName, match=f"did you mean '{nearest}'"):
        DatakitOperator.create("ingest", **{**FLIGHTS, **wrong})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dataset": "airline.weather", "warehouse": "marketing"}, "does not take airline.weather"),
        ({"dataset": "airline.weather", "warehouse": "marketing"}, "add it to datasets in an entry of ingest"),
        ({"datakit": "airline-source"}, "name a bronze datakit that includes it: sqlserver-bronze"),
        ({"version": "9.0.0"}, "or pin it: datakit lock test sqlserver-bronze@9.0.0"),
        ({"dataset": None}, "dataset is None, which is no text"),
        ({"version": 1}, 'write a name in quotes, such as version="1.2.3"'),
    ],
)
def test_a_name_that_cannot_be_says_the_next_step(house: House, wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        DatakitOperator.create("ingest", **{**FLIGHTS, **wrong})
    assert words in str(caught.value)


def test_an_unknown_environment_is_an_error_with_the_nearest_one(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAKIT_ENVIRONMENT", "tset")
    with pytest.raises(UnknownName, match="did you mean 'test'"):
        DatakitOperator.create("ingest", **FLIGHTS)


def test_without_an_environment_the_error_lists_where_it_was_looked_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATAKIT_ENVIRONMENT")
    monkeypatch.setenv("DATAKIT_ENVIROMENT", "test")
    with pytest.raises(ConfigurationError) as caught:
        DatakitOperator.create("ingest", **FLIGHTS)
    message = str(caught.value)
    for place in ("DATAKIT_ENVIRONMENT", "[datakit]", "airflow.cfg", "set is DATAKIT_ENVIROMENT", "environments: test"):
        assert place in message or place.replace("environments: ", "") in message


def test_the_environment_may_be_airflows_option_and_the_variable_wins(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.environment("other", runtime="docker", registry="registry.corp.example")
    monkeypatch.setenv("AIRFLOW__DATAKIT__ENVIRONMENT", "other")
    assert DatakitOperator.create("ingest", **FLIGHTS).request["environment"] == "test"
    monkeypatch.delenv("DATAKIT_ENVIRONMENT")
    assert DatakitOperator.create("ingest", **FLIGHTS).request["environment"] == "other"


def test_the_tree_may_be_airflows_option_or_stand_above_the_dags(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAKIT_HOME")
    with pytest.raises(ConfigurationError, match="no tree of datakits and warehouses") as caught:
        DatakitOperator.create("ingest", **FLIGHTS)
    assert "DATAKIT_HOME" in str(caught.value)
    monkeypatch.setenv("AIRFLOW__DATAKIT__HOME", str(house.root))
    assert DatakitOperator.create("ingest", **FLIGHTS).spec.home == house.root
    monkeypatch.delenv("AIRFLOW__DATAKIT__HOME")
    (house.root / "dags").mkdir()
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(house.root / "dags"))
    from airflow_datakit import _tree

    _tree._project.cache_clear()
    assert DatakitOperator.create("ingest", **FLIGHTS).spec.home == house.root


def test_a_frozen_environment_wants_a_digest(house: House) -> None:
    house.environment(runtime="docker", registry="registry.corp.example", frozen=True)
    with pytest.raises(ConfigurationError, match="nothing pins a digest"):
        DatakitOperator.create("ingest", **FLIGHTS)


def test_an_argument_of_one_runtime_is_refused_in_every_environment(house: House) -> None:
    with pytest.raises(ConfigurationError, match="no argument 'image'"):
        DatakitOperator.create("ingest", **FLIGHTS, image="evil:latest")
    with pytest.raises(ConfigurationError, match="did you mean 'retries'"):
        DatakitOperator.create("ingest", **FLIGHTS, retrys=3)
    with pytest.raises(ConfigurationError, match="no argument 'mounts'"):
        DatakitOperator.partial("ingest", **FLIGHTS, mounts=[])


def test_a_slice_that_is_none_is_refused_and_a_template_is_not(house: House) -> None:
    with pytest.raises(ConfigurationError, match="5/4"):
        DatakitOperator.create("ingest", **FLIGHTS, slice="5/4")
    task = DatakitOperator.create("ingest", **FLIGHTS, slice="{{ params.slice }}", full="{{ params.full }}")
    assert task.request["slice"] == "{{ params.slice }}"


def test_a_name_that_is_a_template_is_refused(house: House) -> None:
    with pytest.raises(ConfigurationError, match="has to be known when the DAG is parsed"):
        DatakitOperator.create("ingest", **{**FLIGHTS, "dataset": "{{ params.dataset }}"})


def test_what_a_partial_maps_over_is_looked_up_too(house: House) -> None:
    partial = {"datakit": "sqlserver-bronze", "dataset": "airline.flights"}
    with pytest.raises(UnknownName, match="did you mean 'marketing'"):
        DatakitOperator.partial("ingest", **partial).expand(warehouse=["finance", "marketin"])
    with pytest.raises(UnknownName, match="did you mean 'finance'"):
        DatakitOperator.partial("ingest", **partial).expand_kwargs([{"warehouse": "finanse"}])
    with pytest.raises(UnknownName, match=r"did you mean 'airline\.flights'"):
        DatakitOperator.partial("ingest", **{**partial, "dataset": "airline.fligths"}, warehouse="finance")
    with pytest.raises(ConfigurationError, match=r"'marketing' does not take airline\.planes"):
        DatakitOperator.partial("ingest", datakit="sqlserver-bronze").expand(
            dataset=["airline.flights", "airline.planes"], warehouse=["finance", "marketing"]
        )


def test_the_operator_is_never_a_task_itself(house: House) -> None:
    with pytest.raises(TypeError, match=r"call DatakitOperator\.create"):
        DatakitOperator("ingest", **FLIGHTS)


def test_airflows_resources_are_not_the_class_of_resources(house: House) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'resource_class'"):
        DatakitOperator.create("ingest", resources="small", **FLIGHTS)


def test_every_argument_of_an_operator_passes_through(house: House) -> None:
    dag = house.dag(
        "from airflow.sdk import Asset\n"
        "first = DatakitOperator.create('first', datakit='sqlserver-bronze', dataset='airline.planes',"
        " warehouse='finance')\n"
        "second = DatakitOperator.create('second', datakit='sqlserver-bronze', dataset='airline.flights',"
        " warehouse='finance', retries=7, pool='sources', pool_slots=2, trigger_rule='all_done', priority_weight=3,"
        " outlets=[Asset('mine')], execution_timeout=timedelta(minutes=5), queue='slow', doc_md='why')\n"
        "first >> second\n",
        default_args={"owner": "data", "retries": 3},
    )
    first, second = dag.get_task("first"), dag.get_task("second")
    assert (first.retries, first.owner, second.retries, second.owner) == (3, "data", 7, "data")
    assert (second.pool, second.pool_slots, second.trigger_rule, second.queue) == ("sources", 2, "all_done", "slow")
    assert second.upstream_task_ids == {"first"}
    assert [outlet.name for outlet in second.outlets] == ["mine", "finance.bronze_airline.flights"]


def test_a_table_is_an_asset_that_another_dag_is_scheduled_on(house: House) -> None:
    asset = bronze_asset("airline.flights", "finance")
    assert asset == DatakitOperator.create("ingest", **FLIGHTS).outlets[0]
    assert (asset.name, asset.uri) == ("finance.bronze_airline.flights", "datakit://finance/bronze_airline.flights")
    dag = house.file(
        "from airflow.sdk import DAG, task\nfrom airflow_datakit import bronze_asset\n"
        "with DAG('report', schedule=[bronze_asset('airline.flights', 'finance')]):\n"
        "    task(task_id='count')(lambda: None)()\n"
    )["report"]
    assert dag.timetable.asset_condition is not None


def test_an_asset_may_be_of_a_tree_that_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAKIT_HOME")
    task = DatakitOperator.create("ingest", **FLIGHTS, home=str(house.root))
    assert [bronze_asset("airline.flights", "finance", home=home) for home in (house.root, str(house.root))] == [
        task.outlets[0]
    ] * 2


def test_only_whole_loads_and_commits_update_the_asset(house: House) -> None:
    outlets = {
        step: len(DatakitOperator.create(f"step{number}", **FLIGHTS, slice=step).outlets)
        for number, step in enumerate((None, "plan", "1/2", "commit"))
    }
    assert outlets == {None: 1, "plan": 0, "1/2": 0, "commit": 1}


def test_of_mapped_tasks_only_those_that_cannot_be_slices_update_the_asset(house: House) -> None:
    dag = house.dag(
        "from airflow.sdk import task\n"
        "some = task(task_id='some')(lambda: [])\n"
        "names = dict(datakit='sqlserver-bronze', dataset='airline.flights', warehouse='finance')\n"
        "def mapped(name, **more):\n"
        "    return DatakitOperator.partial(name, **names, **more)\n"
        "mapped('whole').expand(parallel=[1, 2])\n"
        "mapped('whole_kwargs').expand_kwargs([{'parallel': 1}, {'parallel': 2}])\n"
        "mapped('commit', slice='commit').expand(parallel=[1, 2])\n"
        "mapped('one_slice', slice='1/2').expand(parallel=[1, 2])\n"
        "mapped('template', slice='{{ params.slice }}').expand(parallel=[1, 2])\n"
        "mapped('slices').expand(slice=['1/2', '2/2'])\n"
        "mapped('slices_kwargs').expand_kwargs([{'parallel': 1}, {'slice': '2/2'}])\n"
        "mapped('slices_later').expand(slice=some())\n"
        "mapped('kwargs_later').expand_kwargs(some())\n"
        "mapped('some_kwargs_later').expand_kwargs([{'parallel': 1}, some()])\n"
    )
    with_outlet = {task.task_id for task in dag.tasks if task.outlets}
    assert with_outlet == {"whole", "whole_kwargs", "commit"}


def test_a_dag_survives_airflows_serialisation(house: House) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = house.dag(
        INGEST + "DatakitOperator.partial('many', datakit='sqlserver-bronze', dataset='airline.airports')"
        ".expand(warehouse=['finance', 'marketing'])\n"
    )
    text = json.dumps(DagSerialization.to_dict(dag))
    back = DagSerialization.from_dict(json.loads(text))
    assert set(back.task_ids) == {"ingest", "many"}
    assert "db.corp.example" not in text  # where things are stays where the DAG is parsed


HEAVY = ("pyarrow", "duckdb", "docker", "kubernetes", "kubernetes_asyncio", "mssql_python", "psycopg", "openlineage")


def test_parsing_a_dag_imports_nothing_heavy_and_no_other_runtime(house: House) -> None:
    house.dag(INGEST)
    program = (
        "import runpy, sys, json\n"
        f"runpy.run_path({str(house.dags / 'example.py')!r})\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
        "print(json.dumps([name for name in sys.modules if name.startswith('airflow_datakit.runtimes.')]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    heavy, runtimes = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert heavy == []
    assert {name.rpartition(".")[2] for name in runtimes} == {"process", "_launch", "_lines", "_places"}


def test_a_runtime_that_is_not_installed_names_the_extra(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.environment(runtime="docker", registry="registry.corp.example")
    monkeypatch.setitem(sys.modules, "airflow_datakit.runtimes.docker", None)
    with pytest.raises(ConfigurationError, match=r"airflow-provider-datakit\[docker\]"):
        DatakitOperator.create("ingest", **FLIGHTS)


def test_a_mistake_in_a_dag_file_is_its_import_error(house: House) -> None:
    from airflow.dag_processing.dagbag import DagBag

    (house.dags / "wrong.py").write_text(
        "from airflow.sdk import DAG\nfrom airflow_datakit import DatakitOperator\nwith DAG('wrong'):\n    "
        + INGEST.replace("finance", "finanse")
    )
    [message] = DagBag(house.dags).import_errors.values()
    assert "did you mean 'finance'?" in message
    assert "In the task: ingest" in message
    assert 'wrong.py", line 4, in <module>' in message
    assert "specification.py" not in message


@pytest.mark.parametrize(
    "made",
    [
        "DatakitOperator.partial('mapped', datakit='nothing', dataset='airline.flights', warehouse='finance')",
        "DatakitOperator.partial('mapped', datakit='sqlserver-bronze', warehouse='finance').expand(dataset=['a.b'])",
        (
            "DatakitOperator.partial('mapped', datakit='sqlserver-bronze').expand_kwargs("
            "[{'dataset': 'a.b', 'warehouse': 'finance'}])"
        ),
    ],
)
def test_a_mistake_in_a_mapped_task_names_it_too(house: House, made: str) -> None:
    from airflow.dag_processing.dagbag import DagBag

    (house.dags / "wrong.py").write_text(
        f"from airflow.sdk import DAG\nfrom airflow_datakit import DatakitOperator\nwith DAG('wrong'):\n    {made}\n"
    )
    [message] = DagBag(house.dags).import_errors.values()
    assert "In the task: mapped" in message
    assert 'wrong.py", line 4, in <module>' in message
