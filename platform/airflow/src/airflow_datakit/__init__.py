"""Datakits in Airflow: the engineer names a datakit, a dataset and a warehouse; the environment decides how it runs.

::

    from airflow_datakit import DatakitOperator, dags_from_warehouses, ingest_slices

    ingest = DatakitOperator.create(
        task_id="ingest_flights", datakit="sqlserver-bronze", dataset="airline.flights", warehouse="finance"
    )

Everything is imported when it is asked for: Airflow loads this package in every one of its processes, and most need
nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_datakit.assets import bronze_asset
    from airflow_datakit.operator import DatakitOperator
    from airflow_datakit.secrets import DelineaSecretsBackend
    from airflow_datakit.slices import ingest_slices
    from airflow_datakit.warehouses import dags_from_warehouses

__version__ = "0.1.0"

_MODULES = {
    "DatakitOperator": "airflow_datakit.operator",
    "DelineaSecretsBackend": "airflow_datakit.secrets",
    "bronze_asset": "airflow_datakit.assets",
    "dags_from_warehouses": "airflow_datakit.warehouses",
    "ingest_slices": "airflow_datakit.slices",
}

__all__ = [
    "DatakitOperator",
    "DelineaSecretsBackend",
    "__version__",
    "bronze_asset",
    "dags_from_warehouses",
    "ingest_slices",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULES[name]), name)
