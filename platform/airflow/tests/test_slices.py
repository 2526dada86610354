"""One table by many tasks: planned, loaded slice by slice, committed once."""

from __future__ import annotations

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow_datakit import ingest_slices
from airflow_datakit.slices import slices_of
from datakit.errors import ConfigurationError

from .house import House, Lab

pytestmark = pytest.mark.usefixtures("airflow_database")

SLICED = """\
ingest_slices(
    "flights", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance", retries=1, retry_delay=0,
    parallel=4, at_once=2,
)
"""


def test_a_plan_is_written_as_the_run_protocol_writes_slices() -> None:
    assert slices_of({"status": "planned", "slices": 3}) == ["1/3", "2/3", "3/3"]


def test_what_was_committed_before_has_no_slices_and_says_what_would_load_again() -> None:
    with pytest.raises(AirflowSkipException, match="trigger a new run"):
        slices_of({"status": "already_loaded", "slices": None})


def test_a_group_is_plan_slices_load_and_commit(house: House) -> None:
    dag = house.dag(SLICED)
    assert set(dag.task_ids) == {"flights.plan", "flights.slices", "flights.load", "flights.commit"}
    assert dag.get_task("flights.commit").upstream_task_ids == {"flights.load"}
    assert dag.get_task("flights.load").upstream_task_ids == {"flights.slices"}
    assert [len(dag.get_task(f"flights.{name}").outlets) for name in ("plan", "load", "commit")] == [0, 0, 1]
    assert dag.get_task("flights.plan").request["parallel"] == 4
    assert "parallel" not in dag.get_task("flights.commit").request


def test_what_airflow_knows_of_a_task_is_so_for_every_task_of_the_group(house: House) -> None:
    more = "retries=7, queue='slow', pool='sources', resource_class='large', trigger_rule='none_failed', outlets=[]"
    dag = house.dag(SLICED.replace("retries=1", more))
    for name in ("plan", "slices", "load", "commit"):
        task = dag.get_task(f"flights.{name}")
        assert (task.retries, task.queue, task.pool) == (7, "slow", "sources"), name
    rules = {name: dag.get_task(f"flights.{name}").trigger_rule for name in ("plan", "slices", "load", "commit")}
    assert rules == {"plan": "none_failed", "slices": "all_success", "load": "all_success", "commit": "all_success"}


def test_a_slice_of_ones_own_is_refused(house: House) -> None:
    with pytest.raises(ConfigurationError, match="chooses the slices itself"):
        ingest_slices("x", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance", slice="1/2")


def test_a_table_is_loaded_by_many_tasks_and_seen_when_all_are_done(lab_house: House, lab: Lab) -> None:
    dag = lab_house.dag(SLICED)
    run = dag.test()
    tasks = run.get_task_instances()
    assert {task.state for task in tasks} == {"success"}
    loads = [task for task in tasks if task.task_id == "flights.load"]
    plan, commit = (
        next(task for task in tasks if task.task_id == f"flights.{name}").xcom_pull(task_ids=f"flights.{name}")
        for name in ("plan", "commit")
    )
    assert len(loads) == plan["slices"] > 1
    assert commit["status"] == "loaded"
    assert lab.sql(f"SELECT count(*) FROM {lab_house.schema}.flights") == [[str(commit["rows_written"])]]
    ids = {commit["run_id"], plan["run_id"], *(r["run_id"] for r in run_reports(loads))}
    assert len(ids) == 1


def run_reports(tasks: list) -> list[dict]:  # type: ignore[type-arg]
    return [task.xcom_pull(task_ids=task.task_id, map_indexes=task.map_index) for task in tasks]


def test_one_slice_that_fails_is_tried_again_alone_and_the_commit_happens_once(lab_house: House, lab: Lab) -> None:
    real = lab.commands / "datakit"
    once = lab_house.scratch / "failed-once"
    tries = lab_house.scratch / "tries"
    program = lab_house.scratch / "flaky"
    program.write_text(
        "#!/bin/bash\n"
        f'step=$(sed -E \'s/.*"slice":"([^"]*)".*/\\1/\' <<<"$DATAKIT_RUN")\necho "$step" >>{tries}\n'
        f'if [[ $step == 2/* && ! -e {once} ]]; then touch {once}; exit 75; fi\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    file = lab_house.root / "warehouses/environments/test.yaml"
    file.write_text(file.read_text().replace(str(real), str(program)))
    tasks = lab_house.dag(SLICED).test().get_task_instances()
    assert {task.state for task in tasks} == {"success"}
    tried = tries.read_text().splitlines()
    [count] = {int(step.partition("/")[2]) for step in tried if "/" in step}
    assert sorted(tried) == sorted(["plan", *(f"{n}/{count}" for n in range(1, count + 1)), f"2/{count}", "commit"])
    rows = int(lab.sql(f"SELECT count(*) FROM {lab_house.schema}.flights")[0][0])
    assert rows == int(lab.sql(f"SELECT count(DISTINCT flight_id) FROM {lab_house.schema}.flights")[0][0]) > 100_000
    assert lab.sql(f"SELECT count(*) FROM {lab_house.schema}._dk_loads") == [["1"]]


def test_a_group_that_is_cleared_after_its_commit_loads_nothing_and_does_not_fail(
    lab_house: House, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    # dag.test() makes a DAG run each time; a cleared one keeps its id
    monkeypatch.setattr("airflow_datakit._task.run_id_of", lambda *_: "example/the-run")
    dag = lab_house.dag(SLICED)
    assert {task.state for task in dag.test().get_task_instances()} == {"success"}
    tasks = {task.task_id: task for task in dag.test().get_task_instances()}
    assert tasks["flights.plan"].xcom_pull(task_ids="flights.plan")["status"] == "already_loaded"
    assert {name: task.state for name, task in tasks.items()} == {
        "flights.plan": "success",
        "flights.slices": "skipped",
        "flights.load": "skipped",
        "flights.commit": "skipped",
    }
    assert lab.sql(f"SELECT count(*) FROM {lab_house.schema}._dk_loads") == [["1"]]


@pytest.mark.parametrize("rule", ["all_success", "none_failed"])
def test_nothing_new_skips_the_whole_group(house: House, rule: str) -> None:
    house.fake("report(status='nothing', exit_code=99); sys.exit(99)")
    sliced = SLICED.replace("at_once=2", f"at_once=2, trigger_rule={rule!r}")
    states = {task.task_id: task.state for task in house.dag(sliced).test().get_task_instances()}
    assert set(states.values()) == {"skipped"}
