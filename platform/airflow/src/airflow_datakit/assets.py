"""Bronze tables as Airflow's assets: one name in every environment, so that a DAG scheduled on one runs everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import Asset

from airflow_datakit._tree import chosen_project

if TYPE_CHECKING:
    from datakit.model.specification import RunSpec


def bronze_asset(dataset: str, warehouse: str, *, home: str | Path | None = None) -> Asset:
    """Return the asset that a task updates when it has loaded ``dataset`` into ``warehouse``.

    :param home: the tree, where it is another than this Airflow's.
    :raises ConfigurationError: there is no tree.
    :raises UnknownName: there is no such warehouse, or it does not take the dataset.
    """
    config, ingest, _, _ = chosen_project(home).ingest(warehouse, dataset)
    schema = ingest.table_schema or config.table_schema
    return _asset(warehouse, f"{schema}.{dataset.partition('.')[2]}")


def asset_of(spec: RunSpec) -> Asset:
    """Return the asset of a specification's table."""
    return _asset(spec.warehouse.name, spec.table)


def _asset(warehouse: str, table: str) -> Asset:
    return Asset(name=f"{warehouse}.{table}", uri=f"datakit://{warehouse}/{table}")
