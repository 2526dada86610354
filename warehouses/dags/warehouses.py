"""Everything that a warehouse takes, as a DAG for each schedule in its warehouse.yaml."""

from datetime import timedelta

from airflow_datakit import dags_from_warehouses

globals().update(dags_from_warehouses(default_args={"retries": 3, "retry_delay": timedelta(minutes=1)}))
