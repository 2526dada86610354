from __future__ import annotations

from .house import INGEST, House, Lab


def test_a_dataset_is_loaded_and_the_report_is_the_xcom(lab_house: House, lab: Lab) -> None:
    dag = lab_house.dag(INGEST)
    run = dag.test()
    [task] = run.get_task_instances()
    assert task.state == "success"
    report = task.xcom_pull(task_ids="ingest")
    assert report["status"] == "loaded"
    assert lab.sql(f"SELECT count(*) FROM {lab_house.schema}.airports") == [[str(report["rows_written"])]]
